"""What each layer attends to: a strip of maps from the first layers of a network to its last."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probe.explainers.spec import Choice, Flag, Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr
    from torch import nn

    from probe.models.load import LoadedModel

__all__ = ["layer_focus"]

Floats = NDArray[np.float32]


@explainer(
    title="What each layer attends to",
    shape="runs",
    kind="image_overlay",
    references=(
        "Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv 1610.02391)",
        "Draelos and Carin, HiResCAM, 2020 (arXiv 2011.08891): gradient × activation, place by place",
        "Hu, Shen and Sun, Squeeze-and-Excitation Networks, CVPR 2018 (arXiv 1709.01507); Woo et al., CBAM, ECCV 2018: gates",
    ),
)
def layer_focus(
    model: "LoadedModel | nn.Module",
    picture: Any,
    *,
    layers: Annotated[
        str | None,
        Text("names or patterns of modules, joined by commas; left open: the last convolution of each size"),
    ] = None,
    method: Annotated[
        str,
        Choice(
            "gradcam", "gradient_x_activation", "activation", "gradient", help="how a layer's map is made"
        ),
    ] = "gradient_x_activation",
    target: Annotated[
        str | None, Text("name or number of the class; left open: the network's own answer")
    ] = None,
    gates: Annotated[bool, Flag("show spatial attention gates of the network as maps of their own")] = True,
    most: Annotated[int, Interval(1, 16, "layers shown at most, evenly chosen")] = 7,
) -> "xr.Dataset":
    """Where each layer of a convolutional network finds what speaks for a class, from the first layers to the last.

    Grad-CAM weighs a layer's channels by their mean gradient, which fits late layers, where a channel is a thing; place
    by place (gradient × activation, the positive part of the sum over channels) the map holds at every depth. Maps are laid on
    the picture by the centres of their cells' receptive fields where these are known.

    Args:
        model: from `probe.load`, for pictures; or a bare module with a prepared tensor as picture.
        picture: a file, a picture of Pillow, an array, or a prepared tensor [1, C, H, W].
        layers: as of `probe.maps`.
        method: "activation" is the mean size over channels, "gradient" that of the gradient.
        target: see above.
        gates: found by structure, as `probe.maps` does.
        most: see above.

    Returns:
        image_overlay: focus(map, row, column), each from 0 to 1, with name(map) the module's, signed(map) False, and
        cells(map), the number of cells of the layer's own map. Attributes beyond the kind's: prediction,
        prediction_probability, channel_gates (names of modules with squeeze-excite gates).

    Raises:
        InputError: a picture, a target or a layer that cannot be used.
        ModelError: a network without maps or gradients.
    """
    import torch
    import xarray as xr

    import probe
    from probe.explainers._relevance.subject import open_subject
    from probe.record import strings

    subject = open_subject(model, picture, target)
    convolutions = [n for n, m in subject.model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    asked = [name.strip() for name in layers.split(",")] if layers else convolutions
    record = probe.maps(
        subject.model,
        subject.inputs,
        layers=asked or "last-conv",
        gradient_of=subject.target,
        gates="auto" if gates else (),
    )
    names, maps, cells = _strip(record, layers is not None, method, most, subject.view.shape[:2])
    result = xr.Dataset(
        {
            "focus": (("map", "row", "column"), np.stack(maps)),
            "picture": (("row", "column", "colour"), subject.view),
            "cells": ("map", np.array(cells, dtype=np.int32)),
        },
        coords={"name": ("map", strings(names)), "signed": ("map", np.zeros(len(names), dtype=bool))},
    )
    gated = [str(d.attrs["module"]) for d in _groups(record, "gates") if "channel_gate" in d]
    result.attrs = subject.answer() | {
        "unit": "1",
        "value": "focus",
        "method": method,
        "channel_gates": gated,
    }
    return result


def _strip(
    record: Any, asked: bool, method: str, most: int, shape: tuple[int, ...]
) -> tuple[list[str], list[Floats], list[int]]:
    """Names, maps on the picture and numbers of cells: of the layers, then of the spatial gates."""
    shown = _groups(record, "maps")
    chosen = shown if asked else _last_of_each_size(shown)
    chosen = [chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, most).round().astype(int))]
    names = [str(data.attrs["module"]) for data in chosen]
    maps = [_laid(_map(data, method), data, shape) for data in chosen]
    cells = [data.sizes["row"] * data.sizes["column"] for data in chosen]
    for data in _groups(record, "gates"):
        if "spatial_gate" in data:
            names.append(f"gate of {data.attrs['module'] or 'the network'}")
            maps.append(_laid(data["spatial_gate"].values[0], data, shape))
            cells.append(int(data["spatial_gate"][0].size))
    return names, maps, cells


def _groups(record: Any, group: str) -> "list[xr.Dataset]":
    return [node.to_dataset() for node in record[group].children.values()] if group in record.children else []


def _last_of_each_size(found: "list[xr.Dataset]") -> "list[xr.Dataset]":
    """Of consecutive layers whose maps have one size, the last; maps of a single cell are left out."""
    sizes = [(data.sizes["row"], data.sizes["column"]) for data in found]
    kept = [
        data
        for number, data in enumerate(found)
        if sizes[number] != (1, 1) and (number + 1 == len(found) or sizes[number + 1] != sizes[number])
    ]
    return kept or found


def _map(data: "xr.Dataset", method: str) -> Floats:
    """One layer's map [rows, columns], from 0 up."""
    activation, gradient = (data[name].values[0].astype(np.float64) for name in ("activation", "gradient"))
    made = {
        "gradcam": lambda: np.clip((gradient.mean((1, 2))[:, None, None] * activation).sum(0), 0, None),
        "gradient_x_activation": lambda: np.clip((gradient * activation).sum(0), 0, None),
        "activation": lambda: np.abs(activation).mean(0),
        "gradient": lambda: np.abs(gradient).mean(0),
    }
    return np.asarray(made[method](), dtype=np.float32)


def _laid(map_: Floats, data: "xr.Dataset", shape: tuple[int, ...]) -> Floats:
    """A layer's map on the picture's pixels, linear between the centres of its cells, scaled to a maximum of 1."""
    found = np.asarray(map_, dtype=np.float64)
    for axis, name in ((0, "y"), (1, "x")):
        count, size = found.shape[axis], shape[axis]
        centres = data[name].values if name in data.coords else (np.arange(count) + 0.5) * size / count
        at = np.arange(size) + 0.5
        lines = [np.interp(at, centres, line) for line in np.moveaxis(found, axis, 0).reshape(count, -1).T]
        found = np.stack(lines).T if axis == 0 else np.stack(lines)
    return np.asarray(found / (found.max() or 1.0), dtype=np.float32)
