"""Row statistics in Triton: one sweep over the keys of each block of query rows, nothing of size N×N."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.launch import apply_blocks, core_width, hopper_covers, row_blocks
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import (
    LN2,
    LOG2E,
    describe,
    inner_rows_of,
    interpreted,
    key_tiles,
    rows_of,
    score_tile,
    view,
)
from probe.kernels.sweep import absent

#: A row sum relative to 2^top that is larger was taken relative to a score far below the maximum: take the block again.
_FAR = tl.constexpr(2.0**24)


class Wanted(NamedTuple):
    """What a row kernel is compiled for."""

    LSE: bool
    ENTROPY: bool
    EFFECTIVE: bool
    MAX_PROB: bool
    MAX_KEY: bool
    DISTANCE: bool
    MOMENT: bool
    KEY_MASS: bool
    SETS: bool
    APPLIED: bool
    SINK: bool


class Out(NamedTuple):
    """Where a row kernel writes: the statistics [B, H, Nq], the masses on sets [B, H, Nq, S], the products [B, H, Nq, C]."""

    lse: Any
    entropy: Any
    effective_keys: Any
    max_prob: Any
    max_key: Any
    distance: Any
    second_moment: Any
    key_mass: Any
    set_mass: Any
    applied: Any


class Sums(NamedTuple):
    """What a sweep carries for each row, all relative to 2^top."""

    top: Any
    best: Any
    total: Any
    moment: Any
    squares: Any
    away: Any
    sets: Any
    applied: Any


@triton.jit
def _none_yet(M: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    zeros = tl.zeros([M], tl.float32)
    return Sums(tl.full([M], float("-inf"), tl.float32), tl.full([M], -1, tl.int32), zeros, zeros, zeros, zeros,
                tl.zeros([M, S], tl.float32), tl.zeros([M, C], tl.float32))  # fmt: skip


@triton.jit
def _take(
    sums, low, high, q, K, X, BITS, row, sample, head, rules, key_heads, set_heads, x_heads, heads,
    MASK: tl.constexpr, FIXED: tl.constexpr, F: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr,
    N: tl.constexpr, S: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Take the keys of [low, high) into the sums of a block of rows.

    FIXED leaves `top` where it is: no maximum, no rescaling; the caller looks at the sums afterwards.
    """
    top, best, total, moment = sums.top, sums.best, sums.total, sums.moment
    squares, away, sets, applied = sums.squares, sums.away, sums.sets, sums.applied
    d = tl.arange(0, D)
    for start in range(low, high, N):
        key = start + tl.arange(0, N)
        if MASK:
            k = rows_of(K, sample, head * key_heads // heads, key, d, SIZE, rules.n_keys)
        else:
            k = inner_rows_of(K, sample, head * key_heads // heads, key, d, SIZE)
        s = score_tile(q, tl.trans(k), row, key, sample, head, rules, MASK, F)
        if FIXED:
            s -= top[:, None]
        else:
            if W.MAX_KEY:
                here, at = tl.max(s, 1, return_indices=True)
                # the nearest keys come first, so of equals the one with the smaller number may come later
                better = (here > top) | ((here == top) & (start + at < best))
                best = tl.where(better, start + at, best)
            else:
                here = tl.max(s, 1)
            new = tl.maximum(top, here)
            base = tl.where(new == float("-inf"), 0.0, new)
            s -= base[:, None]
            keep = tl.exp2(top - base)
            if W.ENTROPY or W.EFFECTIVE:
                moment = keep * (moment + tl.where(total > 0, total * (top - base), 0.0))
            squares *= keep * keep
            away *= keep
            total *= keep
            if W.SETS:
                sets *= keep[:, None]
            if W.APPLIED:
                applied *= keep[:, None]
            top = new
        p = tl.exp2(s)
        total += tl.sum(p, 1)
        if W.ENTROPY or W.EFFECTIVE:
            if MASK or F.TABLE:  # 0 times minus infinity
                moment += tl.sum(tl.where(p > 0, p * s, 0.0), 1)
            else:
                moment += tl.sum(p * s, 1)
        if W.MOMENT:
            squares += tl.sum(p * p, 1)
        if W.DISTANCE:
            away += tl.sum(p * tl.abs(key[None, :] - (row + rules.offset)[:, None]).to(tl.float32), 1)
        if W.SETS:
            at = (sample * set_heads + head * set_heads // heads).to(tl.int64) * rules.n_keys
            bits = tl.load(BITS + at + key, mask=key < rules.n_keys, other=0)
            member = ((bits[:, None] >> tl.arange(0, S)[None, :]) & 1).to(tl.float32)
            sets = tl.dot(p, member, sets, input_precision="tf32x3")
        if W.APPLIED:
            c = tl.arange(0, C)
            x = rows_of(X, sample, head * x_heads // heads, key, c, WIDTH, rules.n_keys)
            if F.UPCAST:
                applied = tl.dot(p, x.to(tl.float32), applied, input_precision="ieee")
            elif X.at.dtype.element_ty == tl.float32:
                applied = tl.dot(p, x, applied, input_precision="tf32x3")
            else:
                applied = tl.dot(p.to(x.dtype), x, applied)
    return Sums(top, best, total, moment, squares, away, sets, applied)


@triton.jit
def _row_kernel(
    Q, K, X, BITS, SINK, rules, out, heads, key_heads, set_heads, x_heads,
    F: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    S: tl.constexpr, N_SETS: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # The last blocks of a causal map are the longest: start them first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    row = block * M + tl.arange(0, M)
    q = rows_of(Q, sample, head, row, tl.arange(0, D), SIZE, rules.n_queries)
    low, open_, high = key_tiles(block, sample, rules, M, N, F)
    # The masked keys, which hold the nearest, and the first block, which holds the usual sink, set the level of the row;
    # relative to that level the others need no maximum, unless they prove to lie far above it.
    first = tl.minimum(low + N, open_)
    sums = _none_yet(M, S, C)
    sums = _take(sums, open_, high, q, K, X, BITS, row, sample, head, rules, key_heads, set_heads, x_heads, heads,
                 True, False, F, W, SIZE, D, N, S, C, WIDTH)  # fmt: skip
    sums = _take(sums, low, first, q, K, X, BITS, row, sample, head, rules, key_heads, set_heads, x_heads, heads,
                 False, False, F, W, SIZE, D, N, S, C, WIDTH)  # fmt: skip
    if W.MAX_KEY or W.MAX_PROB or W.APPLIED or F.TABLE:  # a table may hide the whole first block
        sums = _take(sums, first, open_, q, K, X, BITS, row, sample, head, rules, key_heads, set_heads, x_heads, heads,
                     False, False, F, W, SIZE, D, N, S, C, WIDTH)  # fmt: skip
    else:
        level = sums
        sums = _take(sums, first, open_, q, K, X, BITS, row, sample, head, rules, key_heads, set_heads, x_heads, heads,
                     False, True, F, W, SIZE, D, N, S, C, WIDTH)  # fmt: skip
        if tl.max(tl.where(sums.total < _FAR, 0, 1)) > 0:
            sums = _take(level, first, open_, q, K, X, BITS, row, sample, head, rules, key_heads, set_heads, x_heads,
                         heads, False, False, F, W, SIZE, D, N, S, C, WIDTH)  # fmt: skip
    at = tl.program_id(1).to(tl.int64) * rules.n_queries + row
    _write_rows(sums, out, SINK, head, at, row < rules.n_queries, W, S, N_SETS, C, WIDTH)


@triton.jit
def _write_rows(
    sums, out, SINK, head, at, inside, W: tl.constexpr, S: tl.constexpr, N_SETS: tl.constexpr, C: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn the sums of a finished row block into statistics in natural units."""
    seen = sums.total > 0
    base = tl.where(seen, sums.top, 0.0)
    total, moment, keep = sums.total, sums.moment, 1.0
    if W.SINK:
        sink = tl.load(SINK + head).to(tl.float32) * LOG2E
        shift = tl.where(seen, tl.maximum(base, sink), sink)
        keep = tl.where(seen, tl.exp2(base - shift), 0.0)
        moment = keep * (moment + tl.where(seen, total * (base - shift), 0.0))
        total = total * keep + tl.exp2(sink - shift)
        base = shift
    safe = tl.where(total > 0, total, 1.0)
    share = keep / safe
    log_total = tl.where(total > 0, tl.log2(safe), float("-inf"))
    if W.LSE:
        tl.store(out.lse + at, (base + log_total) * LN2, mask=inside)
    if W.ENTROPY or W.EFFECTIVE:
        bits = sums.total * share * tl.where(seen, log_total, 0.0) - moment / safe
        if W.ENTROPY:
            tl.store(out.entropy + at, tl.where(seen, bits * LN2, 0.0), mask=inside)
        if W.EFFECTIVE:
            tl.store(out.effective_keys + at, tl.where(seen, tl.exp2(bits), 0.0), mask=inside)
    if W.MAX_PROB:
        tl.store(out.max_prob + at, tl.where(seen, tl.exp2(sums.top - base) / safe, 0.0), mask=inside)
    if W.MAX_KEY:
        tl.store(out.max_key + at, sums.best.to(tl.int64), mask=inside)
    if W.DISTANCE:
        tl.store(out.distance + at, sums.away * share, mask=inside)
    if W.MOMENT:
        tl.store(out.second_moment + at, sums.squares * share * share, mask=inside)
    if W.KEY_MASS:
        tl.store(out.key_mass + at, sums.total * share, mask=inside)
    if W.SETS:
        _write_block(out.set_mass, sums.sets * (sums.total * 0 + share)[:, None], at, inside, S, N_SETS)
    if W.APPLIED:
        _write_block(out.applied, sums.applied * (sums.total * 0 + share)[:, None], at, inside, C, WIDTH)


@triton.jit
def _write_block(pointer, values, at, inside, PADDED: tl.constexpr, WIDTH: tl.constexpr):
    column = tl.arange(0, PADDED)
    mask = inside[:, None] & (column < WIDTH)[None, :]
    tl.store(pointer + at[:, None] * WIDTH + column[None, :], values, mask=mask)


def row_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    stats: tuple[str, ...],
    x: Float[Tensor, "B Hx Nk C"] | None,
    key_sets: Bool[Tensor, "B Hs Nk S"] | None,
) -> dict[str, Tensor]:
    """See `probe.kernels.row_pass.row_stats`."""
    if x is None and key_sets is None and hopper_covers(q, k, spec):
        from probe.kernels.row_pass import hopper

        if hopper.STATISTICS.issuperset(stats):
            return hopper.row_stats(q, k, spec, stats)
    batch, heads, n_queries, size = q.shape

    def fresh(dtype: torch.dtype, *width: int) -> Tensor:
        return torch.empty(batch, heads, n_queries, *width, dtype=dtype, device=q.device)

    results = {name: fresh(torch.int64 if name == "max_key" else torch.float32) for name in stats}
    if key_sets is not None:
        results["set_mass"] = fresh(torch.float32, key_sets.shape[3])
    if x is not None:
        results["applied"] = fresh(torch.float32, x.shape[3])
    rules, flags = describe(spec, q, k.shape[2], interpreted(_row_kernel))
    wanted = Wanted._make([*(name in results for name in Out._fields), spec.sink is not None])
    dummy = torch.empty(1, device=q.device)
    bits = dummy if key_sets is None else _bits(key_sets)
    shape = row_blocks(q.dtype, size, flags.UPCAST)
    if x is not None:
        shape = apply_blocks(q.dtype, size, x.dtype, x.shape[3], flags.UPCAST)
    _row_kernel[(triton.cdiv(n_queries, shape.M), batch * heads)](
        Q=view(q), K=view(k), X=view(q if x is None else x), BITS=bits, SINK=dummy if spec.sink is None else spec.sink,
        rules=rules, out=Out(*(results.get(name, dummy) for name in Out._fields)), heads=heads, key_heads=k.shape[1],
        set_heads=1 if key_sets is None else key_sets.shape[1], x_heads=1 if x is None else x.shape[1], F=flags, W=wanted,
        SIZE=size, D=shape.D, M=shape.M, N=shape.N, **_widths(key_sets, x), **shape.options,
    )  # fmt: skip
    return absent(results, spec)


def _bits(key_sets: Bool[Tensor, "B Hs Nk S"]) -> Tensor:
    """One bit per set: [B, Hs, Nk] int32."""
    place = torch.arange(key_sets.shape[3], device=key_sets.device)
    return (key_sets.long() << place).sum(-1).to(torch.int32).contiguous()


def _widths(key_sets: Tensor | None, x: Tensor | None) -> dict[str, int]:
    """Widths of the two blocks of columns, and padded to what a tensor core takes."""
    count, width = (1 if t is None else t.shape[3] for t in (key_sets, x))
    padded = [1 if t is None else core_width(n) for t, n in ((key_sets, count), (x, width))]
    return {"S": padded[0], "N_SETS": count, "C": padded[1], "WIDTH": width}
