"""`probe.maps`: what a convolutional network computes at each place of a picture, its gradients and its gates."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe._facts import facts
from probe._inputs import parts
from probe.errors import InputError, ModelError
from probe.placement import input_device, ready
from probe.record.store import finite, keep
from probe.taps.cnn.gates import Gate
from probe.taps.cnn.maps import MapOutput, MapTap, channels_second
from probe.taps.cnn.receptive import Axis

if TYPE_CHECKING:
    from probe.models.load import LoadedModel

Score = int | str | Sequence[int] | Callable[[Any], Tensor]

_CENTRE = "centre of the receptive field, in pixels of the input; pixel i covers [i, i + 1)"
_EDGE = "edge of the receptive field, in pixels of the input; may lie in the padding"


def maps(
    model: "LoadedModel | torch.nn.Module",
    inputs: Tensor | Mapping[str, Any],
    *,
    layers: str | Sequence[str],
    gradient_of: Score | None = None,
    gates: str | Sequence[str] = "auto",
    store: str | Path | None = None,
    overwrite: bool = False,
) -> xr.DataTree:
    """Run a convolutional network once and record spatial maps at named modules.

    The model's outputs are bit-identical, its parameters' `.grad` and its training flags are not touched, and its hooks are
    gone afterwards, whatever happens. In gradients, samples stand each for itself.

    Args:
        model: any network of torch modules in eval mode, or what `probe.load` gave.
        inputs: the prepared picture, [B, C, H, W], or keyword arguments of the model's forward, one of which is it.
        layers: names of modules or patterns ("layer4.*"), or "last-conv" for the last convolution with a map of more than
            one cell.
        gradient_of: None for activations only; else the output whose gradient is taken at the same maps: a class number, one
            for each sample, "predicted" (each sample's highest), or a function from the model's output to one number for
            each sample, [B].
        gates: "auto" records the squeeze-excite and spatial-attention gates that are found by structure; names of modules
            whose output is a gate replace that; () records none.
        store: folder of the record to be written; None keeps it in memory.
        overwrite: replace a record that is already at `store`, once this one is complete.

    Returns:
        A record: `/maps/<layer>` with activation (and gradient) over (sample, channel, row, column), coordinates y, x
        (centres) and top, bottom, left, right (edges) of the receptive fields in input pixels where they are known
        (attribute `geometry`); `/gates/<module>` with channel_gate (sample, channel) or
        spatial_gate (sample, row, column); `/output` with logits and score.

    Raises:
        InputError: a layer, an input or an option that cannot be used.
        ModelError: a model that cannot be heard, NaN in a map, or a gradient that does not exist.
        RecordError: the record cannot be written.
    """
    module, _ = parts(model)
    ready(module)
    place = input_device(module)
    given, picture = _picture(inputs, place, gradient_of is not None)
    tap = MapTap(module, picture, layers=layers, gates=gates, gradients=gradient_of is not None)
    if gradient_of is not None:
        _refuse_coupled(module, picture)
    with torch.set_grad_enabled(gradient_of is not None):
        with tap:
            output = module(**given) if isinstance(given, dict) else module(given)
        found, gradients = tap.outputs, None
        logits = _logits(output)
        groups: dict[str, xr.Dataset] = {}
        if gradient_of is not None:
            score, classes = _score(gradient_of, output, logits, picture.shape[0])
            gradients = _gradients(score, found)
            groups["output"] = _output(logits, score, classes)
        elif logits is not None:
            groups["output"] = _output(logits, None, None)
    for number, made in enumerate(found):
        groups[f"maps/{made.name}"] = _map(made, None if gradients is None else gradients[number])
    groups |= _gate_groups(tap.gates)
    attrs = facts(model, module, place) | {
        "kind": "maps",
        "layers": [made.name for made in found],
        "without_map": tap.without_map,
        "gradient_of": _named(gradient_of),
        "picture": [int(n) for n in picture.shape],
    }
    groups["validity"] = finite(groups)
    return keep(groups, attrs, store, picture.shape[0], overwrite=overwrite)


def _picture(inputs: Any, place: torch.device, gradients: bool) -> tuple[Any, Tensor]:
    """The arguments of forward and the picture among them, on the model's device."""
    if isinstance(inputs, Mapping):
        given = {n: x.to(place) if isinstance(x, Tensor) else x for n, x in inputs.items()}
        pictures = [
            n for n, x in given.items() if isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point()
        ]
        if len(pictures) != 1:
            raise InputError(
                f"inputs: {pictures or list(given)} in them, expected exactly one picture, [B, C, H, W] of floats"
            )
        picture = given[pictures[0]]
    elif isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point():
        picture = inputs.to(place)
    else:
        got = f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(
            f"inputs: got {got}, expected a prepared picture, [B, C, H, W] of floats, or keyword arguments"
        )
    if picture.numel() == 0 or not bool(torch.isfinite(picture).all()):
        raise InputError("inputs: the picture is empty, or has NaN or infinity in it")
    picture = picture.detach().clone()  # what the model does to it in place stays here
    if gradients:
        if torch.is_inference_mode_enabled():
            raise InputError(
                "gradient_of: there are no gradients in torch.inference_mode(); leave it for this call"
            )
        with torch.enable_grad():
            picture = picture.requires_grad_().clone()  # no leaf, so that it may still be changed in place
    if isinstance(inputs, Mapping):
        given[pictures[0]] = picture
        return given, picture
    return picture, picture


def _refuse_coupled(module: torch.nn.Module, picture: Tensor) -> None:
    """Batch statistics at inference make one sample's score depend on the others."""
    if picture.shape[0] == 1:
        return
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise ModelError(
                f"{name}: uses the statistics of the batch, which couples samples; give one at a time for gradients"
            )


def _logits(output: Any) -> Tensor | None:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    return found if isinstance(found, Tensor) and found.ndim == 2 else None


def _score(asked: Score, output: Any, logits: Tensor | None, batch: int) -> tuple[Tensor, Tensor | None]:
    """One number for each sample, and the classes where there are any."""
    if callable(asked):
        score = asked(output)
        if not isinstance(score, Tensor) or score.numel() != batch or not score.is_floating_point():
            got = f"{list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise InputError(
                f"gradient_of: the function gave {got}, expected one number for each of {batch} samples"
            )
        return score.reshape(batch), None
    if logits is None:
        raise InputError(
            f"gradient_of: the model's output ({type(output).__name__}) is not [B, classes]; "
            "give a function from the output to one number for each sample"
        )
    if isinstance(asked, str):
        if asked != "predicted":
            raise InputError(
                f"gradient_of: got {asked!r}, expected a class number, 'predicted', or a function"
            )
        classes = logits.detach().argmax(1)
    else:
        numbers = [asked] * batch if isinstance(asked, int) else [int(n) for n in asked]
        if len(numbers) != batch or not all(0 <= n < logits.shape[1] for n in numbers):
            raise InputError(
                f"gradient_of: got {asked}, expected a class from 0 to {logits.shape[1] - 1}, "
                f"or one for each of {batch} samples"
            )
        classes = torch.tensor(numbers, device=logits.device)
    return logits.gather(1, classes[:, None])[:, 0], classes


def _gradients(score: Tensor, found: list[MapOutput]) -> list[Tensor]:
    """Derivative of each sample's score with respect to its own maps; `.grad` of no tensor is written."""
    for made in found:
        if made.edge is None:
            raise ModelError(
                f"{made.name}: no gradient passes it (it runs under no_grad, or on detached tensors)"
            )
    if not score.requires_grad:
        raise ModelError("gradient_of: the score has no gradient; the model or the function detaches it")
    got = torch.autograd.grad(score.sum(), [made.edge for made in found], allow_unused=True)
    for made, gradient in zip(found, got, strict=True):
        if gradient is None:
            raise ModelError(f"{made.name}: the score does not depend on it; choose another layer (layers=…)")
    return [channels_second(g, made.grid) for g, made in zip(got, found, strict=True) if g is not None]


def _map(made: MapOutput, gradient: Tensor | None) -> xr.Dataset:
    over = ("sample", "channel", "row", "column")
    variables: dict[str, Any] = {
        "activation": (over, _numpy(made.values, made.name), {"meaning": "output of the module"})
    }
    if gradient is not None:
        meaning = "derivative of the sample's score with respect to the activation"
        variables["gradient"] = (over, _numpy(gradient, made.name), {"meaning": meaning})
    coordinates: dict[str, Any] = {"channel": np.arange(made.values.shape[1])}
    if made.grid is not None:
        coordinates |= _axis("row", "y", "top", "bottom", made.grid.rows, made.values.shape[2])
        coordinates |= _axis("column", "x", "left", "right", made.grid.columns, made.values.shape[3])
    attrs = {"module": made.name, "class": made.kind, **_geometry(made.grid)}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def _axis(dim: str, centre: str, low: str, high: str, axis: Axis, count: int) -> dict[str, Any]:
    at = np.arange(count) * axis.step
    return {
        dim: np.arange(count),
        centre: (dim, at + (axis.low + axis.high) / 2, {"unit": "pixel", "meaning": _CENTRE}),
        low: (dim, at + axis.low, {"unit": "pixel", "meaning": _EDGE}),
        high: (dim, at + axis.high, {"unit": "pixel", "meaning": _EDGE}),
    }


def _geometry(grid: Any) -> dict[str, Any]:
    if grid is None:
        return {"geometry": "unknown: an operation before it moves places in a way that is not followed"}
    return {
        "geometry": "computed from the operations that ran; fields of global branches (squeeze-excite) left out",
        "step": [grid.rows.step, grid.columns.step],
        "field": [grid.rows.high - grid.rows.low, grid.columns.high - grid.columns.low],
    }


def _gate_groups(gates: list[Gate]) -> dict[str, xr.Dataset]:
    groups: dict[str, xr.Dataset] = {}
    for gate in gates:
        base = f"gates/{gate.name or 'model'}"
        number = 2
        path = base
        while path in groups and f"{gate.kind}_gate" in groups[path]:
            path, number = f"{base}#{number}", number + 1
        over = ("sample", "channel") if gate.kind == "channel" else ("sample", "row", "column")
        meaning = f"factor on each {'channel' if gate.kind == 'channel' else 'place'} of the map"
        coordinates: dict[str, Any] = {}
        attrs: dict[str, Any] = {"module": gate.name}
        if gate.kind == "spatial":
            attrs |= _geometry(gate.grid)
            if gate.grid is not None:
                coordinates |= _axis("row", "y", "top", "bottom", gate.grid.rows, gate.values.shape[1])
                coordinates |= _axis("column", "x", "left", "right", gate.grid.columns, gate.values.shape[2])
        variable = {f"{gate.kind}_gate": (over, _numpy(gate.values, gate.name), {"meaning": meaning})}
        new = xr.Dataset(variable, coords=coordinates, attrs=attrs)
        groups[path] = (
            groups[path].merge(new, combine_attrs="override").assign_attrs(attrs) if path in groups else new
        )
    return groups


def _output(logits: Tensor | None, score: Tensor | None, classes: Tensor | None) -> xr.Dataset:
    found: dict[str, Any] = {}
    if logits is not None:
        found["logits"] = (("sample", "class"), _numpy(logits, "the model's output"))
    if score is not None:
        found["score"] = (
            "sample",
            _numpy(score, "the score"),
            {"meaning": "the number whose gradient was taken"},
        )
    if classes is not None:
        found["target"] = ("sample", classes.cpu().numpy())
    return xr.Dataset(found)


def _numpy(x: Tensor, name: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = x.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(array).all():
        sample = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ModelError(
            f"{name}: NaN or infinity in sample {sample}; check the model's weights and its dtype"
        )
    return array


def _named(score: Score | None) -> str:
    if score is None:
        return ""
    return getattr(score, "__name__", type(score).__name__) if callable(score) else str(score)
