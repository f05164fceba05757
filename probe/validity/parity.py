"""Parity on a window: the model's own eager attention in float64 against the kernels and the backend.

Of each sample the first (at most 128) valid queries are cut out of the very q, k and v of the call, and 128 keys around where
they stand. The mask and the biases for eager are cut out of those that the backend got; where it got none, what is visible
follows from the backend's flags. The derived rules only say where the window lies, not what it holds.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.call import AttentionCall, MapCall
from probe.errors import ModelError
from probe.kernels.dense import DEFINITIONS, row_definitions
from probe.kernels.score import ScoreSpec
from probe.taps.rules.masks import adder, reader

WINDOW = 128
#: Row statistics that are real numbers, so that an error has a size.
REAL = tuple(name for name in DEFINITIONS if name != "max_key")
#: Rows at the end of a sample that are checked over all their keys.
LAST = 4
_ENTRIES = 1 << 22
_HIDDEN = -1e30


@dataclass(frozen=True, eq=False)
class Window:
    """The same number of queries and of keys from each of some samples, moved together.

    Attributes:
        samples: index of the samples, [S].
        rows: queries of the call, [S, P]; clamped at the end.
        keys: keys of the call, [S, K]; clamped at the end.
        row_valid: which of the queries are there, no padding, and see something, [S, P].
        key_valid: which of the keys are there and no padding, [S, K].
        visible: what the backend's mask shows of them, [S, H or 1, P, K].
        mask: what the backend's mask adds, [S, H or 1, P, K]; None if it adds nothing.
        bias: the part of `position_bias`, [S, H or 1, P, K]; None if there is none.
        contained: queries that see no key outside of the window, [S, P].
        offset: the key of the window at which its first query stands.
        before: keys of the call before those of the window, where they do not move with the queries.
    """

    samples: Int[Tensor, "S"]
    rows: Int[Tensor, "S P"]
    keys: Int[Tensor, "S K"]
    row_valid: Bool[Tensor, "S P"]
    key_valid: Bool[Tensor, "S K"]
    visible: Bool[Tensor, "S h P K"]
    mask: Float[Tensor, "S h P K"] | None
    bias: Float[Tensor, "S h P K"] | None
    contained: Bool[Tensor, "S P"]
    offset: int
    before: int | None

    def of_rows(self, x: Float[Tensor, "B H Nq D"]) -> Float[Tensor, "S H P D"]:
        """The window's part of a tensor of the queries."""
        return x[self.samples[:, None], :, self.rows].transpose(1, 2)

    def of_keys(self, x: Float[Tensor, "B H Nk D"]) -> Float[Tensor, "S H K D"]:
        """The window's part of a tensor of the keys."""
        return x[self.samples[:, None], :, self.keys].transpose(1, 2)

    def rule(self, spec: ScoreSpec) -> ScoreSpec:
        """The rules of the call, moved to the window."""
        of_places = (self.samples[:, None], self.keys)
        return replace(
            spec,
            offset=self.offset,
            before=self.before,
            key_valid=self.key_valid,
            query_valid=self.row_valid,
            origin=None if spec.origin is None else spec.origin[self.samples] - self.keys[:, 0],
            groups=None if spec.groups is None else spec.groups[of_places],
            documents=None if spec.documents is None else spec.documents[of_places],
        )


def validity(call: AttentionCall | MapCall) -> tuple[Bool[Tensor, "B Nq"], Bool[Tensor, "B Nk"]]:
    """Which queries and which keys of a call are no padding."""
    if isinstance(call, MapCall):
        map_like, flags = call.weights, (call.query_valid, call.key_valid)
        sizes = (map_like.shape[2], map_like.shape[3])
    else:
        map_like, flags = call.q, (call.spec.query_valid, call.spec.key_valid)
        sizes = (call.q.shape[2], call.k.shape[2])
    device = map_like.device
    queries, keys = (
        torch.ones(map_like.shape[0], n, dtype=torch.bool, device=device) if v is None else v.to(device)
        for v, n in zip(flags, sizes, strict=True)
    )
    return queries, keys


def window(call: AttentionCall) -> Window:
    """Choose the window of a call."""
    batch, heads, n_queries, _ = call.q.shape
    n_keys, device, spec = call.k.shape[2], call.q.device, call.spec
    queries, keys = validity(call)
    size, width = min(WINDOW, n_queries), min(WINDOW, n_keys)
    count = max(1, min(batch, _ENTRIES // (heads * size * width)))
    samples = torch.linspace(0, batch - 1, count, device=device).round().long()
    start = queries.int().argmax(1)[samples]
    if (
        spec.causal or n_queries == n_keys
    ):  # the queries stand at keys, and the keys of the window move with them
        ahead = max(0, spec.offset + size - WINDOW) if n_queries < n_keys else 0
        opening, offset, before = start + ahead, spec.offset - ahead, None
    else:
        start = start.amin().expand(count)
        opening = keys.int().argmax(1).amin().expand(count)
        offset = spec.offset + int(start[0]) - int(opening[0])
        before = int(opening[0]) if offset < 0 else None
    rows, row_there = _places(start, size, queries[samples])
    columns, key_there = _places(opening, width, keys[samples])
    cut = [_cut(call, int(b), rows[s], columns[s], key_there[s], keys) for s, b in enumerate(samples)]
    visible = torch.stack([c[0] for c in cut])
    mask, bias = (
        None if any(c[n] is None for c in cut) else torch.stack([x for c in cut if (x := c[n]) is not None])
        for n in (1, 2)
    )
    contained = torch.stack([c[3] for c in cut])
    row_there = row_there & visible.any(3).all(1)
    return Window(
        samples=samples,
        rows=rows,
        keys=columns,
        row_valid=row_there,
        key_valid=key_there,
        visible=visible,
        mask=mask,
        bias=bias,
        contained=contained & row_there,
        offset=offset,
        before=before,
    )


def _places(start: Tensor, size: int, valid: Tensor) -> tuple[Tensor, Tensor]:
    index = start[:, None] + torch.arange(size, device=start.device)
    inside = index < valid.shape[1]
    index = index.clamp(max=valid.shape[1] - 1)
    return index, valid.gather(1, index) & inside


def _cut(
    call: AttentionCall, sample: int, rows: Tensor, columns: Tensor, key_there: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Of one sample: what is visible, what the mask adds, `position_bias`, and which rows see nothing outside."""
    span = range(int(rows[0]), int(rows[-1]) + 1)
    at = rows - span.start
    seen = shown(call, sample, span)[:, at] & keys[sample]
    within = torch.zeros_like(keys[sample]).index_fill(0, columns[key_there], True)
    contained = ~(seen & ~within).any(2).any(0)
    added = [None if x is None else x[:, at][:, :, columns] for x in _added(call, sample, span)]
    return seen[:, :, columns] & key_there, added[0], added[1], contained


def _added(call: AttentionCall, sample: int, rows: range) -> tuple[Tensor | None, Tensor | None]:
    """What the mask adds to the scores, and `position_bias`, in some rows: [H or 1, rows, Nk] each."""
    n_queries, n_keys = call.q.shape[2], call.k.shape[2]
    of_mask = adder(call.mask, n_queries, n_keys)
    of_bias = adder(call.arguments.get("position_bias"), n_queries, n_keys)
    return (
        None if of_mask is None else of_mask(sample, rows),
        None if of_bias is None else of_bias(sample, rows),
    )


def shown(call: AttentionCall, sample: int, rows: range) -> Bool[Tensor, "h rows Nk"]:
    """What the backend attends to from some rows of one sample, padding not considered.

    Raises:
        ModelError: the mask cannot be read.
    """
    n_queries, n_keys, device = call.q.shape[2], call.k.shape[2], call.q.device
    flat = isinstance(call.mask, Tensor) and call.mask.ndim == 2
    if call.mask is not None and not flat:
        read = reader(call.mask, n_queries, n_keys, call.q.dtype, biased=True)
        if read is None:
            raise ModelError(f"{call.name}: cannot read the backend's mask")
        return read(sample, rows)
    i = torch.arange(rows.start, rows.stop, device=device)[:, None]
    j = torch.arange(n_keys, device=device)[None, :]
    seen = torch.ones(1, len(rows), n_keys, dtype=torch.bool, device=device)
    if call.backend in ("sdpa", "flash"):
        flag = call.arguments.get("is_causal")
        causal = bool(getattr(call.module, "is_causal", True) if flag is None else flag)
        near = call.arguments.get("sliding_window") if call.backend == "flash" else None
        i = i + (n_keys - n_queries if call.backend == "flash" else 0)
        if causal and (n_queries > 1 or call.backend == "flash"):
            seen &= j <= i
        if near is not None:
            seen &= (i - j).abs() < near
    ends = _ends_of_pieces(call)
    if ends is not None:
        seen &= torch.bucketize(i, ends, right=True) == torch.bucketize(j, ends, right=True)
    return seen


def _ends_of_pieces(call: AttentionCall) -> Int[Tensor, "pieces"] | None:
    """Where the pieces end that the backend attended to apart from each other, without a mask that says so."""
    if call.lengths is not None:
        return torch.tensor(call.lengths, device=call.q.device).cumsum(0)
    if call.backend != "flash" or call.mask is not None:
        return None
    ends = call.arguments.get("cu_seq_lens_k")
    if isinstance(ends, Tensor):
        return ends[1:].long().to(call.q.device)
    positions = call.arguments.get("position_ids")
    if isinstance(positions, Tensor) and positions.ndim == 2 and positions.shape[1] == call.k.shape[2] > 1:
        return (positions[0] == 0).nonzero()[1:, 0].to(call.q.device)
    return None


def eager(
    call: AttentionCall, cut: Window, dtype: torch.dtype
) -> tuple[Float[Tensor, "S P H Dv"], Float[Tensor, "S H P K"]]:
    """The model's own eager attention on the window: its output and its weights, in `dtype`."""
    q, k, v = cut.of_rows(call.q).to(dtype), cut.of_keys(call.k).to(dtype), cut.of_keys(call.v).to(dtype)
    hidden = max(_HIDDEN, torch.finfo(dtype).min)
    added = (
        torch.zeros(cut.visible.shape, dtype=dtype, device=q.device)
        if cut.mask is None
        else cut.mask.to(dtype)
    )
    mask = added.masked_fill(~cut.visible, hidden)
    arguments: dict[str, Any] = {**call.arguments, "dropout": 0.0}
    if cut.bias is not None:
        arguments["position_bias"] = cut.bias.to(dtype)
    out, weights = call.eager(call.module, q, k, v, mask, **arguments)
    if weights is None or weights.shape != (*q.shape[:3], k.shape[2]):
        raise ModelError(f"{call.name}: the model's eager attention gives no weights to compare with")
    return out, weights


def reference(weights: Float[Tensor, "S H P K"], cut: Window) -> dict[str, Tensor]:
    """Row statistics [S, H, P] and received mass [S, H, K] of the window; NaN where there is none."""
    at = torch.arange(weights.shape[2], device=weights.device) + cut.offset
    stats = {
        name: x.masked_fill(~cut.row_valid[:, None], torch.nan)
        for name, x in row_definitions(weights, at, REAL).items()
    }
    received = (weights * cut.row_valid[:, None, :, None]).nan_to_num().sum(-2)
    return {**stats, "received": received.masked_fill(~cut.key_valid[:, None], torch.nan)}


def bias_error(spec: ScoreSpec, dtype: torch.dtype = torch.float32) -> float:
    """Bound on the rounding error that a bias adds to a score: two roundings of its largest value."""
    if spec.distance_bias is None:
        return 0.0
    return 2 * torch.finfo(dtype).eps * float(spec.distance_bias.abs().amax())


def score_error(call: AttentionCall, cut: Window) -> Float[Tensor, "S H"]:
    """Bound on the rounding error of a float32 score: (√D + 4) · ε · scale · max Σ_d |q_d k_d|, per head.

    √D instead of D because rounding errors are of either sign (Higham & Mary 2019, SIAM J. Sci. Comput.
    41(5)).
    """
    q, k = cut.of_rows(call.q).float().abs(), cut.of_keys(call.k).float().abs()
    group = q.shape[1] // k.shape[1]
    size = torch.matmul(q, k.repeat_interleave(group, 1).transpose(2, 3)) * abs(call.spec.scale)
    size = size.masked_fill(~cut.visible | ~cut.row_valid[:, None, :, None], 0).amax((2, 3))
    error: Tensor = (q.shape[3] ** 0.5 + 4) * torch.finfo(torch.float32).eps * size
    return error + bias_error(call.spec)


def last_rows(
    call: AttentionCall, sample: int, dtype: torch.dtype
) -> tuple[range, Float[Tensor, "H rows Nk"], Float[Tensor, "rows H Dv"]]:
    """Attention of a sample's last valid queries over all keys, written down in `dtype`, by key heads.

    Args:
        call: the call.
        sample: index in the batch.
        dtype: of the computation.

    Returns:
        The rows; their weights; their output. No rows if the sample is all padding.
    """
    queries, keys = (flags[sample] for flags in validity(call))
    last = int(queries.nonzero()[-1]) + 1 if bool(queries.any()) else 0
    rows = range(max(0, last - LAST), last)
    hidden = ~(shown(call, sample, rows) & keys)
    added = [x.to(dtype) for x in _added(call, sample, rows) if x is not None]
    group = call.q.shape[1] // call.k.shape[1]
    weights, outputs = [], []
    for key_head in range(call.k.shape[1]):
        heads = slice(key_head * group, (key_head + 1) * group)
        q = call.q[sample, heads, rows.start : rows.stop].to(dtype)
        scores = q @ call.k[sample, key_head].to(dtype).T * call.spec.scale
        if call.spec.softcap is not None:
            scores = call.spec.softcap * torch.tanh(scores / call.spec.softcap)
        for x in added:
            scores = scores + (x if x.shape[0] == 1 else x[heads])
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
