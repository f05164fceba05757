"""The sink shift in plain torch, chunk by chunk: receivers and marked keys are summed apart, as in the Triton kernel."""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.heads import by_key_head, of_heads
from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import FLOOR, Chunk, chunks, compute_dtype
from probe.kernels.sink_shift.keys import SinkKeys


def sink_shift(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    v: Float[Tensor, "B Hkv Nk Dv"],
    spec: ScoreSpec,
    marked: SinkKeys,
    heads: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `probe.kernels.sink_shift.sink_shift`."""
    dtype = compute_dtype(q)
    shape = (q.shape[0], len(heads), q.shape[2])
    out = torch.empty(*shape, v.shape[3], dtype=q.dtype, device=q.device)
    statistics = [torch.empty(shape, dtype=dtype, device=q.device) for _ in range(3)]
    for key_head, places, numbers in by_key_head(heads, q.shape[1] // k.shape[1]):
        one = slice(key_head, key_head + 1)
        beta = marked.beta[places].to(dtype)[:, None]
        for chunk in chunks(q[:, numbers], k[:, one], of_heads(spec, numbers)):
            logit = None if spec.sink is None else spec.sink[numbers, None].to(dtype)
            values = v[chunk.sample, key_head, chunk.keys].detach().to(dtype)
            rows = _shift(chunk, spec.offset, values, marked, places, beta, logit)
            out[chunk.sample, places, chunk.rows] = rows[0].to(q.dtype)
            for whole, part in zip(statistics, rows[1:], strict=True):
                whole[chunk.sample, places, chunk.rows] = part
    return out, statistics[0], statistics[1], statistics[2]


def _shift(
    chunk: Chunk,
    offset: int,
    values: Float[Tensor, "keys Dv"],
    marked: SinkKeys,
    places: list[int],
    beta: Float[Tensor, "G 1"],
    logit: Float[Tensor, "G 1"] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and statistics of a chunk [G, rows, …]; its scores are overwritten."""
    receivers = chunk.scores
    sinks, kept, at = _marks(chunk, offset, marked, places)
    special = receivers[:, :, at]
    receivers[:, :, at] = special.masked_fill(sinks | kept, FLOOR)
    special = special.masked_fill(~(sinks | kept), FLOOR)
    top = torch.amax(receivers, -1) if receivers.shape[-1] else receivers.new_full(receivers.shape[:2], FLOOR)
    p = torch.softmax(receivers, -1)
    # the largest probability is exp(0) / Z, which tells the sum; a row without receivers has none, whatever its softmax
    pays = top > FLOOR
    total = torch.where(pays, 1 / p.amax(-1), 0) if receivers.shape[-1] else torch.zeros_like(top)
    special_top = torch.amax(special, -1) if len(at) else torch.full_like(top, FLOOR)
    special_p = (special - torch.where(special_top > FLOOR, special_top, 0.0)[..., None]).exp_()
    sink_total, kept_total = (special_p * sinks).sum(-1), (special_p * kept).sum(-1)
    # everything relative to the row's largest score: a part that does not exist has top FLOOR and total 0
    largest = torch.maximum(top, special_top)
    if logit is not None:
        largest = torch.maximum(largest, logit)
    keep, special_keep = (top - largest).exp(), (special_top - largest).exp()
    whole = total * keep + (sink_total + kept_total) * special_keep
    if logit is not None:
        whole = whole + (logit - largest).exp()
    safe = torch.where(whole > 0, whole, 1)
    sink_mass, rest_mass = sink_total * special_keep / safe, total * keep / safe
    share = torch.where(pays, beta, 1)
    weights = torch.where(kept, special_p, special_p * share[..., None]) * (special_keep / safe)[..., None]
    receives = torch.where(pays, rest_mass + (1 - share) * sink_mass, 0)
    out = (p.flatten(0, 1) @ values).view(*p.shape[:2], -1) * receives[..., None] + weights @ values[at]
    return out, sink_mass, rest_mass, torch.where(whole > 0, largest + safe.log(), -torch.inf)


def _marks(chunk: Chunk, offset: int, marked: SinkKeys, places: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sinks and kept keys of a chunk [G, rows or 1, marked keys], and where these lie in its span."""
    span = slice(chunk.keys.start, min(chunk.keys.stop, marked.sinks.shape[2]))
    sinks = marked.sinks[chunk.sample, places, span]
    kept = torch.zeros_like(sinks[:1]) if marked.kept is None else marked.kept[chunk.sample, None, span]
    at = (sinks | kept).any(0).nonzero()[:, 0]
    sinks, kept = (sinks & ~kept)[:, None, at], kept[:, None, at]
    if marked.since is not None:
        i = torch.arange(chunk.rows.start, chunk.rows.stop, device=sinks.device)[:, None] + offset
        sinks = sinks & (i >= marked.since[chunk.sample, places, span][:, None, at])
    return sinks, kept.expand_as(sinks), at
