"""`probe scanpath`: where people would look next, over the objects of a picture or of a recorded trial; and the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.dashboard.failure import say
from probe.dashboard.terminal import busy, clean, out, quiet_stdout, working

if TYPE_CHECKING:
    import xarray as xr

    from probe.dashboard.scanpath_options import Scanpath


def scanpath(request: Scanpath) -> int:
    """Predict a path, or print an evaluation.

    Args:
        request: The options, checked.

    Returns:
        0.
    """
    from probe.dashboard.explain_options import Places

    Places(html=request.html, as_json=request.json).check()
    if request.table is not None:
        return _table(request)
    with quiet_stdout(), busy("predicting"):
        from probe import explainers as ex
        from probe.dashboard.provenance import stamp

        model, result = ex.load_oat(), _predict(request)
        stamp(result, model)
        words = ex.verbalization(result)
    if request.html is not None:
        from probe import viz

        viz.report(result, request.html, title=f"probe scanpath · {result.attrs['input']}", texts=words)
    if request.json:
        from probe.dashboard import as_json as documents

        documents.emit({"result": documents.dataset(result.drop_vars("picture", errors="ignore")),
                        "sentences": documents.statements(words)})  # fmt: skip
    else:
        _show(result, words)
    if request.html is not None:
        say(f"report written: {request.html}")
    return 0


def _predict(request: Scanpath) -> xr.Dataset:
    from probe import explainers as ex

    own: dict[str, Any] = {"samples": request.samples, "tell_place": request.tell_place, "seed": request.seed}
    if request.data is not None:
        found: xr.Dataset = ex.scanpath_of_trial(ex.load_oat(), request.data, request.trial, **own)
        return found
    boxes = None if request.objects is None else str(request.objects)
    own |= {"boxes": boxes, "propose_by": request.propose, "objects": request.count}
    free: xr.Dataset = ex.scanpath(
        ex.load_oat(), request.picture, target=request.target, way=request.way, **own
    )
    return free


def _show(result: xr.Dataset, words: xr.Dataset) -> None:
    console = out()
    for sentence in words["text"].values:
        console.print(clean(str(sentence)))
    if "note" in result.attrs:
        console.print(str(result.attrs["note"]), style="dim")
    for path in range(result.sizes["path"]):
        stops = " ".join(str(s) for s in result["stop"].values[path] if s >= 0)
        console.print(f"{result['name'].values[path]}: {stops or 'no fixation'}", style="dim")


def _table(request: Scanpath) -> int:
    with quiet_stdout(), working("evaluating") as step:
        from probe import explainers as ex

        def progress(done: int, of: int) -> None:
            step(done, of, "")

        if request.table == "search":
            found = ex.search_table(
                ex.load_oat(), trials=request.limit or 400, seed=request.seed, progress=progress
            )
        elif request.table == "sti":
            found = ex.sti_table(request.data, limit=request.limit, seed=request.seed, progress=progress)
        else:
            found = ex.viewing_table(
                ex.load_oat(), request.data, limit=request.limit, seed=request.seed, progress=progress
            )
    if request.json:
        from probe.dashboard.as_json import dataset, emit

        emit(dataset(found))
        return 0
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for column in ("", *map(str, found["measure"].values)):
        table.add_column(column, justify="right" if column else "left")
    for name, row in zip(found["prediction"].values, found["value"].values, strict=True):
        table.add_row(str(name), *("" if v != v else f"{v:.3f}".replace("-", "−") for v in row))
    console = out()
    console.print(table)
    console.print(str(found.attrs["note"]), style="dim")
    return 0
