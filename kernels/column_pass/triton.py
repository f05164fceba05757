"""Column mass in Triton: one sweep over the queries of each block of keys, nothing of size N×N, no atomics."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from probe.kernels.launch import blocks
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import (
    LOG2E,
    describe,
    inner_rows_of,
    interpreted,
    row_span,
    rows_of,
    score_tile,
    view,
)
from probe.kernels.sweep import absent


@triton.jit
def _column_kernel(
    Q, K, rules, LSE, WEIGHTS, MASS, heads, group,
    F: tl.constexpr, WEIGHTED: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    n_queries, n_keys, offset = rules.n_queries, rules.n_keys, rules.offset
    key = block * N + tl.arange(0, N)
    d = tl.arange(0, D)
    k_t = tl.trans(rows_of(K, sample, head // group, key, d, SIZE, n_keys))
    rows_at = tl.program_id(1).to(tl.int64) * n_queries
    low, high = row_span(block * N, tl.minimum(block * N + N, n_keys) - 1, sample, rules, F)
    low = low // M * M
    # Query rows that see the whole block by causality alone, and are all there, need no mask: [open, close).
    open_, close = high, high
    if not (F.WINDOW or F.CHUNK or F.GROUPS or F.DOCUMENTS or F.KEY_VALID):
        close = n_queries // M * M
        open_ = low
        if F.CAUSAL:
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
                q = inner_rows_of(Q, sample, head, row, d, SIZE)
                lse = tl.load(LSE + rows_at + row)
            else:
                q = rows_of(Q, sample, head, row, d, SIZE, n_queries)
                lse = tl.load(LSE + rows_at + row, mask=row < n_queries, other=float("inf"))
            s = score_tile(q, k_t, row, key, sample, head, rules, phase != 1, F)
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
    batch, heads, _, size = q.shape
    n_keys = k.shape[2]
    mass = torch.empty(batch, heads, n_keys, dtype=torch.float32, device=q.device)
    rules, flags = describe(spec, q, n_keys, interpreted(_column_kernel))
    shape = blocks("column", q.dtype, size, flags.UPCAST)
    gives = lse.isfinite()
    if spec.query_valid is not None:
        gives = gives & spec.query_valid[:, None, :]
    lse = torch.where(gives, lse.float(), float("inf"))
    weighted = torch.empty(1, device=q.device) if weights is None else weights.float().contiguous()
    _column_kernel[(triton.cdiv(n_keys, shape.N), batch * heads)](
        Q=view(q), K=view(k), rules=rules, LSE=lse, WEIGHTS=weighted, MASS=mass, heads=heads, group=heads // k.shape[1],
        F=flags, WEIGHTED=weights is not None, SIZE=size, D=shape.D, M=shape.M, N=shape.N, **shape.options,
    )  # fmt: skip
    return absent({"received": mass}, spec)["received"]
