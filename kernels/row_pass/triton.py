"""Row statistics in Triton: one sweep over the keys of each block of query rows, nothing of size N×N."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from probe.kernels.launch import blocks
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import (
    LN2,
    LOG2E,
    describe,
    inner_rows_of,
    interpreted,
    key_span,
    rows_of,
    score_tile,
    view,
)
from probe.kernels.sweep import absent


@triton.jit
def _row_kernel(
    Q, K, rules, SINK, LSE, ENTROPY, EFFECTIVE, MAX_PROB, MAX_KEY, DISTANCE, MOMENT, KEY_MASS, heads, group,
    F: tl.constexpr, HAS_SINK: tl.constexpr,
    W_LSE: tl.constexpr, W_ENTROPY: tl.constexpr, W_EFFECTIVE: tl.constexpr, W_MAX_PROB: tl.constexpr, W_MAX_KEY: tl.constexpr,
    W_DISTANCE: tl.constexpr, W_MOMENT: tl.constexpr, W_KEY_MASS: tl.constexpr,
    SIZE: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    # The last blocks of a causal map are the longest: start them first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    n_queries, n_keys, offset = rules.n_queries, rules.n_keys, rules.offset
    row = block * M + tl.arange(0, M)
    col = tl.arange(0, N)
    d = tl.arange(0, D)
    q = rows_of(Q, sample, head, row, d, SIZE, n_queries)
    top = tl.full([M], float("-inf"), tl.float32)
    best = tl.full([M], -1, tl.int32)
    total = tl.zeros([M], tl.float32)
    moment1 = tl.zeros([M], tl.float32)
    moment2 = tl.zeros([M], tl.float32)
    away = tl.zeros([M], tl.float32)
    low, high = key_span(block * M, tl.minimum(block * M + M, n_queries) - 1, sample, rules, F)
    low = low // N * N
    # Keys that the whole block sees by causality alone need no mask: [low, open).
    open_ = low
    if not (F.WINDOW or F.CHUNK or F.GROUPS or F.DOCUMENTS or F.KEY_VALID):
        open_ = n_keys // N * N
        if F.CAUSAL:
            open_ = tl.maximum(low, tl.minimum(open_, (block * M + offset + 1) // N * N))
    for phase in tl.static_range(2):
        for start in range(low if phase == 0 else open_, open_ if phase == 0 else high, N):
            key = start + col
            if phase == 0:
                k = inner_rows_of(K, sample, head // group, key, d, SIZE)
            else:
                k = rows_of(K, sample, head // group, key, d, SIZE, n_keys)
            s = score_tile(q, tl.trans(k), row, key, sample, head, rules, phase == 1, F)
            if W_MAX_KEY:
                here, at = tl.max(s, 1, return_indices=True)
                best = tl.where(here > top, start + at, best)
            else:
                here = tl.max(s, 1)
            new = tl.maximum(top, here)
            base = tl.where(new == float("-inf"), 0.0, new)
            s = s - base[:, None]
            p = tl.exp2(s)
            keep = tl.exp2(top - base)
            if W_ENTROPY or W_EFFECTIVE:
                lowered = tl.where(total > 0, total * (top - base), 0.0)
                moment1 = keep * (moment1 + lowered) + tl.sum(tl.where(p > 0, p * s, 0.0), 1)
            if W_MOMENT:
                moment2 = moment2 * keep * keep + tl.sum(p * p, 1)
            if W_DISTANCE:
                gap = tl.abs(key[None, :] - (row + offset)[:, None]).to(tl.float32)
                away = away * keep + tl.sum(p * gap, 1)
            total = total * keep + tl.sum(p, 1)
            top = new
    _write_rows(
        SINK, LSE, ENTROPY, EFFECTIVE, MAX_PROB, MAX_KEY, DISTANCE, MOMENT, KEY_MASS, head,
        (tl.program_id(1).to(tl.int64) * n_queries) + row, row < n_queries, top, best, total, moment1, moment2, away,
        HAS_SINK, W_LSE, W_ENTROPY, W_EFFECTIVE, W_MAX_PROB, W_MAX_KEY, W_DISTANCE, W_MOMENT, W_KEY_MASS,
    )  # fmt: skip


@triton.jit
def _write_rows(
    SINK, LSE, ENTROPY, EFFECTIVE, MAX_PROB, MAX_KEY, DISTANCE, MOMENT, KEY_MASS, head, at, inside, top, best, total,
    moment1, moment2, away, HAS_SINK: tl.constexpr, W_LSE: tl.constexpr, W_ENTROPY: tl.constexpr,
    W_EFFECTIVE: tl.constexpr, W_MAX_PROB: tl.constexpr, W_MAX_KEY: tl.constexpr, W_DISTANCE: tl.constexpr, W_MOMENT: tl.constexpr, W_KEY_MASS: tl.constexpr,
):  # fmt: skip
    """Turn the sums of a finished row block, all relative to 2^top, into statistics in natural units."""
    seen = total > 0
    base = tl.where(seen, top, 0.0)
    keys_total = total
    if HAS_SINK:
        sink = tl.load(SINK + head).to(tl.float32) * LOG2E
        shift = tl.where(seen, tl.maximum(base, sink), sink)
        keep = tl.where(seen, tl.exp2(base - shift), 0.0)
        moment1 = keep * (moment1 + tl.where(seen, total * (base - shift), 0.0))
        moment2 *= keep * keep
        away *= keep
        keys_total = total * keep
        total = keys_total + tl.exp2(sink - shift)
        base = shift
    safe = tl.where(total > 0, total, 1.0)
    log_total = tl.where(total > 0, tl.log2(safe), float("-inf"))
    if W_LSE:
        tl.store(LSE + at, (base + log_total) * LN2, mask=inside)
    if W_ENTROPY or W_EFFECTIVE:
        bits = (keys_total / safe) * tl.where(seen, log_total, 0.0) - moment1 / safe
        if W_ENTROPY:
            tl.store(ENTROPY + at, tl.where(seen, bits * LN2, 0.0), mask=inside)
        if W_EFFECTIVE:
            tl.store(EFFECTIVE + at, tl.where(seen, tl.exp2(bits), 0.0), mask=inside)
    if W_MAX_PROB:
        tl.store(MAX_PROB + at, tl.where(seen, tl.exp2(top - base) / safe, 0.0), mask=inside)
    if W_MAX_KEY:
        tl.store(MAX_KEY + at, best.to(tl.int64), mask=inside)
    if W_DISTANCE:
        tl.store(DISTANCE + at, away / safe, mask=inside)
    if W_MOMENT:
        tl.store(MOMENT + at, moment2 / (safe * safe), mask=inside)
    if W_KEY_MASS:
        tl.store(KEY_MASS + at, keys_total / safe, mask=inside)


_OUTPUTS = {
    "lse": "LSE",
    "entropy": "ENTROPY",
    "effective_keys": "EFFECTIVE",
    "max_prob": "MAX_PROB",
    "max_key": "MAX_KEY",
    "distance": "DISTANCE",
    "second_moment": "MOMENT",
    "key_mass": "KEY_MASS",
}


def row_stats(
    q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"], spec: ScoreSpec, stats: tuple[str, ...]
) -> dict[str, Tensor]:
    """See `probe.kernels.row_pass.row_stats`."""
    batch, heads, n_queries, size = q.shape
    out = {
        name: torch.empty(
            q.shape[:3], dtype=torch.int64 if name == "max_key" else torch.float32, device=q.device
        )
        for name in stats
    }
    rules, flags = describe(spec, q, k.shape[2], interpreted(_row_kernel))
    shape = blocks("row", q.dtype, size, flags.UPCAST)
    dummy = torch.empty(1, device=q.device)
    pointers = {pointer: out.get(name, dummy) for name, pointer in _OUTPUTS.items()}
    wanted = {f"W_{pointer}": name in out for name, pointer in _OUTPUTS.items()}
    sink = dummy if spec.sink is None else spec.sink.float().contiguous()
    _row_kernel[(triton.cdiv(n_queries, shape.M), batch * heads)](
        Q=view(q), K=view(k), rules=rules, SINK=sink, **pointers, heads=heads, group=heads // k.shape[1], F=flags,
        HAS_SINK=spec.sink is not None, **wanted, SIZE=size, D=shape.D, M=shape.M, N=shape.N, **shape.options,
    )  # fmt: skip
    return absent(out, spec)
