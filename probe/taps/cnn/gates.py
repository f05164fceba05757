"""Gates of convolutional networks: squeeze-excite (one factor a channel) and spatial attention (one factor a place).

Found by structure: a tensor made from the picture went through a bounded function (sigmoid, hard sigmoid, softmax, tanh, a
clamp) and then multiplies a map of more than one cell while it is constant over all places or over all channels. Sources:
Hu, Shen and Sun, Squeeze-and-Excitation Networks, 2018 (arXiv 1709.01507); Woo et al., CBAM, 2018 (arXiv 1807.06521).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from probe.errors import InputError
from probe.taps.cnn.receptive import UNKNOWN, Grid
from probe.taps.lineage import Marks, Stack, Step, tensors

_BOUNDED = {"sigmoid", "hardsigmoid", "_softmax", "tanh", "hardtanh", "clamp"}
_CARRIED = {
    "view",
    "_unsafe_view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "permute",
    "transpose",
    "clone",
    "alias",
}
_CARRIED |= {
    "detach",
    "_to_copy",
    "select",
    "split",
    "slice",
    "mul",
    "div",
    "add",
    "sub",
    "upsample_nearest2d",
}
_CARRIED |= {"upsample_bilinear2d"}


@dataclass(frozen=True, eq=False)
class Gate:
    """Factors on a map.

    Attributes:
        name: the module in which they are multiplied onto the map, or that the user named.
        kind: "channel" or "spatial".
        values: [B, C] or [B, H, W], a copy.
        convolution: the module of the last convolution before it, "" if there is none.
        grid: where the cells of a spatial gate lie on the picture; None if that cannot be told.
    """

    name: str
    kind: str
    values: Tensor
    convolution: str
    grid: Grid | None


class GateFinder:
    """Finds gates among the operations that it is told of.

    Args:
        marks: which tensors are made from the picture, as `Receptive` keeps them.
        stack: which module is running.
    """

    def __init__(self, marks: Marks, stack: Stack) -> None:
        self._marks, self._stack = marks, stack
        self._bounded, self._convolution = Marks(), Marks()
        self.found: list[Gate] = []

    def follow(self, step: Step) -> None:
        """Look at one operation."""
        name = step.name.removesuffix("_")
        results = [t for t in tensors(step.result) if self._marks.get(t) is not None]
        if not results:
            return
        parts = [t for t in tensors(list(step.arguments.values())) if self._marks.get(t) is not None]
        if name == "mul" and len(parts) == 2:
            self._multiplied(parts, results[0])
        carried = (
            name in _CARRIED and len(parts) == 1
        )  # rearranged, or scaled by what is not from the picture
        bounded = name in _BOUNDED or (carried and self._bounded.get(parts[0]))
        convolution = self._stack.innermost if name == "convolution" else self._convolution.get(parts[0])
        for result in results:
            self._bounded.put(result, True if bounded else None)
            self._convolution.put(result, convolution)

    def _multiplied(self, parts: list[Tensor], result: Tensor) -> None:
        if result.ndim != 4 or result.shape[-1] * result.shape[-2] == 1:
            return
        for gate in parts:
            kind = _kind(gate, result) if self._bounded.get(gate) else None
            if kind is None:
                continue
            values = gate[..., 0, 0] if kind == "channel" else gate[:, 0]
            grid = self._marks.get(gate)
            self.found.append(
                Gate(
                    self._stack.innermost,
                    kind,
                    values.detach().clone(),
                    self._convolution.get(gate) or "",
                    grid if kind == "spatial" and grid != UNKNOWN else None,
                )
            )


def _kind(gate: Tensor, result: Tensor) -> str | None:
    """Constant over places: "channel"; constant over channels: "spatial"; else None."""
    if gate.ndim != 4 or gate.shape[0] != result.shape[0]:
        return None
    places = all(gate.shape[d] == 1 or gate.stride(d) == 0 for d in (-2, -1))
    channels = gate.shape[1] == 1 or gate.stride(1) == 0
    if places and not channels and gate.shape[1] == result.shape[1]:
        return "channel"
    if channels and not places and result.shape[1] > 1 and gate.shape[-2:] == result.shape[-2:]:
        return "spatial"
    return None


def from_output(name: str, output: Any, grid: Grid | None) -> Gate:
    """The gate that a module gave.

    Args:
        name: the module.
        output: [B, C] or [B, C, 1, 1] for channels, [B, 1, H, W] for places.
        grid: where the cells of the output lie.

    Raises:
        InputError: the output has another shape.
    """
    if isinstance(output, Tensor) and output.ndim in (2, 4):
        if output.ndim == 2 or output.shape[-2:] == (1, 1):
            return Gate(name, "channel", output.detach().flatten(1).clone(), "", None)
        if output.shape[1] == 1:
            return Gate(name, "spatial", output.detach()[:, 0].clone(), "", grid)
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InputError(f"{name}: its output is {got}, expected a gate [B, C], [B, C, 1, 1] or [B, 1, H, W]")
