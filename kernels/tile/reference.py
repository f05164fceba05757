"""Any rectangle of the map in plain torch."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.heads import by_key_head, of_heads
from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import CHUNK_SCORES, FLOOR, _apply_rules, compute_dtype


def tile(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"] | None,
    rows: Int[Tensor, "R"],
    keys: Int[Tensor, "C"],
    heads: tuple[int, ...],
) -> Float[Tensor, "B n R C"]:
    """See `probe.kernels.tile.tile`; weights with `lse`, scores without."""
    dtype = compute_dtype(q)
    out = torch.empty(q.shape[0], len(heads), len(rows), len(keys), dtype=dtype, device=q.device)
    cover = range(int(keys.min()), int(keys.max()) + 1)
    neighbours = len(keys) == len(cover) and bool((keys.diff() == 1).all())
    budget = CHUNK_SCORES.get(q.device.type, CHUNK_SCORES["cpu"])
    row_at, key_at = rows.to(q.device), keys.to(q.device)
    for key_head, places, numbers in by_key_head(heads, q.shape[1] // k.shape[1]):
        rules = of_heads(spec, numbers)
        # the soft cap needs no positions; what is left of the rules is a bias that may be -inf
        capped, biased = ScoreSpec(scale=spec.scale, softcap=spec.softcap), replace(rules, softcap=None)
        every = slice(0, len(numbers))
        for b in range(q.shape[0]):
            keys_t = k[b, key_head, key_at].to(dtype).T.contiguous()
            for at, run in _runs(rows, max(1, budget // (len(numbers) * len(cover)))):
                block = q[b, numbers][:, row_at[at]].to(dtype) * spec.scale
                scores = (block.reshape(-1, q.shape[3]) @ keys_t).view(len(numbers), len(run), -1)
                if neighbours:
                    scores = _apply_rules(scores, rules, b, every, run, cover)
                else:
                    scores = _apply_rules(scores, capped, b, every, run, cover)
                    bias = scores.new_zeros(len(numbers), len(run), len(cover))
                    scores += _apply_rules(bias, biased, b, every, run, cover)[:, :, key_at - cover.start]
                scores.masked_fill_(scores < FLOOR / 2, -torch.inf)
                if lse is not None:
                    normaliser = lse[b, numbers][:, row_at[at]].to(dtype)
                    # a row that sees nothing has lse -inf, and -inf - -inf is no number
                    scores = (
                        scores - torch.where(normaliser == -torch.inf, 0.0, normaliser)[..., None]
                    ).exp_()
                out[b, places, at] = scores
    if spec.query_valid is not None:
        out.masked_fill_(~spec.query_valid[:, None, row_at, None], torch.nan)
    return out


def _runs(rows: Int[Tensor, "R"], longest: int) -> Iterator[tuple[slice, range]]:
    """Cut row numbers into runs of neighbours, at most `longest` each: their place in the vector and the rows."""
    breaks = (rows.diff() != 1).nonzero()[:, 0] + 1
    ends = [0, *breaks.tolist(), len(rows)]
    for first, last in pairwise(ends):
        for at in range(first, last, longest):
            size = min(longest, last - at)
            start = int(rows[at])
            yield slice(at, at + size), range(start, start + size)
