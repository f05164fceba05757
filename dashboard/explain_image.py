"""`probe explain photo.jpg`, and `probe run` for what explains pictures: the answer, its areas, in words and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.dashboard.explain_options import Places, Words
from probe.dashboard.failure import say
from probe.dashboard.source import IMAGE_SUFFIXES
from probe.dashboard.terminal import busy, clean, out, quiet_stdout
from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from probe.explainers.spec import Explainer

DEFAULT = "efficientnet-lite0"
_VISION_LANGUAGE = "vqa"
_ASKING = ("carve", "image_attention", "refam")
_TEXT_ONLY = ("baseline", "n_steps", "layers", "batch_size", "max_tokens")
_WIDTH = 48


def is_picture(source: str) -> bool:
    """Whether a command line's argument names a file of a picture, there or not."""
    blank = "\n" in source or len(source) > 1024
    return (
        not blank and source.lower().endswith(IMAGE_SUFFIXES) and (Path(source).exists() or " " not in source)
    )


def explain_image(
    source: str,
    model: str,
    device: str,
    parameters: dict[str, Any],
    *,
    words: Words = Words(),
    places: Places = Places(),
    command: str = "",
) -> int:
    """Explain one picture and show the result.

    Args:
        source: File of the picture.
        model: Name for `probe.load`; "auto" is EfficientNet-Lite0, or our own vision-language model where something is asked.
        device: `auto`, `cpu`, `cuda`, …
        parameters: Of the command; what is None is left to its default.
        words: How the result becomes sentences.
        places: Where it goes; JSON has the answer, the areas and the sentences (`probe run relevance --json` the maps too).
        command: The command line, kept in the result.

    Returns:
        0.

    Raises:
        InputError: An option that only texts have.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    for name in _TEXT_ONLY:
        if name in given:
            raise InputError(
                f"--{name.replace('_', '-')} belongs to texts; `probe run relevance --help` lists the options of pictures"
            )
    from probe import explainers as ex

    if "ask" in given and len(given) > 1:
        raise InputError(
            f"--{next(n for n in given if n != 'ask').replace('_', '-')} does not go with --ask; see `probe run carve --help`"
        )
    method = ex.registry()["carve" if "ask" in given else "relevance"]
    result = _compute(method, source, model, device, given)
    result.attrs["command"] = command
    told = words.writer()(result)
    _write(result, told, places, f"probe explain · {Path(source).name}")
    if places.as_json:
        from probe.dashboard import as_json as documents

        documents.emit(summary(result, told))
    else:
        show_picture(out(), result, [str(text) for text in told["text"].values])
    return _said(places)


def run_picture(
    explainer: Explainer, source: str, options: list[str], html: Path | None, as_json: bool
) -> int:
    """Run an explainer of pictures and show its result.

    Args:
        explainer: One that runs on a picture.
        source: File of the picture.
        options: `--model NAME`, `--device NAME`, and the explainer's own parameters.
        html: Where to write a report, or None.
        as_json: Print JSON instead of words.

    Returns:
        0.
    """
    from probe.dashboard.run_command import parse

    own = {"model": "auto", "device": "auto"}
    rest: list[str] = []
    words_left = list(options)
    while words_left:
        word = words_left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in own:
            if not equals and not words_left:
                raise InputError(f"{word} needs a value")
            own[name] = value if equals else words_left.pop(0)
        else:
            rest.append(word)
    places = Places(html=html, as_json=as_json)
    places.check()
    result = _compute(explainer, source, own["model"], own["device"], parse(explainer, rest))
    words = Words().writer()(result)
    _write(result, words, places, f"probe run {explainer.name} · {Path(source).name}")
    if as_json:
        from probe.dashboard import as_json as documents

        documents.emit({"result": documents.dataset(result), "sentences": documents.statements(words)})
    else:
        show_picture(out(), result, [str(text) for text in words["text"].values])
    return _said(places)


def _compute(
    explainer: Explainer, source: str, model: str, device: str, parameters: dict[str, Any]
) -> xr.Dataset:
    name = (_VISION_LANGUAGE if explainer.name in _ASKING else DEFAULT) if model == "auto" else model
    if not Path(source).is_file():
        raise InputError(
            f"{source} is a folder, expected a picture"
            if Path(source).is_dir()
            else f"no such file: {source}"
        )
    with quiet_stdout(), busy(f"explaining with {name}"):
        import probe
        from probe._pictures import read_picture
        from probe.dashboard.provenance import stamp

        read_picture(source)  # a damaged file is told before a model is loaded
        loaded = probe.load(name, device=device)
        result: xr.Dataset = explainer.function(loaded, source, **parameters)
        stamp(result, loaded)
        return result


def _write(result: xr.Dataset, words: xr.Dataset, places: Places, title: str) -> None:
    if places.html is not None:
        from probe import viz

        viz.report(result, places.html, title=title, texts=words)


def _said(places: Places) -> int:
    if places.html is not None:
        say(f"report written: {places.html}")
    return 0


def summary(result: xr.Dataset, words: xr.Dataset) -> dict[str, Any]:
    """A picture's result for programs, without its maps: answer, areas, sentences, faithfulness, provenance.

    Args:
        result: An `image_overlay` of `relevance`.
        words: Its verbalization.
    """
    from probe.dashboard import as_json as documents

    attrs = documents.attributes(result)
    fields = ("top", "left", "bottom", "right", "size", "share")
    areas = [
        {field: result[f"area_{field}"].values[number] for field in fields}
        for number in range(result.sizes["area"])
    ]
    curves = {str(n): v.values for n, v in result.variables.items() if v.dims == ("step",)}
    said = {"prediction", "prediction_probability", "target", "target_probability", "input", "kind", "value"}
    return {
        "input": attrs["input"],
        "prediction": {"text": attrs["prediction"], "probability": attrs["prediction_probability"]},
        "target": {"text": attrs["target"], "probability": attrs["target_probability"]},
        "areas": areas,
        "sentences": documents.statements(words),
        "faithfulness": curves | {n: v for n, v in attrs.items() if "_auc" in n or "faithfulness" in n}
        if curves
        else None,
        "provenance": {name: value for name, value in attrs.items() if name not in said},
    }


def show_picture(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    """Print the sentences, and on a terminal the picture in coloured blocks with its areas bright.

    Args:
        console: Where to.
        result: An `image_overlay`.
        sentences: Its verbalization.
    """
    if console.is_terminal and "area_of" in result.variables:
        for line in blocks(result, min(_WIDTH, console.width - 2)):
            console.print(line)
        console.print()
    for sentence in sentences:
        console.print(clean(sentence))
    console.print(f"{result.attrs['model']}, {result.attrs['method']}", style="dim")


def blocks(result: xr.Dataset, width: int) -> list[Any]:
    """The picture in half blocks, two pixels a character; outside the areas in faint grey.

    Args:
        result: An `image_overlay` with areas.
        width: Characters a line.
    """
    from PIL import Image
    from rich.text import Text

    picture, inside = result["picture"].values, result["area_of"].values > 0
    if inside.any():
        grey = picture.mean(-1, keepdims=True) * 0.35 + 20
        picture = np.where(inside[..., None], picture, grey).astype(np.uint8)
    height = max(2, round(width * picture.shape[0] / picture.shape[1] / 2) * 2)
    small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        line = Text()
        for above, below in zip(upper, lower, strict=True):
            line.append(
                "▀", style=f"rgb({above[0]},{above[1]},{above[2]}) on rgb({below[0]},{below[1]},{below[2]})"
            )
        lines.append(line)
    return lines
