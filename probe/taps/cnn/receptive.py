"""Where the cells of a map lie on the picture, followed through every operation from the picture on.

A pixel i covers [i, i + 1). The receptive field of a cell is the interval of pixels that the operations before it can reach,
padding included, so it may begin below 0. Where branches meet, fields are united; what is multiplied or added in from a single
cell (squeeze-excite) and the statistics of normalisations are left out, for their field is the whole picture. Arithmetic of
convolutions after Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016 (arXiv 1603.07285).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from probe.taps.lineage import Marks, Step, tensors


@dataclass(frozen=True)
class Axis:
    """Cell i sees [low + i·step, high + i·step), in pixels."""

    step: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def window(self, size: int, stride: float, padding: float, dilation: int = 1) -> "Axis":
        """After a window of `size` cells that moves by `stride`; a stride below 1 spreads cells out instead."""
        low = self.low - padding * self.step
        return Axis(self.step * stride, low, low + (size - 1) * dilation * self.step + self.high - self.low)

    def spread(self, size: int, factor: int, padding: int, dilation: int = 1) -> "Axis":
        """After a transposed window; the field is the hull over all phases."""
        reach = (size - 1) * dilation
        low = self.low + self.step * (padding - reach) / factor
        return Axis(self.step / factor, low, self.high + self.step * padding / factor)

    def resampled(self, before: int, after: int, taps: int, aligned: bool) -> "Axis":
        """After interpolation with `taps` neighbours on each side."""
        ratio = (before - 1) / max(1, after - 1) if aligned else before / after
        first = 0.0 if aligned else 0.5 * ratio - 0.5
        low, high = self.low + self.step * (first - taps), self.high + self.step * (first + taps)
        return Axis(self.step * ratio, low, high)


@dataclass(frozen=True)
class Grid:
    """Where the cells of a tensor lie: two axes, and which dimensions they are, counted from the last (-1).

    `flat` holds the sizes that stood before the channels when all places were put into one dimension.
    """

    rows: Axis = Axis()
    columns: Axis = Axis()
    at: tuple[int, int] = (-2, -1)
    flat: tuple[int, ...] | None = None


#: Made from the picture, but where its cells lie is not known.
UNKNOWN = "unknown"

_SAME = {
    "hardswish",
    "hardsigmoid",
    "_prelu_kernel",
    "native_batch_norm",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
}
_SAME |= {
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "miopen_batch_norm",
    "native_group_norm",
}
_SAME |= {
    "native_layer_norm",
    "native_dropout",
    "clone",
    "detach",
    "alias",
    "_to_copy",
    "celu",
    "rrelu_with_noise",
}
_OVER_CHANNELS = {
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "_softmax",
    "_log_softmax",
    "split",
    "split_with_sizes",
}
_OVER_CHANNELS |= {"cat", "index_select", "logsumexp", "argmax", "std", "var"}
_PADS = {"constant_pad_nd", "reflection_pad2d", "replication_pad2d"}
_TAPS = {"upsample_bilinear2d": 1, "upsample_bicubic2d": 2}


class Receptive:
    """Follows one picture, [B, C, H, W], through the operations that are told of it."""

    def __init__(self, picture: Tensor) -> None:
        self.marks = Marks()
        self.marks.put(picture, Grid())

    def follow(self, step: Step) -> None:
        """Note where the cells of the results lie."""
        known = [self.marks.get(t) for value in step.arguments.values() for t in tensors(value)]
        if not any(k is not None for k in known):
            return
        for result in tensors(step.result):
            found = self._after(step, result)
            self.marks.put(result, UNKNOWN if found is None else found)

    def of(self, tensor: Tensor) -> Grid | None:
        """Where the cells of a tensor lie; None if that is not known."""
        found = self.marks.get(tensor)
        return found if isinstance(found, Grid) and found.flat is None else None

    def _after(self, step: Step, result: Tensor) -> Grid | None:
        given = list(tensors(list(step.arguments.values())))
        first = next(t for t in given if self.marks.get(t) is not None)
        grid = self.marks.get(first)
        if step.pointwise or step.name == "cat":
            dim = None if step.pointwise else int(step.arguments["dim"])
            return self._united(given, result, dim)
        if not isinstance(grid, Grid):
            return None
        if grid.flat is None and grid.at == (-2, -1) and result.ndim == 4:
            moved = _window(step, grid, first, result)
            if moved is not None:
                return moved
        if step.name in _SAME:
            return grid if result.shape == first.shape else None
        if step.name in _OVER_CHANNELS:
            return _over_channels(step, grid, first, result)
        return _rearranged(step, grid, first, result)

    def _united(self, parts: Sequence[Tensor], result: Tensor, dim: int | None) -> Grid | None:
        """The union of the fields of all parts that have the places of the result."""
        found: Grid | None = None
        for part in parts:
            grid = self.marks.get(part)
            if grid is None or (_constant(part) and not _constant(result)):
                continue
            if grid == UNKNOWN:
                return None
            if found is None:
                found = grid
            if (grid.at, grid.flat) != (found.at, found.flat):
                return None
            if dim is not None and (grid.flat is not None or _negative(dim, part) in grid.at):
                return None
            if grid.flat is None and any(part.shape[d] != result.shape[d] for d in grid.at):
                return None
            rows, columns = _union(found.rows, grid.rows), _union(found.columns, grid.columns)
            if rows is None or columns is None:
                return None
            found = replace(found, rows=rows, columns=columns)
        return found


def _constant(x: Tensor) -> bool:
    """Whether a tensor has one value for all places (rows and columns last, or before the channels)."""

    def spread(d: int) -> bool:
        return x.shape[d] == 1 or x.stride(d) == 0

    return x.ndim < 2 or (spread(-1) and spread(-2)) or (x.ndim == 4 and spread(1) and spread(2))


def _union(a: Axis, b: Axis) -> Axis | None:
    if not math.isclose(a.step, b.step, rel_tol=1e-9):
        return None
    return Axis(a.step, min(a.low, b.low), max(a.high, b.high))


def _negative(dim: int, x: Tensor) -> int:
    return dim if dim < 0 else dim - x.ndim


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _window(step: Step, grid: Grid, before: Tensor, after: Tensor) -> Grid | None:
    """After an operation that moves over rows and columns of [B, C, H, W]; None if it is none of these."""
    given = step.arguments
    axes = (grid.rows, grid.columns)
    sizes = [(int(before.shape[d]), int(after.shape[d])) for d in (-2, -1)]
    if step.name in ("convolution", "_convolution", "mkldnn_convolution"):
        strides, pads, dilations = (_pair(given[n]) for n in ("stride", "padding", "dilation"))
        kernel = given["weight"].shape[-2:]
        method = "spread" if given.get("transposed") else "window"
        new = [
            getattr(a, method)(k, s, p, d)
            for a, k, s, p, d in zip(axes, kernel, strides, pads, dilations, strict=True)
        ]
    elif step.name in ("max_pool2d_with_indices", "avg_pool2d", "max_pool2d"):
        kernel, pads = _pair(given["kernel_size"]), _pair(given["padding"])
        strides = _pair(given["stride"] or kernel)
        dilations = _pair(given.get("dilation", (1, 1)))
        new = [
            a.window(k, s, p, d) for a, k, s, p, d in zip(axes, kernel, strides, pads, dilations, strict=True)
        ]
    elif step.name in ("_adaptive_avg_pool2d", "adaptive_max_pool2d") or _is_global(step, before, after):
        if any(n % m for n, m in sizes):
            return None
        new = [a.window(n // m, n // m, 0) for a, (n, m) in zip(axes, sizes, strict=True)]
    elif step.name in _PADS:
        pads = given["pad"] if "pad" in given else given["padding"]
        left, _, top, _ = [*pads, 0, 0][:4]
        new = [
            Axis(a.step, a.low - n * a.step, a.high - n * a.step)
            for a, n in zip(axes, (top, left), strict=True)
        ]
    else:
        return _resized(step, grid, axes, sizes)
    return replace(grid, rows=new[0], columns=new[1])


def _is_global(step: Step, before: Tensor, after: Tensor) -> bool:
    return step.name in ("mean", "sum", "amax", "amin") and before.ndim == 4 and after.shape[-2:] == (1, 1)


def _resized(
    step: Step, grid: Grid, axes: tuple[Axis, Axis], sizes: Sequence[tuple[int, int]]
) -> Grid | None:
    if step.name in ("upsample_nearest2d", "pixel_shuffle"):
        if any(m % n for n, m in sizes):
            return None
        new = [a.spread(m // n, m // n, 0) for a, (n, m) in zip(axes, sizes, strict=True)]
    elif step.name == "pixel_unshuffle":
        new = [a.window(n // m, n // m, 0) for a, (n, m) in zip(axes, sizes, strict=True)]
    elif step.name in _TAPS:
        aligned = bool(step.arguments["align_corners"])
        new = [a.resampled(n, m, _TAPS[step.name], aligned) for a, (n, m) in zip(axes, sizes, strict=True)]
    else:
        return None
    return replace(grid, rows=new[0], columns=new[1])


def _over_channels(step: Step, grid: Grid, before: Tensor, after: Tensor) -> Grid | None:
    """After an operation along dimensions that are neither rows nor columns, and that stay."""
    dims = step.arguments.get("dim")
    over = [dims] if isinstance(dims, int) else dims
    if grid.flat is not None or not over or after.ndim != before.ndim:
        return None
    return None if any(_negative(d, before) in grid.at for d in over) else grid


def _rearranged(step: Step, grid: Grid, before: Tensor, after: Tensor) -> Grid | None:
    given = step.arguments
    if step.name in ("permute", "transpose") and grid.flat is None:
        order = (
            [_negative(d, before) for d in given["dims"]]
            if step.name == "permute"
            else _swapped(given, before)
        )
        rows, columns = (order.index(d) - before.ndim for d in grid.at)
        return replace(grid, at=(rows, columns))
    if step.name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "unsqueeze", "squeeze"):
        return _reshaped(grid, before, after)
    if step.name == "slice" and grid.flat is None:
        return _cut(given, grid, before)
    if step.name in ("mm", "addmm", "bmm", "linear"):  # each place for itself
        same = grid.flat is not None or (step.name == "linear" and -1 not in grid.at)
        return grid if same and after.shape[:-1] == before.shape[:-1] else None
    return None


def _swapped(given: dict[str, Any], x: Tensor) -> list[int]:
    order = list(range(-x.ndim, 0))
    a, b = (_negative(int(given[n]), x) for n in ("dim0", "dim1"))
    order[a], order[b] = order[b], order[a]
    return order


def _reshaped(grid: Grid, before: Tensor, after: Tensor) -> Grid | None:
    old, new = list(before.shape), list(after.shape)
    if grid.flat is not None:  # [places, C] → [B, H, W, C]
        back = (*grid.flat, new[-1])
        return replace(grid, flat=None) if tuple(new) == back else (grid if len(new) == 2 else None)
    last = max(grid.at)
    tail = last + 1 if last < -1 else None
    kept = all(len(new) >= -d and new[d] == old[d] for d in grid.at)
    if kept and math.prod(new[tail:] if tail else []) == math.prod(old[tail:] if tail else []):
        return grid
    if sorted(grid.at) == [-3, -2] and len(new) == 2 and new[-1] == old[-1]:
        return replace(grid, flat=tuple(old[:-1]))
    return None


def _cut(given: dict[str, Any], grid: Grid, before: Tensor) -> Grid:
    dim = _negative(int(given["dim"]), before)
    start, stride = int(given.get("start") or 0), int(given.get("step") or 1)
    start = max(0, start + before.shape[dim]) if start < 0 else start
    axes = [grid.rows, grid.columns]
    for i, (axis, at) in enumerate(zip(axes, grid.at, strict=True)):
        if at == dim:
            axes[i] = Axis(axis.step * stride, axis.low + start * axis.step, axis.high + start * axis.step)
    return replace(grid, rows=axes[0], columns=axes[1])
