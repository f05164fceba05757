"""The row pass for plain calls on Hopper: log-sum-exp and entropy, causal or full, see `launch.hopper_covers`."""

import torch
from jaxtyping import Float
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma_wait,
)

from probe.kernels.hopper import arrived, barriers, blocks_of, fetch, finish, product, programs
from probe.kernels.score import ScoreSpec

#: The statistics that this pass gives.
STATISTICS = frozenset({"lse", "entropy", "effective_keys"})
_M, _N, _STAGES, _BODY = 128, 64, 2, 2
_OPTIONS = {"num_warps": 8, "maxnreg": 128}  # two programs to a multiprocessor
_LOG2E = 1.4426950408889634
_LN2 = gl.constexpr(0.6931471805599453)
#: As in the general pass: a row sum that is larger was taken relative to a score far below the maximum.
_FAR = gl.constexpr(2.0**24)


@gluon.jit
def _add_fixed(s, scale, level, total, moment, ENTROPY: gl.constexpr):
    """Add a tile relative to the level of its rows; every thread sums what it holds, over 8 columns apart."""
    M: gl.constexpr = s.shape[0]
    N: gl.constexpr = s.shape[1]
    z = s * scale - level[:, None]
    p = gl.exp2(z)
    total += gl.sum(gl.reshape(p, [M, N // 8, 8]), 1)
    if ENTROPY:
        moment += gl.sum(gl.reshape(p * z, [M, N // 8, 8]), 1)
    return total, moment


@gluon.jit
def _add_online(s, top, total, moment):
    """Add a tile of scores with a running maximum."""
    new = gl.maximum(top, gl.max(s, 1))
    base = gl.where(new == float("-inf"), 0.0, new)
    keep = gl.exp2(top - base)
    z = s - base[:, None]
    p = gl.exp2(z)
    moment = keep * (moment + gl.where(total > 0, total * (top - base), 0.0))
    moment += gl.sum(gl.where(p > 0, p * z, 0.0), 1)
    return new, total * keep + gl.sum(p, 1), moment


@gluon.jit(
    do_not_specialize=["n_queries", "n_keys", "offset", "heads", "key_heads"]
)  # one kernel for all lengths
def _row_kernel(
    Q, K, LSE, ENTROPY, n_queries, n_keys, offset, scale, heads, key_heads,
    CAUSAL: gl.constexpr, WANTED: gl.constexpr, M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    BODY: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    # The last blocks of a causal map are the longest: start them first.
    block = gl.num_programs(0) - 1 - gl.program_id(0)
    at = gl.program_id(1)
    sample = at // heads
    head = at % heads
    key_head = head * key_heads // heads
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, N, 16])
    of_row: gl.constexpr = gl.SliceLayout(1, layout)
    q_smem = gl.allocate_shared_memory(Q.dtype, [1, 1, M, D], Q.layout)
    k_smem = gl.allocate_shared_memory(K.dtype, [STAGES, 1, 1, 2 * N, D], K.layout)
    full, own = barriers(STAGES)
    fence_async_shared()
    mbarrier.expect(own, Q.block_type.nbytes)
    tma.async_copy_global_to_shared(Q, [sample, head, block * M, 0], own, q_smem)

    # Blocks of 2N keys. First those that need a mask (they hold the nearest keys) and the very first (it holds the usual
    # sink), with a running maximum: they set the level of a row. Relative to it the others need no maximum.
    blocks = gl.cdiv(n_keys, 2 * N)
    open_ = n_keys // (2 * N)
    if CAUSAL:
        blocks = gl.minimum(blocks, gl.cdiv(block * M + M + offset, 2 * N))
        open_ = gl.minimum(open_, (block * M + offset + 1) // (2 * N))
    masked = blocks - open_
    before = masked + gl.minimum(open_, 1)
    before += (blocks - before) % BODY
    for i in gl.static_range(STAGES):
        there = gl.where(i < masked, open_ + i, i - masked)
        fetch(K, k_smem, full, sample, key_head, there * 2 * N, i, STAGES, i < blocks)
    mbarrier.wait(own, 0)
    q = q_smem.reshape([M, D])
    zero = gl.zeros([M, N], gl.float32, layout)
    row = block * M + gl.arange(0, M, of_row)
    key = gl.arange(0, N, gl.SliceLayout(0, layout))
    top = gl.full([M], float("-inf"), gl.float32, of_row)
    total = gl.zeros([M], gl.float32, of_row)
    moment = gl.zeros([M], gl.float32, of_row)
    for use in range(0, before):
        first = gl.where(use < masked, open_ + use, use - masked) * 2 * N
        arrived(full, use, STAGES)
        for half in gl.static_range(2):
            s = warpgroup_mma_wait(0, [product(q, k_smem, use, half, N, D, STAGES, zero)]) * scale
            if use < masked:
                here = first + half * N + key
                seen = (here < n_keys)[None, :]
                if CAUSAL:
                    seen = seen & (here[None, :] <= (row + offset)[:, None])
                s = gl.where(seen, s, float("-inf"))
            top, total, moment = _add_online(s, top, total, moment)
        after = use + STAGES
        there = gl.where(after < masked, open_ + after, after - masked)
        fetch(K, k_smem, full, sample, key_head, there * 2 * N, after, STAGES, after < blocks)
    level = gl.where(top == float("-inf"), 0.0, top)
    # Two products are under way at a time, and none when a step of the loop ends: so the assembler keeps this order.
    sums = gl.sum(gl.reshape(zero, [M, N // 8, 8]), 1)
    moments = sums
    for step in range(0, (blocks - before) // BODY):
        use = before + step * BODY
        arrived(full, use, STAGES)
        even = product(q, k_smem, use, 0, N, D, STAGES, zero)
        for part in gl.static_range(BODY):
            odd = product(q, k_smem, use + part, 1, N, D, STAGES, zero)
            s, sums, moments = warpgroup_mma_wait(1, [even, sums, moments])
            sums, moments = _add_fixed(s, scale, level, sums, moments, WANTED)
            if part + 1 < BODY:
                arrived(full, use + part + 1, STAGES)
                even = product(q, k_smem, use + part + 1, 0, N, D, STAGES, zero)
                s, sums, moments = warpgroup_mma_wait(1, [odd, sums, moments])
            else:
                s, sums, moments = warpgroup_mma_wait(0, [odd, sums, moments])
            after = use + part + STAGES
            fetch(K, k_smem, full, sample, key_head, (after - masked) * 2 * N, after, STAGES, after < blocks)
            sums, moments = _add_fixed(s, scale, level, sums, moments, WANTED)
    all_total = total + gl.convert_layout(gl.sum(sums, 1), of_row)
    all_moment = moment + gl.convert_layout(gl.sum(moments, 1), of_row)
    if (
        gl.max(gl.where(all_total < _FAR, 0, 1), 0) > 0
    ):  # a level far below the maximum: take them again with a running one
        for there in range(before - masked, blocks - masked):
            use = there + masked - before + blocks
            fetch(K, k_smem, full, sample, key_head, there * 2 * N, use, STAGES, True)
            arrived(full, use, STAGES)
            for half in gl.static_range(2):
                s = warpgroup_mma_wait(0, [product(q, k_smem, use, half, N, D, STAGES, zero)]) * scale
                top, total, moment = _add_online(s, top, total, moment)
        all_total = total
        all_moment = moment
    finish(full, own, STAGES)
    base = gl.where(top == float("-inf"), 0.0, top)
    out = at.to(gl.int64) * n_queries + row
    safe = gl.where(all_total > 0, all_total, 1.0)
    log_total = gl.where(all_total > 0, gl.log2(safe), float("-inf"))
    gl.store(LSE + out, (base + log_total) * _LN2, mask=row < n_queries)
    if WANTED:
        entropy = gl.where(all_total > 0, (log_total - all_moment / safe) * _LN2, 0.0)
        gl.store(ENTROPY + out, entropy, mask=row < n_queries)


def row_stats(
    q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"], spec: ScoreSpec, stats: tuple[str, ...]
) -> dict[str, Tensor]:
    """See `probe.kernels.row_pass.row_stats`, for the statistics in `STATISTICS`."""
    (batch, heads, n_queries, size), n_keys = q.shape, k.shape[2]
    lse = torch.empty(batch, heads, n_queries, dtype=torch.float32, device=q.device)
    wanted = "entropy" in stats or "effective_keys" in stats
    entropy = torch.empty_like(lse) if wanted else lse
    _row_kernel[programs(n_queries, _M, batch * heads)](
        blocks_of(q, _M), blocks_of(k, 2 * _N), lse, entropy, n_queries, n_keys, spec.offset, spec.scale * _LOG2E, heads,
        k.shape[1], CAUSAL=spec.causal, WANTED=wanted, M=_M, N=_N, D=size, STAGES=_STAGES, BODY=_BODY, **_OPTIONS,
    )  # fmt: skip
    given = {"lse": lse, "entropy": entropy}
    return {name: given[name] if name in given else entropy.exp() for name in stats}
