"""From a network and a picture to the labelled result."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers._relevance.areas import Area, attention_areas
from probe.explainers._relevance.context import Rules, context_saliency
from probe.explainers._relevance.faithful import picture_curves
from probe.explainers._relevance.subject import Subject, open_subject
from probe.record import strings

Floats = NDArray[np.float32]
NAMES = {"sr": "Salient relevance (SR)", "blurred": "Relevance, blurred (control)"}


def explain_picture(
    loaded: Any, picture: Any, target: str | None, method: str, settings: dict[str, Any]
) -> xr.Dataset:
    """Relevance, its blur and its SR map (see `relevance`)."""
    with torch.inference_mode(False), torch.enable_grad():
        subject = open_subject(loaded, picture, target)
        found = relevance_map(subject, loaded, method)
    channels = found.relevance[0].detach().float().cpu().numpy()
    total = np.asarray(channels.sum(0), dtype=np.float32)
    evidence = shown_part(channels, settings["positive"], settings["channels"])
    maps = {"sr": context_saliency(evidence, settings["rules"])}
    maps["blurred"] = blur(evidence, settings["sigma"])
    chosen = maps[settings["outline"]]
    numbers, areas = attention_areas(chosen, total if total.max() > 0 else np.abs(total))
    result = _dataset(subject, total, maps, numbers, areas)
    result.attrs |= _account(found, method) | {"outlined": NAMES[settings["outline"]]}
    if settings["faithfulness"] is not None and math.isfinite(result.attrs["target_probability"]):
        curves = picture_curves(subject, chosen, **settings["faithfulness"])
        result = xr.merge([result, curves], combine_attrs="no_conflicts", join="exact")
    return result


def relevance_map(subject: Subject, loaded: Any, method: str) -> Any:
    """What `relevance_of` gives for a method of `relevance`: a composite of LRP, or one of captum's family."""
    from probe.explainers._lrp import relevance_of
    from probe.explainers._relevance import GRADIENTS

    if method in GRADIENTS:
        return relevance_of(subject.model, subject.inputs, subject.target, method=method)
    composite: Any = method
    if method == "epsilon_gamma_box":
        from probe.explainers._lrp.composites import epsilon_gamma_box

        composite = epsilon_gamma_box(*_bounds(subject, loaded))
    return relevance_of(subject.model, subject.inputs, subject.target, method="lrp", composite=composite)


def _bounds(subject: Subject, loaded: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest prepared values that a picture can have, [1, C, 1, 1]; of a bare tensor its own."""
    processor: Any = getattr(loaded, "processor", None)
    if not hasattr(processor, "prepared"):
        x = subject.inputs.detach()
        return x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    black, white = (np.full((1, 1, 3), value, dtype=np.uint8) for value in (0, 255))
    return processor.prepared(black).to(subject.inputs), processor.prepared(white).to(subject.inputs)


def shown_part(channels: Floats, positive: bool, way: str) -> Floats:
    """What is passed on to blur and SR, from 0 up: the evidence for the target, or all of it.

    Args:
        channels: [C, H, W] relevance.
        positive: what speaks for the target alone; else its size, whatever the sign.
        way: "sum" adds the channels first ([H, W]); "each" keeps them ([H, W, C]), as the published code does.
    """
    values = channels.sum(0) if way == "sum" or channels.shape[0] == 1 else channels.transpose(1, 2, 0)
    return np.asarray(np.clip(values, 0, None) if positive else np.abs(values), dtype=np.float32)


def blur(evidence: Floats, sigma: float) -> Floats:
    """Gaussian blur of [H, W] or [H, W, C] (channels added), scaled to a maximum of 1; σ in pixels."""
    from scipy.ndimage import gaussian_filter

    flat = evidence.sum(-1) if evidence.ndim == 3 else evidence
    found = gaussian_filter(flat.astype(np.float64), sigma, mode="nearest")
    return np.asarray(found / (found.max() or 1.0), dtype=np.float32)


def _dataset(
    subject: Subject,
    relevance: Floats,
    maps: dict[str, Floats],
    numbers: NDArray[np.int16],
    areas: list[Area],
) -> xr.Dataset:
    names = ["Relevance", *(NAMES[name] for name in maps)]
    result = xr.Dataset(
        {
            "relevance": (("map", "row", "column"), np.stack([relevance, *maps.values()])),
            "picture": (("row", "column", "colour"), subject.view),
            "area_of": (("row", "column"), numbers),
        },
        coords={"name": ("map", strings(names)), "signed": ("map", np.arange(len(names)) == 0)},
    )
    for field in ("top", "left", "bottom", "right", "size", "share"):
        kind = np.float64 if field in ("size", "share") else np.int32
        result[f"area_{field}"] = ("area", np.array([getattr(a, field) for a in areas], dtype=kind))
    result.attrs = subject.answer() | {
        "unit": "logit for the relevance, 1 for the others",
        "value": "relevance",
        "target_index": subject.target,
        "score_explained": "the output before the softmax (logit)",
        "score_value": float(subject.logits[subject.target]),
        "seen": [round(float(edge), 2) for edge in subject.box],
    }
    return result


def _account(found: Any, method: str) -> dict[str, Any]:
    """Where the score went, and a note where the map does not add up to it."""
    account = asdict(found.conservation)
    ratio = found.conservation.ratio
    notes: dict[str, Any] = {
        "method": method,
        "conservation": json.dumps({name: round(value, 6) for name, value in account.items()}),
        "conservation_ratio": ratio,
        "conserving": bool(found.conserving),
        "sound": bool(found.conservation.sound or not found.conserving),
    }
    if found.conserving and not found.conservation.sound:
        notes["note"] = (
            f"Not sound as shares: the map adds up to {account['input']:.3g}, the score it divides is "
            f"{account['output']:.3g} (ratio {ratio:.2g}, outside 0.5 to 1.5; biases hold {account['biases']:.3g}). "
            "It ranks places."
        )
    return notes


def rules_of(options: dict[str, Any]) -> Rules:
    """The settings of context-aware saliency from the parameters of `relevance`."""
    scales = {"paper": 7, "shrinking": 0}
    if options["patch"] not in scales:
        raise InputError(f"patch = {options['patch']!r}, expected one of {', '.join(scales)}")
    return replace(
        Rules(),
        size=int(options["size"]),
        nearest=int(options["nearest"]),
        falloff=options["falloff"],
        patch=scales[options["patch"]],
        threshold=options["threshold"],
        relative=options["relative"],
        foci=options["foci"],
        lab=False,
    )
