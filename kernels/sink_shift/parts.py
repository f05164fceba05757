"""The pieces of the sink shift in Triton: the sweep over receivers, the marked keys, and the row that both make.

A part of a row is (top, sums): its largest score in base 2 and its sums relative to 2^top; -inf and 0 where it is empty.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False

import triton
import triton.language as tl

from probe.kernels.score_tile import LN2, LOG2E, inner_rows_of, rows_of, score_tile


@triton.jit
def receivers(
    q, K, V, HIDE, hide_at, n_marked, row, sample, head, key_head, rules, low, open_, high, acc, top, total,
    F: tl.constexpr, TIMED: tl.constexpr, SIZE: tl.constexpr, SIZE_V: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """Flash attention over the keys [low, high) that are not marked; those of [low, open_) need no mask."""
    col = tl.arange(0, N)
    d = tl.arange(0, D)
    dv = tl.arange(0, DV)
    i = row + rules.offset
    for phase in tl.static_range(2):
        for start in range(low if phase == 0 else open_, open_ if phase == 0 else high, N):
            key = start + col
            if phase == 0:
                k = inner_rows_of(K, sample, key_head, key, d, SIZE)
            else:
                k = rows_of(K, sample, key_head, key, d, SIZE, rules.n_keys)
            s = score_tile(q, tl.trans(k), row, key, sample, head, rules, phase == 1, F)
            if TIMED:
                since = tl.load(HIDE + hide_at + key, mask=key < n_marked, other=2147483647)
                s = tl.where(i[:, None] >= since[None, :], float("-inf"), s)
            else:
                s += tl.load(HIDE + hide_at + key, mask=key < n_marked, other=0.0)[None, :]
            new = tl.maximum(top, tl.max(s, 1))
            base = tl.where(new == float("-inf"), 0.0, new)
            p = tl.exp2(s - base[:, None])
            keep = tl.exp2(top - base)
            total = total * keep + tl.sum(p, 1)
            acc = acc * keep[:, None]
            if phase == 0:
                v = inner_rows_of(V, sample, key_head, key, dv, SIZE_V)
            else:
                v = rows_of(V, sample, key_head, key, dv, SIZE_V, rules.n_keys)
            if F.UPCAST:
                v = v.to(tl.float32)
            acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
            top = new
    return acc, top, total


@triton.jit
def marked_keys(
    q, K, V, HIDE, LIST, marks_at, count, row, sample, head, key_head, rules, share,
    F: tl.constexpr, TIMED: tl.constexpr, KEPT: tl.constexpr, SIZE: tl.constexpr, SIZE_V: tl.constexpr, D: tl.constexpr,
    DV: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Attention over the marked keys, gathered from their list; sinks weigh `share` in the output, kept keys 1."""
    d = tl.arange(0, D)
    dv = tl.arange(0, DV)
    i = row + rules.offset
    acc = tl.zeros([M, DV], tl.float32)
    top = tl.full([M], float("-inf"), tl.float32)
    sinks = tl.zeros([M], tl.float32)
    kept = tl.zeros([M], tl.float32)
    for start in range(0, count, N):
        at = start + tl.arange(0, N)
        entry = tl.load(LIST + marks_at + at, mask=at < count, other=2 * rules.n_keys)
        key = entry >> 1
        k = rows_of(K, sample, key_head, key, d, SIZE, rules.n_keys)
        v = rows_of(V, sample, key_head, key, dv, SIZE_V, rules.n_keys)
        s = score_tile(q, tl.trans(k), row, key, sample, head, rules, True, F)
        if TIMED:
            since = tl.load(HIDE + marks_at + key, mask=at < count, other=2147483647)
            s = tl.where(i[:, None] >= since[None, :], s, float("-inf"))
        new = tl.maximum(top, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - base[:, None])
        keep = tl.exp2(top - base)
        weight = p * share[:, None]
        if KEPT:
            is_kept = ((entry & 1) != 0)[None, :]
            kept = kept * keep + tl.sum(tl.where(is_kept, p, 0.0), 1)
            sinks = sinks * keep + tl.sum(tl.where(is_kept, 0.0, p), 1)
            weight = tl.where(is_kept, p, weight)
        else:
            sinks = sinks * keep + tl.sum(p, 1)
        if F.UPCAST:
            v = v.to(tl.float32)
        acc = tl.dot(weight.to(v.dtype), v, acc * keep[:, None], input_precision="ieee")
        top = new
    return acc, top, sinks, kept


@triton.jit
def write_rows(
    OUT, MASS, REST, LSE, SINK, head, out_at, inside, acc, top, total, marked_acc, marked_top, sinks, kept, share,
    HAS_SINK: tl.constexpr, SIZE_V: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """Join receivers and marked keys of finished rows; nothing is divided by what the sinks leave over."""
    largest = tl.maximum(top, marked_top)
    logit = 0.0
    if HAS_SINK:
        logit = tl.load(SINK + head).to(tl.float32) * LOG2E
        largest = tl.maximum(largest, logit)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    keep, marked_keep = tl.exp2(top - base), tl.exp2(marked_top - base)
    whole = total * keep + (sinks + kept) * marked_keep
    if HAS_SINK:
        whole += tl.exp2(logit - base)
    some = whole > 0
    safe = tl.where(some, whole, 1.0)
    mass = sinks * marked_keep / safe
    rest = total * keep / safe
    receives = (rest + (1.0 - share) * mass) / tl.where(total > 0, total, 1.0)
    out = acc * receives[:, None] + marked_acc * (marked_keep / safe)[:, None]
    dv = tl.arange(0, DV)
    tl.store(
        OUT + out_at[:, None] * SIZE_V + dv[None, :],
        out.to(OUT.dtype.element_ty),
        mask=inside[:, None] & (dv < SIZE_V)[None, :],
    )
    tl.store(MASS + out_at, mass, mask=inside)
    # the least normal number stands for what float32 cannot hold: 0 says that there is no receiver
    tl.store(REST + out_at, tl.where(total > 0, tl.maximum(rest, 1.1754943508222875e-38), 0.0), mask=inside)
    lse = tl.where(some, (base + tl.log2(safe)) * LN2, float("-inf"))
    tl.store(LSE + out_at, lse, mask=inside)
