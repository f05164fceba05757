"""The strongest keys in Triton: one sweep over the keys of each block of query rows, nothing of size N×N.

A row keeps its list of the best keys so far, unsorted, and the worst of them is the bar. Most tiles hold nothing above any
row's bar and cost one maximum; in the others the rows take their best score out of the tile, one at a time, in place of the
worst in the list, until nothing is above a bar. The sweep starts at the diagonal, so that the bars are high early. Sorting
every tile would cost several times the product itself.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.launch import Blocks, row_blocks
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import (
    LOG2E,
    describe,
    inner_rows_of,
    interpreted,
    key_tiles,
    rows_of,
    score_tile,
    view,
)


@triton.jit
def _bar(scores, keys, start, N: tl.constexpr):
    """What a score in the tile of N keys from `start` must exceed; and the score and key of the worst in each row's list.

    Of equal scores the smaller key is the better one. So where the worst lies behind the tile, an equal score is enough: the
    bar is then the next smaller number.
    """
    worst = tl.min(scores, 1)
    key = tl.max(tl.where(scores == worst[:, None], keys, -2147483648), 1)
    bits = worst.to(tl.int32, bitcast=True)
    below = tl.where(worst > 0, bits - 1, tl.where(worst < 0, bits + 1, -2147483647))
    equal_will_do = (key >= start + N) & (worst > float("-inf"))
    return tl.where(equal_will_do, below.to(tl.float32, bitcast=True), worst), worst, key


@triton.jit
def _insert(s, here, scores, keys, start, col, N: tl.constexpr):
    """Move what is above the bars from a tile `s` into the lists `scores`, `keys` [M, L]; `here` are the tile's row maxima.

    Everything that the loop carries is used in its body: Triton 3.6 and 3.7 stop on an assertion otherwise.
    """
    bar, worst, key = _bar(scores, keys, start, N)
    while tl.max((here > bar).to(tl.int32), 0) > 0:
        takes = here > bar
        at = tl.min(tl.where(s == here[:, None], col[None, :], N), 1)
        place = (scores == worst[:, None]) & (keys == key[:, None]) & takes[:, None]
        scores = tl.where(place, here[:, None], scores)
        keys = tl.where(place, (start + at)[:, None], keys)
        s = tl.where((col[None, :] == at[:, None]) & takes[:, None], float("-inf"), s)
        here = tl.max(s, 1)
        bar, worst, key = _bar(scores, keys, start, N)
    return scores, keys


@triton.jit
def _links_kernel(
    Q, K, rules, SINK, LSE, LINKS, PROBS, heads, group, links,
    F: tl.constexpr, HAS_SINK: tl.constexpr, GIVEN: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    # The last blocks of a causal map are the longest: start them first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    n_queries, n_keys, offset = rules.n_queries, rules.n_keys, rules.offset
    row = block * M + tl.arange(0, M)
    col = tl.arange(0, N)
    d = tl.arange(0, D)
    q = rows_of(Q, sample, head, row, d, SIZE, n_queries)
    scores = tl.full([M, L], float("-inf"), tl.float32)
    # Places that are still empty have numbers of their own below zero, so that one key replaces one place.
    keys = tl.zeros([M, L], tl.int32) - 1 - tl.arange(0, L)[None, :]
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    low, open_, high = key_tiles(block, sample, rules, M, N, F)
    high = tl.maximum(low, (high + N - 1) // N * N)
    for phase in tl.static_range(2):
        # From the diagonal down to the first tile, then from the last tile down to the diagonal.
        begin = open_ if phase == 0 else low
        end = high if phase == 0 else open_
        first = tl.minimum(tl.maximum((block * M + M - 1 + offset) // N * N, begin), end - N)
        for step in range(0, end - begin, N):
            start = first - step
            start = tl.where(start < begin, start + end - begin, start)
            key = start + col
            if phase == 0:
                k = rows_of(K, sample, head // group, key, d, SIZE, n_keys)
            else:
                k = inner_rows_of(K, sample, head // group, key, d, SIZE)
            s = score_tile(q, tl.trans(k), row, key, sample, head, rules, phase == 0, F)
            here = tl.max(s, 1)
            if not GIVEN:
                new = tl.maximum(top, here)
                base = tl.where(new == float("-inf"), 0.0, new)
                total = total * tl.exp2(top - base) + tl.sum(tl.exp2(s - base[:, None]), 1)
                top = new
            bar, _worst, _key = _bar(scores, keys, start, N)
            if tl.max((here > bar).to(tl.int32), 0) > 0:
                scores, keys = _insert(s, here, scores, keys, start, col, N)
    rows_at = tl.program_id(1).to(tl.int64) * n_queries + row
    inside = row < n_queries
    scores, keys = _sorted(scores, keys)
    if GIVEN:
        base = tl.load(LSE + rows_at, mask=inside, other=0.0) * LOG2E
        total = tl.full([M], 1.0, tl.float32)
    else:
        base = tl.where(total > 0, top, 0.0)
        if HAS_SINK:
            sink = tl.load(SINK + head).to(tl.float32) * LOG2E
            shift = tl.where(total > 0, tl.maximum(base, sink), sink)
            total = tl.where(total > 0, total * tl.exp2(base - shift), 0.0) + tl.exp2(sink - shift)
            base = shift
        total = tl.where(total > 0, total, 1.0)
    probs = tl.where(keys >= 0, tl.exp2(scores - base[:, None]) / total[:, None], 0.0)
    at = rows_at[:, None] * links + tl.arange(0, L)[None, :]
    mask = inside[:, None] & (tl.arange(0, L) < links)[None, :]
    tl.store(LINKS + at, keys.to(tl.int64), mask=mask)
    tl.store(PROBS + at, probs, mask=mask)


@triton.jit
def _sorted(scores, keys):
    """Sort the lists by falling score, equal scores by rising key (one integer holds both); key -1 where a place is empty."""
    scores = tl.where(scores == 0, 0.0, scores)  # minus zero equals zero
    bits = scores.to(tl.int32, bitcast=True)
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    packed = tl.sort((rising << 32) | (0x7FFFFFFF - tl.maximum(keys, 0)).to(tl.int64), descending=True)
    rising = (packed >> 32).to(tl.int32)
    scores = (rising ^ ((rising >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return scores, tl.where(scores > float("-inf"), 0x7FFFFFFF - (packed & 0xFFFFFFFF).to(tl.int32), -1)


def shape_of(dtype: torch.dtype, size: int, links: int, interpreted: bool) -> Blocks:
    """Block shape of the sweep, measured on an H100 for bf16 with head size 128; elsewhere the row pass's, lists in registers.

    Narrow tiles pay: fewer of them hold anything above a bar.
    """
    shape = row_blocks(dtype, size, interpreted)
    if interpreted:
        return shape
    if dtype != torch.float32 and shape.D <= 128:
        return Blocks(128, 64, shape.D, {"num_warps": 8, "num_stages": 3})
    if links > 16 and shape.M > 64:
        return replace(shape, M=64)
    return shape


def top_links(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"] | None,
    links: int,
) -> tuple[Int[Tensor, "B H Nq L"], Float[Tensor, "B H Nq L"]]:
    """See `probe.kernels.top_links.top_links`; padding is not marked here."""
    batch, heads, n_queries, size = q.shape
    keys = torch.empty(*q.shape[:3], links, dtype=torch.int64, device=q.device)
    probs = torch.empty(*q.shape[:3], links, dtype=torch.float32, device=q.device)
    rules, flags = describe(spec, q, k.shape[2], interpreted(_links_kernel))
    shape = shape_of(q.dtype, size, links, flags.UPCAST)
    dummy = torch.empty(1, device=q.device)
    sink = dummy if spec.sink is None else spec.sink.float().contiguous()
    _links_kernel[(triton.cdiv(n_queries, shape.M), batch * heads)](
        Q=view(q), K=view(k), rules=rules, SINK=sink, LSE=dummy if lse is None else lse.float().contiguous(), LINKS=keys,
        PROBS=probs, heads=heads, group=heads // k.shape[1], links=links, F=flags, HAS_SINK=spec.sink is not None,
        GIVEN=lse is not None, SIZE=size, D=shape.D, M=shape.M, N=shape.N, L=triton.next_power_of_2(links), **shape.options,
    )  # fmt: skip
    return keys, probs
