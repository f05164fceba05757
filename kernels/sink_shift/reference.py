"""The sink shift in plain torch, chunk by chunk: receivers and marked keys are summed apart, as in the Triton kernel.

Of every row a chunk leaves five numbers and two vectors, each part relative to its own largest score; they are put together
once per key head, because on a CPU thirty small operations for each chunk would cost as much as its softmax.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.heads import by_key_head, of_heads
from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import FLOOR, Chunk, chunks, compute_dtype
from probe.kernels.sink_shift.keys import SinkKeys


class _Parts(NamedTuple):
    """The two parts of every row, each relative to its own largest score, `FLOOR` where there is none.

    Attributes:
        mean: mean of the receivers' values under their softmax.
        marked: Σ weight·value of the marked keys, the sinks already shrunk.
        top, total: largest score and sum of the receivers.
        marked_top, sink_total, kept_total: largest score of the marked keys, and their two sums.
    """

    mean: Float[Tensor, "G rows Dv"]
    marked: Float[Tensor, "G rows Dv"]
    top: Float[Tensor, "G rows"]
    total: Float[Tensor, "G rows"]
    marked_top: Float[Tensor, "G rows"]
    sink_total: Float[Tensor, "G rows"]
    kept_total: Float[Tensor, "G rows"]


@dataclass(frozen=True)
class _Marks:
    """The marked keys of one sample for the G chosen heads of one key head: any head's, in rising order."""

    keys: list[int]
    at: Int[Tensor, "S"]
    sinks: Bool[Tensor, "G S"]
    kept: Bool[Tensor, "1 S"]
    since: Int[Tensor, "G S"] | None


def sink_shift(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    v: Float[Tensor, "B Hkv Nk Dv"],
    spec: ScoreSpec,
    marked: SinkKeys,
    heads: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `probe.kernels.sink_shift.sink_shift`."""
    batch, n, n_queries, group = q.shape[0], len(heads), q.shape[2], q.shape[1] // k.shape[1]
    dtype = compute_dtype(q)
    fresh = partial(torch.empty, dtype=dtype, device=q.device)
    out = torch.empty(batch, n, n_queries, v.shape[3], dtype=q.dtype, device=q.device)
    statistics = [fresh(batch, n, n_queries) for _ in range(3)]
    widest = max(len(places) for _, places, _ in by_key_head(heads, group))
    room = [fresh(widest, n_queries, v.shape[3]) for _ in range(2)]
    room += [fresh(widest, n_queries) for _ in range(5)]
    memory = fresh(0)
    for key_head, places, numbers in by_key_head(heads, group):
        one = slice(key_head, key_head + 1)
        beta = marked.beta[places].to(dtype)[:, None]
        logit = None if spec.sink is None else spec.sink[numbers, None].to(dtype)
        walk = chunks(q[:, numbers], k[:, one], of_heads(spec, numbers))
        for sample, of_sample in groupby(walk, key=lambda chunk: chunk.sample):
            marks = _marks(marked, sample, places)
            values = v[sample, key_head].detach().to(dtype)
            parts = _Parts(*(x[: len(places)] for x in room))
            for chunk in of_sample:
                if memory.numel() < chunk.scores.numel():
                    memory = torch.empty_like(chunk.scores).flatten()
                p = memory[: chunk.scores.numel()].view_as(chunk.scores)
                rows = _sum(chunk, p, spec.offset, values, marks, beta)
                for whole, part in zip(parts, rows, strict=True):
                    whole[:, chunk.rows] = part
            for whole, part in zip((out, *statistics), _join(parts, beta, logit), strict=True):
                whole[sample, places] = part.to(whole.dtype)
    return out, statistics[0], statistics[1], statistics[2]


def _marks(marked: SinkKeys, sample: int, places: list[int]) -> _Marks:
    sinks = marked.sinks[sample, places]
    kept = torch.zeros_like(sinks[:1]) if marked.kept is None else marked.kept[sample, None]
    at = (sinks | kept).any(0).nonzero()[:, 0]
    since = None if marked.since is None else marked.since[sample, places][:, at]
    return _Marks(at.tolist(), at, (sinks & ~kept)[:, at], kept[:, at], since)


def _sum(
    chunk: Chunk,
    p: Float[Tensor, "G rows keys"],
    offset: int,
    values: Float[Tensor, "Nk Dv"],
    marks: _Marks,
    beta: Float[Tensor, "G 1"],
) -> _Parts:
    """The parts of a chunk's rows; its scores are overwritten, and `p` is room for the receivers' softmax."""
    receivers = chunk.scores
    nothing = receivers.new_full(receivers.shape[:2], FLOOR)
    own = slice(bisect_left(marks.keys, chunk.keys.start), bisect_left(marks.keys, chunk.keys.stop))
    special = None
    if own.start < own.stop:
        at = marks.at[own] - chunk.keys.start
        sinks, kept = marks.sinks[:, None, own], marks.kept[:, None, own]
        if marks.since is not None:
            i = torch.arange(chunk.rows.start, chunk.rows.stop, device=at.device)[:, None] + offset
            sinks = sinks & (i >= marks.since[:, None, own])
        both = sinks | kept
        special = receivers.index_select(2, at)
        receivers.index_copy_(2, at, special.masked_fill(both, FLOOR))
        special = special.masked_fill_(~both, FLOOR)
    top = torch.amax(receivers, -1) if receivers.shape[-1] else nothing
    torch.softmax(receivers, -1, out=p)
    # the largest probability is exp(0) / Z, which tells the sum; a row without receivers has none, whatever its softmax
    pays = top > FLOOR
    total = torch.where(pays, 1 / p.amax(-1), 0) if receivers.shape[-1] else torch.zeros_like(top)
    mean = torch.mm(p.flatten(0, 1), values[chunk.keys]).view(*top.shape, -1)
    if special is None:
        none = torch.zeros_like(top)
        return _Parts(mean, torch.zeros_like(mean), top, total, nothing, none, none)
    marked_top = torch.amax(special, -1)
    special = (special - torch.where(marked_top > FLOOR, marked_top, 0.0)[..., None]).exp_()
    of_sinks, of_kept = special * sinks, special * kept
    weights = torch.where(pays, beta, 1)[..., None] * of_sinks + of_kept
    return _Parts(
        mean, weights @ values[marks.at[own]], top, total, marked_top, of_sinks.sum(-1), of_kept.sum(-1)
    )


def _join(
    parts: _Parts, beta: Float[Tensor, "G 1"], logit: Float[Tensor, "G 1"] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, sink mass, receivers' mass and log-sum-exp of every row from its two parts."""
    # everything relative to the row's largest score: a part that does not exist has top FLOOR and total 0
    largest = torch.maximum(parts.top, parts.marked_top)
    if logit is not None:
        largest = torch.maximum(largest, logit)
    keep, marked_keep = (parts.top - largest).exp(), (parts.marked_top - largest).exp()
    whole = parts.total * keep + (parts.sink_total + parts.kept_total) * marked_keep
    if logit is not None:
        whole = whole + (logit - largest).exp()
    safe = torch.where(whole > 0, whole, 1)
    sink_mass, rest_mass = parts.sink_total * marked_keep / safe, parts.total * keep / safe
    pays, least = parts.top > FLOOR, torch.finfo(rest_mass.dtype).tiny
    receives = torch.where(pays, rest_mass + (1 - beta) * sink_mass, 0)
    rest_mass = torch.where(pays, rest_mass.clamp(min=least), 0)
    out = parts.mean.mul_(receives[..., None]).add_(parts.marked.mul_((marked_keep / safe)[..., None]))
    return out, sink_mass, rest_mass, torch.where(whole > 0, largest + safe.log(), -torch.inf)
