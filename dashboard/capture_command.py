"""`probe capture`: run a model once over a text and keep exact statistics of its attention in a record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probe.dashboard.capture_request import layers_of, stats_of
from probe.dashboard.failure import FAILED, say
from probe.dashboard.source import read_file
from probe.dashboard.terminal import out, quiet_stdout, working
from probe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from probe.dashboard.capture_request import Capture


def capture(asked: Capture) -> int:
    """Capture and print a summary with the validity report.

    Args:
        asked: The options of the command.

    Returns:
        0, or 1 if the record failed its own checks.
    """
    samples = [*(asked.text or []), *(read_file(path) for path in asked.text_file or [])]
    if not samples:
        raise InputError("nothing to capture: give --text TEXT or --text-file FILE")
    if asked.out.exists() and not asked.overwrite:
        raise InputError(f"{asked.out} exists already: choose another name, or give --overwrite")
    heads = _heads(asked.keep or [])
    if asked.generate and (heads or asked.resume):
        raise InputError("--generate goes without --keep and --resume")
    begun = time.perf_counter()
    with quiet_stdout(), working(f"capturing {asked.model}:") as step:
        import probe
        from probe.dashboard.calibrate_command import under

        loaded = probe.load(asked.model, device=asked.device)
        with under(asked.calibration, loaded) as told:
            record = _record(loaded, samples, asked, heads, step)
    if told:
        say(told)
    facts = summary(record, asked.out) | {"seconds": round(time.perf_counter() - begun, 2)}
    return _show(record, facts, asked.json)


def _record(
    loaded: Any, samples: list[str], asked: Capture, heads: dict[int, list[int]], step: Any
) -> xr.DataTree:
    import probe

    options: dict[str, Any] = {
        "stats": stats_of(asked.stats),
        "store": asked.out,
        "layers": layers_of(asked.layers),
        "keep_bits": asked.keep_bits,
        "overwrite": asked.overwrite,
        "progress": step,
    }
    if asked.generate:
        steps = {"max_new_tokens": asked.generate, "do_sample": False}
        return probe.capture_generation(loaded, samples, generate=steps, **options)[0]
    options |= {"grid": (asked.grid, asked.grid), "resume": asked.resume}
    options |= {"keep": "qkv", "heads": heads} if heads else {}
    return probe.capture(loaded, samples, **options)


def _heads(keep: Sequence[str]) -> dict[int, list[int]]:
    """Which heads of which layers are kept: "3:0,5" is heads 0 and 5 of layer 3."""
    found: dict[int, list[int]] = {}
    for part in keep:
        layer, _, heads = part.partition(":")
        numbers = [number.strip() for number in heads.split(",")]
        if not layer.strip().isdecimal() or not all(number.isdecimal() for number in numbers):
            raise InputError(f"--keep: got {part!r}, expected LAYER:HEADS such as 3:0,5")
        found.setdefault(int(layer), []).extend(int(number) for number in numbers)
    return found


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
