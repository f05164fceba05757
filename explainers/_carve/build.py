"""The three passes of CARVE and their result."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe._pictures import fitted, read_picture, source_of
from probe.errors import InputError
from probe.explainers._carve import contrast as sums
from probe.explainers._carve.asking import Answer, ask, depth, module_of
from probe.explainers._carve.contrast import Region, RegionRule
from probe.explainers._carve.grids import surface
from probe.record import strings

Floats = NDArray[np.floating[Any]]
SHOWN = 512
PAPER_DEPTH = (20, 25, 26)
NAMES = {
    "carve": "Contrast of the two",
    "vicrop": "Relative attention",
    "question": "Attention, question",
}


@dataclass(frozen=True)
class Settings:
    """The parameters of `carve`, as it documents them."""

    ask: str
    general: str
    method: str
    layers: str
    steps: str
    start: int
    lam: float
    normalise: bool
    keep: float
    rule: RegionRule
    margin: float
    fill: str
    answer_on: str
    max_new_tokens: int


@dataclass(frozen=True, eq=False)
class Found:
    """Where CARVE looks: map, mask, regions and the box around them, in pixels of the map; no box without contrast."""

    map: Floats
    areas: NDArray[np.int16]
    regions: list[Region]
    box: tuple[int, int, int, int] | None


def layers_of(asked: str, count: int) -> tuple[int, ...]:
    """Numbers of layers.

    Args:
        asked: "auto" (the paper's 20 to 25 where the model has them, else the same part of its depth), or "first:last", both
            included, or one number.
        count: layers of the model.

    Raises:
        InputError: not such a text, or layers beyond the model's depth.
    """
    if asked == "auto":
        first, last, least = PAPER_DEPTH
        if count < least:  # LLaVA-1.5-7B, on which the paper chose them, has 32
            first, last = min(count - 1, round(first / 32 * count)), min(count - 1, round(last / 32 * count))
        return tuple(range(first, last + 1))
    ends = asked.split(":")
    if not (1 <= len(ends) <= 2 and all(e.strip().isdecimal() for e in ends)):
        raise InputError(f"layers = {asked!r}, expected auto, a number, or first:last as 20:25")
    first, last = int(ends[0]), int(ends[-1])
    if first > last or last >= count:
        raise InputError(f"layers = {asked!r}, but the model has layers 0 to {count - 1}")
    return tuple(range(first, last + 1))


def fused(
    question: Answer, general: Answer, settings: Settings, size: tuple[int, int], shown: tuple[int, int]
) -> Floats:
    """S: the contrast of chosen steps and layers, spread over the picture and added up, [height, width]."""
    pairs = sums.paired(len(question.rows), len(general.rows), settings.steps, settings.start)
    total = np.zeros(len(question.places))
    for t, u, weight in pairs:
        q, g = (
            a.rows[s].mean(axis=1) for a, s in ((question, t), (general, u))
        )  # [layers, N], mean over heads
        if settings.method == "question":
            each = q / q.sum(-1, keepdims=True) if settings.normalise else q
        else:
            each = sums.contrast(q, g, settings.lam, normalise=settings.normalise)
        total += weight * each.sum(axis=0)
    return surface(total, question.table, question.places, size, shown)


def locate(map_: Floats, settings: Settings, side: tuple[float, float]) -> Found:
    """Mask, regions and box of a map; without a box where the map is flat."""
    nothing = np.zeros(map_.shape, np.int16)
    if sums.spread(map_) < sums.FLAT:
        return Found(map_, nothing, [], None)
    if settings.method == "vicrop":
        top, left, bottom, right = box = sums.sharpest_window(map_, side)
        nothing[top:bottom, left:right] = 1
        share = float(np.nansum(map_[top:bottom, left:right]) / np.nansum(map_))
        return Found(map_, nothing, [Region(*box, float((nothing > 0).mean()), share)], box)
    mask = sums.kept(map_, settings.keep)
    areas, regions = sums.regions(map_, mask, settings.rule)
    return Found(map_, areas, regions, sums.box_around(areas > 0, settings.margin))


def refined(picture: Any, found: Found, fill: str) -> Any:
    """The box cut out of the picture and enlarged until it covers the picture's size, everything outside the regions black.

    Args:
        picture: of Pillow.
        found: with a box, in pixels of the map, which may be smaller than the picture.
        fill: "black", or "keep" for the box as it is.
    """
    from PIL import Image

    if found.box is None:
        raise InputError("there is no contrast, so that nothing can be cut out")
    high, wide = found.map.shape
    across, down = picture.width / wide, picture.height / high
    top, left, bottom, right = found.box
    box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    if fill == "black":
        mask = Image.fromarray((found.areas > 0).astype(np.uint8) * 255).resize(
            picture.size, Image.Resampling.NEAREST
        )
        picture = Image.composite(picture, Image.new("RGB", picture.size), mask)
    part = picture.crop((box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))
    factor = max(1.0, picture.width / part.width, picture.height / part.height)
    return part.resize((round(part.width * factor), round(part.height * factor)), Image.Resampling.LANCZOS)


def build(model: Any, picture: Any, settings: Settings) -> xr.Dataset:
    """Run the passes and put the result together. See `carve`."""
    module, processor = module_of(model)
    layers = layers_of(settings.layers, depth(module))
    whole = read_picture(picture)
    if not settings.ask.strip():
        raise InputError("ask: got blanks, expected a question")
    question = ask(model, [whole], settings.ask, layers=layers, most=settings.max_new_tokens)
    general = ask(model, [whole], settings.general, layers=layers, most=settings.max_new_tokens)
    size = (whole.height, whole.width)
    shown = fitted(whole, SHOWN)
    map_ = fused(question, general, settings, size, shown)
    side = processor_side(processor) * min(1.0, SHOWN / max(size))
    if settings.method != "question" and _alike(question, general, settings):
        found = Found(map_, np.zeros(map_.shape, np.int16), [], None)
    else:
        found = locate(map_, settings, (side, side))
    cut, after = None, None
    if found.box is not None:
        cut = refined(whole, found, settings.fill)
        given = [cut] if settings.answer_on == "refined" else [whole, cut]
        after = ask(model, given, settings.ask, most=settings.max_new_tokens)
    maps = [map_]
    for answer in (question, general):
        steps = (
            slice(0, 1)
            if settings.steps == "first"
            else slice(-1, None)
            if settings.steps == "last"
            else slice(None)
        )
        maps.append(
            surface(answer.rows[steps].mean(axis=(0, 1, 2)), answer.table, answer.places, size, shown)
        )
    data = _dataset(whole, np.stack(maps), found, cut, settings)
    data.update(_diagnostics(question, general, layers, found))
    data.attrs |= _answers(model, picture, question, general, after, settings, layers)
    return data


def _alike(question: Answer, general: Answer, settings: Settings) -> bool:
    """Whether both instructions gave the same attention: λ alone would then make a map of it that is not flat."""
    pairs = sums.paired(len(question.rows), len(general.rows), settings.steps, settings.start)
    return all(
        np.allclose(question.rows[t].mean(axis=1), general.rows[u].mean(axis=1), rtol=sums.FLAT, atol=0)
        for t, u, _ in pairs
    )


def processor_side(processor: Any) -> float:
    """Side of the picture that the model sees at once, in pixels; ViCrop's smallest window."""
    stated: Any = getattr(processor.image_processor, "size", None) or {}
    sides = [
        stated.get(n) if hasattr(stated, "get") else None for n in ("height", "shortest_edge", "longest_edge")
    ]
    known = [float(s) for s in sides if s]
    return min(known[0], 448.0) if known else 336.0


def _dataset(whole: Any, maps: Floats, found: Found, cut: Any, settings: Settings) -> xr.Dataset:
    from PIL import Image

    high, wide = found.map.shape
    small = whole.resize((wide, high), Image.Resampling.LANCZOS)
    names = [NAMES[settings.method], NAMES["question"], "Attention, instruction"]
    data = xr.Dataset(
        {
            "focus": (("map", "row", "column"), maps.astype(np.float32)),
            "picture": (("row", "column", "colour"), np.asarray(small, dtype=np.uint8)),
            "area_of": (("row", "column"), found.areas),
        },
        coords={"name": ("map", strings(names)), "signed": ("map", np.zeros(3, np.bool_))},
    )
    for field in ("top", "left", "bottom", "right", "size", "share"):
        kind = np.float64 if field in ("size", "share") else np.int32
        data[f"area_{field}"] = ("area", np.array([getattr(r, field) for r in found.regions], dtype=kind))
    if cut is not None:
        fit = min(wide / cut.width, high / cut.height)
        shown = cut.resize(
            (max(1, round(cut.width * fit)), max(1, round(cut.height * fit))), Image.Resampling.LANCZOS
        )
        frame = Image.new("RGB", (wide, high), "white")
        frame.paste(shown, ((wide - shown.width) // 2, (high - shown.height) // 2))
        data["refined"] = (("row", "column", "colour"), np.asarray(frame, dtype=np.uint8))
    return data


def _diagnostics(question: Answer, general: Answer, layers: tuple[int, ...], found: Found) -> dict[str, Any]:
    """Entropy and mass of the attention to the picture, by layer; and the map's own entropy."""
    told: dict[str, Any] = {"hidden_layer": ("hidden_layer", np.array(layers))}
    for name, answer in (("question", question), ("general", general)):
        mean = answer.rows.mean(axis=2)  # [steps, layers, N]
        told[f"{name}_entropy"] = ("hidden_layer", sums.entropy(mean[-1]), {"unit": "nat", "step": "last"})
        told[f"{name}_mass"] = (
            "hidden_layer",
            mean.sum(-1).mean(0).astype(np.float64),
            {"meaning": "mean of steps"},
        )
    values = np.clip(np.nan_to_num(found.map), 0, None)
    told["map_entropy"] = (
        (),
        float(sums.entropy(values.ravel()) / np.log(max(2, values.size))),
        {"unit": "of even"},
    )
    return told


def _answers(
    model: Any, picture: Any, question: Answer, general: Answer, after: Answer | None, settings: Settings,
    layers: tuple[int, ...],
) -> dict[str, Any]:  # fmt: skip
    final = after or question
    return {
        "model": str(getattr(model, "name", type(model).__name__)),
        "unit": "ratio" if settings.method != "question" else "attention",
        "value": "focus",
        "target": final.text,
        "target_probability": final.probability,
        "prediction": final.text,
        "prediction_probability": final.probability,
        "answer_before": question.text,
        "answer_before_probability": question.probability,
        "description": general.text,
        "question": settings.ask,
        "general": settings.general,
        "contrast": after is not None,
        "answer_on": settings.answer_on,
        "image_tokens": len(question.places),
        "layers_used": [int(n) for n in layers],
        "method": f"{settings.method}, layers {layers[0]} to {layers[-1]}, {settings.steps} step"
        + ("s" if settings.steps == "all" else ""),
        "passes": 2 + (after is not None),
        "input": source_of(picture),
        "outlined": "the regions that were kept",
        "task": "visual-question-answering",
    }
