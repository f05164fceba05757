"""Parity on a window: the model's own eager attention in float64 against the kernels and the backend.

Of each sample the first (at most 128) valid positions are cut out of the very q, k and v of the call. The
mask for eager is cut out of the backend's mask, or follows from the backend's flags where it got none; the
derived rules play no part in it.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.call import AttentionCall
from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.masks import reader

WINDOW = 128
#: Rows at the end of a sample that are checked over all their keys.
LAST = 4
_ENTRIES = 1 << 22
_HIDDEN = -1e30


@dataclass(frozen=True, eq=False)
class Window:
    """The same number of positions from each of some samples, moved together.

    Attributes:
        samples: index of the samples, [S].
        index: positions in the call, [S, P]; clamped at the end.
        valid: which of them are there and not padding, [S, P].
        visible: what the backend's mask shows of them, [S, H or 1, P, P].
        contained: whether nothing outside is visible from the window, [S].
    """

    samples: Int[Tensor, "S"]
    index: Int[Tensor, "S P"]
    valid: Bool[Tensor, "S P"]
    visible: Bool[Tensor, "S h P P"]
    contained: Bool[Tensor, "S"]

    def cut(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "S H P D"]:
        """The window's part of a tensor of the call."""
        return x[self.samples[:, None], :, self.index].transpose(1, 2)

    def rule(self, spec: ScoreSpec) -> ScoreSpec:
        """The rules of the call, moved to the window."""
        first = self.index[:, 0]
        return replace(
            spec,
            offset=0,
            key_valid=self.valid,
            query_valid=self.valid,
            origin=None if spec.origin is None else spec.origin[self.samples] - first,
            groups=None if spec.groups is None else spec.groups[self.samples[:, None], self.index],
        )


def window(call: AttentionCall, valid: Bool[Tensor, "B N"]) -> Window:
    """Choose the window of a call.

    Args:
        call: a call with as many keys as queries.
        valid: False where a position is padding.
    """
    batch, heads, length, _ = call.q.shape
    device = call.q.device
    valid = valid.to(device)
    size = min(WINDOW, length)
    count = max(1, min(batch, _ENTRIES // (heads * size * size)))
    samples = torch.linspace(0, batch - 1, count, device=device).round().long()
    start = valid.int().argmax(1)[samples]
    index = start[:, None] + torch.arange(size, device=device)
    inside = index < length
    index = index.clamp(max=length - 1)
    there = valid[samples[:, None], index] & inside
    shown = [_shown(call, int(b), int(s), size) for b, s in zip(samples, start, strict=True)]
    visible, contained = [], []
    for place, rows in enumerate(shown):
        seen = rows & valid[samples[place]]
        at = index[place]
        within = torch.zeros(length, dtype=torch.bool, device=device).index_fill(0, at[there[place]], True)
        own = seen[:, at - int(start[place])][:, :, at] & there[place]
        visible.append(own)
        mine = there[place][: seen.shape[1]]
        contained.append(not bool((seen & ~within)[:, mine].any()))
    return Window(samples, index, there, torch.stack(visible), torch.tensor(contained, device=device))


def _shown(call: AttentionCall, sample: int, start: int, size: int) -> Bool[Tensor, "h rows N"]:
    """What the backend attends to from the rows of the window of one sample, padding not considered."""
    length, device = call.q.shape[2], call.q.device
    rows = range(start, min(start + size, length))
    flat = isinstance(call.mask, Tensor) and call.mask.ndim == 2
    if call.mask is not None and not flat:
        read = reader(call.mask, length, length, call.q.dtype)
        if read is None:
            raise ModelError(f"{call.name}: cannot read the backend's mask")
        shown: Tensor = read(sample, rows)
        return shown
    i = torch.arange(rows.start, rows.stop, device=device)[:, None]
    j = torch.arange(length, device=device)[None, :]
    seen = torch.ones(1, len(rows), length, dtype=torch.bool, device=device)
    if call.backend in ("sdpa", "flash"):
        flag = call.arguments.get("is_causal")
        causal = bool(getattr(call.module, "is_causal", True) if flag is None else flag)
        near = call.arguments.get("sliding_window") if call.backend == "flash" else None
        seen &= (j <= i) if causal else True
        seen &= ((i - j).abs() < near) if near is not None else True
    return seen


def eager(
    call: AttentionCall, cut: Window, dtype: torch.dtype
) -> tuple[Float[Tensor, "S P H Dv"], Float[Tensor, "S H P P"]]:
    """The model's own eager attention on the window: its output and its weights, in `dtype`."""
    q, k, v = (cut.cut(x).to(dtype) for x in (call.q, call.k, call.v))
    hidden = max(_HIDDEN, torch.finfo(dtype).min)
    mask = torch.zeros(cut.visible.shape, dtype=dtype, device=q.device).masked_fill_(~cut.visible, hidden)
    arguments = {**call.arguments, "dropout": 0.0}
    out, weights = call.eager(call.module, q, k, v, mask, **arguments)
    if weights is None or weights.shape != (*q.shape[:3], k.shape[2]):
        raise ModelError(f"{call.name}: the model's eager attention gives no weights to compare with")
    return out, weights


def row_statistics(
    p: Float[Tensor, "... rows keys"], at: Int[Tensor, "rows"]
) -> dict[str, Float[Tensor, "... rows"]]:
    """Row statistics of a map that is there, by their definitions.

    Args:
        p: the weights.
        at: position of each row among the keys.
    """
    keys = torch.arange(p.shape[-1], device=p.device)
    return {
        "entropy": -torch.special.xlogy(p, p).sum(-1),
        "max_prob": p.amax(-1),
        "second_moment": p.square().sum(-1),
        "key_mass": p.sum(-1),
        "distance": (p * (at[:, None] - keys[None, :]).abs()).sum(-1),
    }


def reference(
    weights: Float[Tensor, "S H P P"], valid: Bool[Tensor, "S P"]
) -> dict[str, Float[Tensor, "S H P"]]:
    """Row statistics and received mass of the window; NaN where a position is padding."""
    stats = row_statistics(weights, torch.arange(weights.shape[-1], device=weights.device))
    stats["received"] = (weights * valid[:, None, :, None]).sum(-2)
    return {name: x.masked_fill(~valid[:, None], torch.nan) for name, x in stats.items()}


def score_error(call: AttentionCall, cut: Window) -> Float[Tensor, "S H"]:
    """Bound on the rounding error of a float32 score: (√D + 4) · ε · scale · max Σ_d |q_d k_d|, per head.

    √D instead of D because rounding errors are of either sign (Higham & Mary 2019, SIAM J. Sci. Comput.
    41(5)).
    """
    q, k = cut.cut(call.q).float().abs(), cut.cut(call.k).float().abs()
    group = q.shape[1] // k.shape[1]
    size = torch.matmul(q, k.repeat_interleave(group, 1).transpose(2, 3)) * abs(call.spec.scale)
    size = size.masked_fill(~cut.visible | ~cut.valid[:, None, :, None], 0).amax((2, 3))
    error: Tensor = (q.shape[3] ** 0.5 + 4) * torch.finfo(torch.float32).eps * size
    return error


def last_rows(
    call: AttentionCall, valid: Bool[Tensor, "B N"], sample: int, dtype: torch.dtype
) -> tuple[range, Float[Tensor, "H rows N"], Float[Tensor, "rows H Dv"]]:
    """Attention of a sample's last valid queries over all keys, written down in `dtype`, by key heads.

    Args:
        call: the call.
        valid: False where a position is padding.
        sample: index in the batch.
        dtype: of the computation.

    Returns:
        The rows; their weights; their output.
    """
    there = valid[sample].to(call.q.device)
    last = int(there.nonzero()[-1]) + 1
    rows = range(max(0, last - LAST), last)
    hidden = ~(_shown(call, sample, rows.start, len(rows)) & there)
    group = call.q.shape[1] // call.k.shape[1]
    weights, outputs = [], []
    for key_head in range(call.k.shape[1]):
        heads = slice(key_head * group, (key_head + 1) * group)
        q = call.q[sample, heads, rows.start : rows.stop].to(dtype)
        scores = q @ call.k[sample, key_head].to(dtype).T * call.spec.scale
        if call.spec.softcap is not None:
            scores = call.spec.softcap * torch.tanh(scores / call.spec.softcap)
        scores = scores.masked_fill(hidden if hidden.shape[0] == 1 else hidden[heads], -torch.inf)
        if call.spec.sink is not None:
            sink = call.spec.sink[heads, None, None].to(dtype).expand(group, len(rows), 1)
            scores = torch.cat([scores, sink], -1)
        p = torch.softmax(scores.to(torch.promote_types(dtype, torch.float32)), -1).to(dtype)[
            ..., : call.k.shape[2]
        ]
        weights.append(p)
        outputs.append(p @ call.v[sample, key_head].to(dtype))
    return rows, torch.cat(weights), torch.cat(outputs).transpose(0, 1)
