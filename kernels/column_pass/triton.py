"""Column mass in Triton: one sweep over the queries of each block of keys, nothing of size N×N, no atomics."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from probe.kernels.launch import blocks, strides
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import LOG2E, interpreted, row_span, rules, score_tile
from probe.kernels.sweep import absent


@triton.jit
def _column_kernel(
    Q, K, LSE, WEIGHTS, MASS,
    heads, group, n_queries, n_keys, q_b, q_h, q_n, k_b, k_h, k_n,
    offset, scale, window, chunk, origin, groups, softcap, slopes, table, reach, key_valid, span,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr, SOFTCAP: tl.constexpr,
    SLOPES: tl.constexpr, TABLE: tl.constexpr, KEY_VALID: tl.constexpr, WEIGHTED: tl.constexpr,
    SIZE: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    key = block * N + tl.arange(0, N)
    d = tl.arange(0, D)
    k_at = K + sample.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    k_t = tl.load(k_at + key.to(tl.int64)[None, :] * k_n + d[:, None],
                  mask=(key < n_keys)[None, :] & (d < SIZE)[:, None], other=0.0)  # fmt: skip
    q_at = Q + sample.to(tl.int64) * q_b + head.to(tl.int64) * q_h
    rows_at = tl.program_id(1).to(tl.int64) * n_queries
    low, high = row_span(block * N, tl.minimum(block * N + N, n_keys) - 1, n_queries, offset, sample, window, chunk, origin,
                         CAUSAL, WINDOW, CHUNK, GROUPS)  # fmt: skip
    low = low // M * M
    # Query rows that see the whole block by causality alone, and are all there, need no mask: [open, close).
    open_, close = high, high
    if not (WINDOW or CHUNK or GROUPS or KEY_VALID):
        close = n_queries // M * M
        open_ = low
        if CAUSAL:
            open_ = tl.minimum(tl.maximum(low, (block * N + N - 1 - offset + M - 1) // M * M), high)
        if block * N + N > n_keys:
            open_ = high
        close = tl.maximum(open_, close)
    mass = tl.zeros([M, N], tl.float32)
    for phase in tl.static_range(3):
        for start in range(low if phase == 0 else (open_ if phase == 1 else close),
                           open_ if phase == 0 else (close if phase == 1 else high), M):  # fmt: skip
            row = start + tl.arange(0, M)
            if phase == 1:
                q = tl.load(
                    q_at + row.to(tl.int64)[:, None] * q_n + d[None, :], mask=(d < SIZE)[None, :], other=0.0
                )
                lse = tl.load(LSE + rows_at + row)
            else:
                q = tl.load(q_at + row.to(tl.int64)[:, None] * q_n + d[None, :],
                            mask=(row < n_queries)[:, None] & (d < SIZE)[None, :], other=0.0)  # fmt: skip
                lse = tl.load(LSE + rows_at + row, mask=row < n_queries, other=float("inf"))
            s = score_tile(q, k_t, row, key, n_queries, n_keys, offset, scale, sample, head, window, chunk, origin, groups,
                           softcap, slopes, table, reach, key_valid, phase != 1, CAUSAL, WINDOW, CHUNK, GROUPS, SOFTCAP,
                           SLOPES, TABLE, KEY_VALID, UPCAST)  # fmt: skip
            p = tl.exp2(s - (lse * LOG2E)[:, None])
            if WEIGHTED:
                p *= tl.load(WEIGHTS + rows_at + row, mask=row < n_queries, other=0.0)[:, None]
            mass += p
    tl.store(MASS + tl.program_id(1).to(tl.int64) * n_keys + key, tl.sum(mass, 0), mask=key < n_keys)


def column_mass(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    weights: Float[Tensor, "B H Nq"] | None,
) -> Float[Tensor, "B H Nk"]:
    """See `probe.kernels.column_pass.column_mass`."""
    batch, heads, n_queries, size = q.shape
    n_keys = k.shape[2]
    mass = torch.empty(batch, heads, n_keys, dtype=torch.float32, device=q.device)
    described = rules(spec, batch, q)
    shape = blocks("column", q.dtype, size, interpreted(_column_kernel))
    q, k = strides(q), strides(k)
    gives = lse.isfinite()
    if spec.query_valid is not None:
        gives = gives & spec.query_valid[:, None, :]
    lse = torch.where(gives, lse.float(), float("inf"))
    weighted = torch.empty(1, device=q.device) if weights is None else weights.float().contiguous()
    _column_kernel[(triton.cdiv(n_keys, shape.N), batch * heads)](
        Q=q, K=k, LSE=lse, WEIGHTS=weighted, MASS=mass, heads=heads, group=heads // k.shape[1], n_queries=n_queries,
        n_keys=n_keys, q_b=q.stride(0), q_h=q.stride(1), q_n=q.stride(2), k_b=k.stride(0), k_h=k.stride(1),
        k_n=k.stride(2), **described.values, **described.flags, WEIGHTED=weights is not None,
        SIZE=size, D=shape.D, M=shape.M, N=shape.N, UPCAST=interpreted(_column_kernel), **shape.options,
    )  # fmt: skip
    return absent({"received": mass}, spec)["received"]
