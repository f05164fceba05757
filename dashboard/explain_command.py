"""`probe explain`: a text, a model, and what the model's answer rests on, in words, colours and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.dashboard.failure import say
from probe.dashboard.source import read_source
from probe.dashboard.terminal import busy, out, quiet_stdout
from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def check_page(path: Path | None) -> None:
    """Refuse, before any work, a place where no report can be written.

    Args:
        path: Of the HTML file, or None.

    Raises:
        InputError: A folder, or a file in a folder that does not exist.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"--html {path} is a folder, expected a file name such as {path / 'report.html'}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--html {path}: the folder {path.absolute().parent} does not exist: make it first")


def explain(
    source: str,
    model: str,
    device: str,
    html: Path | None,
    as_json: bool,
    parameters: dict[str, Any],
    calibration: Path | None = None,
) -> int:
    """Explain one text and show the result.

    Args:
        source: Text, file or `-`.
        model: Name for `probe.load`.
        device: `auto`, `cpu`, `cuda`, …
        html: Where to write a report, or None.
        as_json: Print JSON instead of words.
        parameters: Of `saliency`; what is None is left to its default.
        calibration: What `probe calibrate` wrote, to run the model under ACT.

    Returns:
        0.
    """
    check_page(html)
    text = read_source(source)
    given = {name: value for name, value in parameters.items() if value is not None}
    if calibration is not None and given.get("method") in ("integrated_gradients", "gradient_x_input"):
        raise InputError(
            f"--method {given['method']} needs gradients, and none flow through a calibrated head: use occlusion or "
            "attention_received with --calibration"
        )
    with quiet_stdout(), busy(f"explaining with {model}"):
        result, words = _compute(text, model, device, given, calibration)
    if html is not None:
        from probe import viz

        viz.report(result, html, title=f"probe explain · {model}", texts=words)
    if as_json:
        from probe.dashboard import as_json as documents

        documents.emit(documents.explanation(result, words))
    else:
        from probe.dashboard.render import show_explanation

        show_explanation(out(), result, [str(sentence) for sentence in words["text"].values])
    if "calibration" in result.attrs:
        say(result.attrs["calibration"])
    if html is not None:
        say(f"report written: {html}")
    return 0


def _compute(
    text: str, model: str, device: str, parameters: dict[str, Any], calibration: Path | None
) -> tuple[xr.Dataset, xr.Dataset]:
    import probe
    from probe import explainers as ex
    from probe.dashboard.calibrate_command import under
    from probe.dashboard.provenance import stamp

    loaded = probe.load(model, device=device)
    with under(calibration, loaded) as told:
        result = ex.saliency(loaded, text, **parameters)
    result.attrs |= {"calibration": told} if told else {}
    stamp(result, loaded)
    return result, ex.verbalization(result)
