"""One layer of a rollout, applied to vectors: A_l = r + (1 - r) · mean over heads, never formed."""

from dataclasses import replace
from typing import TYPE_CHECKING

from probe.errors import InputError
from probe.explainers._rank.operator import sample_of
from probe.explainers.layers import Layer

if TYPE_CHECKING:
    from torch import Tensor


def step(layer: Layer, x: "Tensor", residual: "Tensor | float", *, backward: bool) -> "Tensor":
    """A_l·x, or A_lᵀ·x if `backward`.

    Args:
        layer: one sample of a layer.
        x: vectors of the positions, [N, C] float64.
        residual: the share r that stays with the token itself: one number, or one per token [N].
        backward: multiply with the transposed.

    Returns:
        [N, C] float64; 0 at padding.
    """
    import torch

    from probe.kernels.column_pass import apply_transposed
    from probe.kernels.row_pass import apply

    r = torch.as_tensor(residual, dtype=torch.float64, device=x.device).expand(len(x))[:, None]
    dtype = torch.float64 if layer.q.dtype == torch.float64 else torch.float32
    given = ((1 - r) * x if backward else x).to(dtype)[None, None]
    if backward:
        y = given.expand(1, layer.q.shape[1], -1, -1).contiguous()
        found = apply_transposed(layer.q, layer.k, layer.spec, layer.lse, y)
    else:
        found = apply(layer.q, layer.k, layer.spec, given.contiguous())
    mean = found[0].double().nan_to_num(0.0).mean(0)
    return r * x + (mean if backward else (1 - r) * mean)


def uniform_of(layer: Layer) -> Layer:
    """The same layer with one head that spreads each row evenly over what it sees: zero scores under the same mask."""
    spec = replace(layer.spec, softcap=None, slopes=None, distance_bias=None, sink=None)
    q, k = layer.q[:, :1, :, :1] * 0, layer.k[:, :1, :, :1] * 0
    return replace(layer, heads=(0,), q=q, k=k, v=k, spec=spec)


def one_sample(layer: Layer, sample: int) -> Layer:
    """One sample of a layer whose queries and keys are the same positions.

    Raises:
        InputError: a sample that is not there, or attention from one sequence to another.
    """
    if sample >= len(layer.q):
        raise InputError(f"sample: got {sample}, expected 0 to {len(layer.q) - 1}")
    if layer.q.shape[2] != layer.k.shape[2] or layer.spec.offset:
        raise InputError(
            f"tower: layer {layer.number} attends from {layer.q.shape[2]} to {layer.k.shape[2]} positions, expected attention "
            "of one sequence to itself: layers can be chained there alone"
        )
    return sample_of(layer, sample)


def place_of(position: int, valid: "Tensor") -> int:
    """Number of a token that is counted among those that are no padding, from the end if negative.

    Raises:
        InputError: there is no such token.
    """
    there = valid.nonzero()[:, 0].tolist()
    if not -len(there) <= position < len(there):
        raise InputError(f"position: got {position}, expected {-len(there)} to {len(there) - 1}")
    return int(there[position])
