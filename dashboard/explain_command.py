"""`probe explain`: a text, a model, and what the model's answer rests on, in words, colours and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.dashboard.explain_image import explain_image, is_picture
from probe.dashboard.explain_options import TEXT_MODEL, Places, Words
from probe.dashboard.failure import say
from probe.dashboard.source import read_source
from probe.dashboard.terminal import busy, out, quiet_stdout
from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def explain(
    source: str,
    model: str,
    device: str,
    parameters: dict[str, Any],
    *,
    words: Words = Words(),
    places: Places = Places(),
    compare: str | None = None,
    calibration: Path | None = None,
    command: str = "",
) -> int:
    """Explain one text, or one picture, and show the result.

    Args:
        source: Text, file or `-`.
        model: Name for `probe.load`; "auto" is the default for the kind of source.
        device: `auto`, `cpu`, `cuda`, …
        parameters: Of `saliency`; what is None is left to its default.
        words: How the result becomes sentences.
        places: Where it goes.
        compare: Methods joined by commas, to be shown beside each other; None for one.
        calibration: What `probe calibrate` wrote, to run the model under ACT.
        command: The command line, kept in the result.

    Returns:
        0.
    """
    places.check()
    words.check()
    if is_picture(source):
        return explain_image(source, model, device, parameters, words=words, places=places, command=command)
    model = TEXT_MODEL if model == "auto" else model
    text = read_source(source)
    given = {name: value for name, value in parameters.items() if value is not None}
    runs = [given | {"method": name} if name else given for name in _methods(compare, given)]
    with quiet_stdout(), busy(f"explaining with {model}"):
        found = _compute(text, model, device, runs, words, calibration)
    for result, _ in found:
        result.attrs["command"] = command
    _write(found, places, f"probe explain · {model}")
    if places.as_json:
        from probe.dashboard import as_json as documents

        each = [documents.explanation(result, told) for result, told in found]
        documents.emit(each[0] if compare is None else {"compared": each, "agreement": _agreement(found)})
    else:
        _show(found)
    if "calibration" in found[0][0].attrs:
        say(found[0][0].attrs["calibration"])
    for path in (places.html, places.markdown):
        if path is not None:
            say(f"report written: {path}")
    return 0


def _methods(compare: str | None, given: dict[str, Any]) -> list[str]:
    if compare is None:
        return [""]
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(f"--compare {compare}, expected two or more different methods joined by commas")
    if "method" in given:
        raise InputError("--compare names the methods: leave --method out")
    return names


def _compute(
    text: str,
    model: str,
    device: str,
    runs: list[dict[str, Any]],
    words: Words,
    calibration: Path | None,
) -> list[tuple[xr.Dataset, xr.Dataset]]:
    import probe
    from probe import explainers as ex
    from probe.dashboard.calibrate_command import under
    from probe.dashboard.provenance import stamp

    loaded, write, found = probe.load(model, device=device), words.writer(), []
    for parameters in runs:
        with under(calibration, loaded) as steered:
            result = ex.saliency(loaded, text, **parameters)
        result.attrs |= {"calibration": steered} if steered else {}
        stamp(result, loaded)
        told = write(result)
        spent = ("verbalizer", "server", "prompt_tokens", "completion_tokens", "cost_usd", "fallback")
        result.attrs |= {name: told.attrs[name] for name in spent if name in told.attrs}
        found.append((result, told))
    return found


def _sentences(told: xr.Dataset) -> list[str]:
    return [str(sentence) for sentence in told["text"].values]


def _write(found: list[tuple[xr.Dataset, xr.Dataset]], places: Places, title: str) -> None:
    if places.html is not None:
        from probe import viz

        told: Any = found[0][1] if len(found) == 1 else [a["sentence"] for a in _agreement(found)]
        viz.report([result for result, _ in found], places.html, title=title, texts=told)
    if places.markdown is not None:
        from probe import viz

        pages = [viz.markdown(result, _sentences(told)) for result, told in found]
        places.markdown.write_text("\n".join(pages), encoding="utf-8")


def _show(found: list[tuple[xr.Dataset, xr.Dataset]]) -> None:
    from probe.dashboard.render import show_explanation

    console = out()
    for result, told in found:
        show_explanation(console, result, _sentences(told))
        if len(found) > 1:
            console.print()
    if len(found) > 1:
        for pair in _agreement(found):
            console.print(pair["sentence"])


def _agreement(found: list[tuple[xr.Dataset, xr.Dataset]]) -> list[dict[str, Any]]:
    from probe.explainers._verbalize.agreement import agreement

    return agreement([result for result, _ in found])
