"""`probe capture`: run a model once over a text and keep exact statistics of its attention in a record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from probe.dashboard.failure import FAILED, say
from probe.dashboard.source import read_file
from probe.dashboard.terminal import out, quiet_stdout, working
from probe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr


def capture(
    model: str,
    texts: list[str],
    files: list[Path],
    store: Path,
    stats: str,
    *,
    layers: str | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> int:
    """Capture and print a summary with the validity report.

    Args:
        model: Name for `probe.load`.
        texts: Texts, a sample each.
        files: Text files, a sample each.
        store: Folder of the record.
        stats: Names, joined by commas.
        layers: Numbers or patterns of module names, joined by commas; None for all.
        overwrite: Replace a record that is already there.
        device: `auto`, `cpu`, `cuda`, …
        as_json: Print JSON instead of words.

    Returns:
        0, or 1 if the record failed its own checks.
    """
    samples = [*texts, *(read_file(path) for path in files)]
    if not samples:
        raise InputError("nothing to capture: give --text TEXT or --text-file FILE")
    if store.exists() and not overwrite:
        raise InputError(f"{store} exists already: choose another name, or give --overwrite")
    begun = time.perf_counter()
    with quiet_stdout(), working(f"capturing {model}:") as step:
        import probe

        loaded = probe.load(model, device=device)
        record = probe.capture(
            loaded,
            samples,
            stats=[name.strip() for name in stats.split(",") if name.strip()],
            store=store,
            layers=None if layers is None else [_layer(part) for part in layers.split(",")],
            overwrite=overwrite,
            progress=step,
        )
    facts = summary(record, store) | {"seconds": round(time.perf_counter() - begun, 2)}
    return _show(record, facts, as_json)


def _layer(part: str) -> int | str:
    part = part.strip()
    return int(part) if part.isdecimal() else part


def summary(record: xr.DataTree, store: Path) -> dict[str, object]:
    """What a record holds, in figures.

    Args:
        record: An open record.
        store: Its folder.

    Returns:
        Model, sizes, statistics, and megabytes on disk.
    """
    from probe.record import towers

    tower = record[towers(record)[0]]
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {
        "record": str(store),
        "model": record.attrs["model"],
        "samples": tower.sizes["sample"],
        "layers": tower.sizes["layer"],
        "heads": tower.sizes["head"],
        "tokens": int(record["tokens"].to_dataset()["valid"].sum()),
        "stats": list(record.attrs["stats"]),
        "backend": record.attrs["backend"],
        "device": record.attrs["device"],
        "megabytes": round(size / 1e6, 2),
    }


def _show(record: xr.DataTree, facts: dict[str, object], as_json: bool) -> int:
    from probe.viz.checks import read_checks

    lines = read_checks(record)
    passed = not any(line.failed for line in lines)
    if as_json:
        from dataclasses import asdict

        from probe.dashboard.as_json import emit

        emit(facts | {"passed": passed, "validity": [asdict(line) for line in lines]})
    else:
        from probe.dashboard.render import show_validity

        console = out()
        console.print(
            f"{facts['record']}: {facts['tokens']:,} tokens, "
            f"{facts['layers']} layers × {facts['heads']} heads, "
            f"{', '.join(record.attrs['stats'])}; {facts['megabytes']} MB in {facts['seconds']} s"
        )
        show_validity(console, record)
    if passed:
        return 0
    say("error: the record failed its own checks and says so; do not rely on it")
    return FAILED
