"""`probe evaluate`: how faithful saliency methods are on a set of texts, as a table with confidence intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.dashboard.explain_options import Places
from probe.dashboard.failure import say
from probe.dashboard.inputs import is_many, read_many
from probe.dashboard.source import read_file
from probe.dashboard.terminal import out, quiet_stdout, working
from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console


def evaluate(
    source: Path,
    model: str,
    device: str,
    settings: dict[str, Any],
    *,
    count: int | None,
    html: Path | None,
    as_json: bool,
    command: str,
) -> int:
    """Evaluate methods on the texts of a file or folder.

    Args:
        source: A folder, a `.jsonl` file, or a text file with a text a line.
        model: Name for `probe.load`.
        device: `auto`, `cpu`, `cuda`, …
        settings: Of `ex.evaluate`; what is None is left to its default.
        count: Take so many texts, drawn with the seed; None for all.
        html: Where to write a report, or None.
        as_json: Print JSON instead of a table.
        command: The command line, kept in the result.

    Returns:
        0.
    """
    Places(html=html).check()
    texts = _texts(source)
    given = {name: value for name, value in settings.items() if value is not None}
    if count is not None and count < len(texts):
        import numpy as np

        order = np.random.default_rng(given.get("seed", 0)).permutation(len(texts))[:count]
        texts = [texts[int(i)] for i in order]
    with quiet_stdout(), working(f"evaluating on {len(texts)} texts:") as show:
        import probe
        from probe import explainers as ex
        from probe.dashboard.provenance import stamp

        loaded = probe.load(model, device=device)
        result = ex.evaluate(loaded, texts, progress=show, **given)
        stamp(result, loaded)
    result.attrs["command"] = command
    told = ex.verbalization(result)
    if html is not None:
        from probe import viz

        viz.report(result, html, title=f"probe evaluate · {model}", texts=told)
        say(f"report written: {html}")
    if as_json:
        from probe.dashboard.as_json import dataset, emit

        emit(dataset(result.drop_vars("values")))
    else:
        _show(out(), result, [str(text) for text in told["text"].values])
    return 0


def _texts(source: Path) -> list[str]:
    if is_many(str(source)):
        return [item.text for item in read_many(str(source))]
    if not source.exists():
        raise InputError(f"no such file: {source} (expected a folder, a .jsonl file, or a text a line)")
    return [line.strip() for line in read_file(source).splitlines() if line.strip()]


def _show(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    from rich.table import Table

    for sentence in sentences:
        console.print(sentence)
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("measure")
    table.add_column("better")
    for method in result["explainer"].values:
        table.add_column(str(method).replace("_", " "), justify="right")
    for i, measure in enumerate(result["measure"].values):
        cells = [
            f"{mean:.2f} [{low:.2f}, {high:.2f}]" if mean == mean else "–"
            for mean, low, high in zip(
                *(result[n].values[:, i] for n in ("mean", "low", "high")), strict=True
            )
        ]
        table.add_row(str(measure), str(result["better"].values[i]), *cells)
    console.print(table)
    level = f"{100 * float(result.attrs['level']):.0f}%"
    console.print(
        f"{result.attrs['texts']} texts; brackets: {level} confidence (bootstrap over texts)", style="dim"
    )
