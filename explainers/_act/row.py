"""One decoding row written out: a row of a map is O(N), and a few small products cost less than three kernels."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import compute_dtype

#: With any of these rules a row is left to the kernels.
_OTHERS = ("before", "window", "chunk", "groups", "documents", "softcap", "slopes", "distance_bias")


class Row(NamedTuple):
    """The last row of the chosen heads' maps, n heads.

    Attributes:
        scores: over the keys, -inf at padding.
        weights: the map's row.
        lse: log-sum-exp, the extra logit included.
    """

    scores: Float[Tensor, "B n Nk"]
    weights: Float[Tensor, "B n Nk"]
    lse: Float[Tensor, "B n"]


def fits(spec: ScoreSpec, n_queries: int, n_keys: int) -> bool:
    """Whether a call is one row that sees every key but padding."""
    plain = all(getattr(spec, name) is None for name in _OTHERS)
    return plain and n_queries == 1 and (not spec.causal or spec.offset == n_keys - 1)


def row_of(q: Float[Tensor, "B n 1 D"], k: Float[Tensor, "B Hkv Nk D"], spec: ScoreSpec) -> Row:
    """The row of queries of the chosen heads over keys of theirs or of their groups, in float32 (float64 for float64)."""
    wide = compute_dtype(q)
    keys = k.to(wide).repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = ((q.to(wide) * spec.scale) @ keys.transpose(2, 3))[:, :, 0]
    if spec.key_valid is not None:
        scores = scores.masked_fill(~spec.key_valid[:, None], -torch.inf)
    lse = scores.logsumexp(-1)
    if spec.sink is not None:
        lse = torch.logaddexp(lse, spec.sink.to(wide))
    return Row(scores, (scores - lse[..., None]).exp(), lse)


def counts_of(spec: ScoreSpec, weights: Float[Tensor, "B n Nk"]) -> Float[Tensor, "B Nk"]:
    """1 where the row sees a key, 0 where either is padding."""
    seen = torch.ones_like(weights[:, 0])
    for valid in (spec.key_valid, spec.query_valid):
        seen = seen if valid is None else seen * valid
    return seen


def shift_row(
    row: Row,
    v: Float[Tensor, "B n Nk Dv"],
    sinks: Bool[Tensor, "B n Nk"],
    kept: Bool[Tensor, "B Nk"] | None,
    beta: float,
) -> tuple[Float[Tensor, "B n Dv"], Float[Tensor, "B n"], Float[Tensor, "B n"]]:
    """Output, sink mass and receivers' mass of the row, as `sink_shift` gives them; receivers are summed apart."""
    sink = sinks if kept is None else sinks & ~kept[:, None]
    receivers = row.scores.masked_fill(sink if kept is None else sink | kept[:, None], -torch.inf)
    mass = (row.weights * sink).sum(-1)
    top = receivers.logsumexp(-1)
    rest = torch.where(top > -torch.inf, (top - row.lse).exp().clamp(min=torch.finfo(top.dtype).tiny), 0)
    gain = rest + (1 - beta) * mass
    share = (receivers - top[..., None]).exp() * gain[..., None]
    weights = torch.where(receivers > -torch.inf, share, torch.where(sink, beta * row.weights, row.weights))
    return (weights[:, :, None] @ v.to(weights.dtype))[:, :, 0], mass, rest
