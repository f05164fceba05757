"""Any rectangle of the map in Triton: one program for each block of it."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.heads import heads_on
from probe.kernels.launch import Blocks, core_width
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import LN2, LOG2E, describe, interpreted, rows_of, score_tile, view


@triton.jit(do_not_specialize=["n_rows", "n_columns", "chosen", "heads", "group"])
def _tile_kernel(
    Q, K, rules, LSE, ROWS, KEYS, HEADS, OUT, n_rows, n_columns, chosen, heads, group,
    F: tl.constexpr, PROB: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    sample, place = tl.program_id(2) // chosen, tl.program_id(2) % chosen
    head = tl.load(HEADS + place)
    n_queries, n_keys = rules.n_queries, rules.n_keys
    row_at = tl.program_id(1) * M + tl.arange(0, M)
    key_at = tl.program_id(0) * N + tl.arange(0, N)
    # a number beyond the end is never visible and never read
    row = tl.load(ROWS + row_at, mask=row_at < n_rows, other=n_queries)
    key = tl.load(KEYS + key_at, mask=key_at < n_columns, other=n_keys)
    d = tl.arange(0, D)
    q = rows_of(Q, sample, head, row, d, SIZE, n_queries)
    k = rows_of(K, sample, head // group, key, d, SIZE, n_keys)
    s = score_tile(q, tl.trans(k), row, key, sample, head, rules, True, F)
    if PROB:
        lse_at = (sample * heads + head).to(tl.int64) * n_queries + row
        lse = tl.load(LSE + lse_at, mask=row < n_queries, other=0.0).to(tl.float32)
        # a row that sees nothing has lse -inf, and -inf - -inf is no number
        s = tl.exp2(s - tl.where(lse == float("-inf"), 0.0, lse * LOG2E)[:, None])
    else:
        s = s * LN2
    at = (tl.program_id(2).to(tl.int64) * n_rows + row_at)[:, None] * n_columns + key_at[None, :]
    tl.store(OUT + at, s, mask=(row_at < n_rows)[:, None] & (key_at < n_columns)[None, :])


def shape_of(dtype: torch.dtype, size: int) -> Blocks:
    """Block shape of a rectangle: small, because nothing is swept and one head of a map should fill the chip."""
    side = 32 if dtype == torch.float32 else 64
    return Blocks(side, side, core_width(size), {"num_warps": 4})


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
    batch, n_heads, _, size = q.shape
    n_rows, n_columns = len(rows), len(keys)
    out = torch.empty(batch, len(heads), n_rows, n_columns, dtype=torch.float32, device=q.device)
    rules, flags = describe(spec, q, k.shape[2], interpreted(_tile_kernel))
    shape = shape_of(q.dtype, size)
    row_at, key_at = rows.to(q.device, torch.int32), keys.to(q.device, torch.int32)
    grid = (triton.cdiv(n_columns, shape.N), triton.cdiv(n_rows, shape.M), batch * len(heads))
    _tile_kernel[grid](
        Q=view(q), K=view(k), rules=rules, LSE=out if lse is None else lse.contiguous(), ROWS=row_at, KEYS=key_at,
        HEADS=heads_on(heads, n_heads, q.device), OUT=out, n_rows=n_rows, n_columns=n_columns, chosen=len(heads),
        heads=n_heads, group=n_heads // k.shape[1], F=flags, PROB=lse is not None, SIZE=size, D=shape.D, M=shape.M,
        N=shape.N, **shape.options,
    )  # fmt: skip
    if spec.query_valid is not None:
        out.masked_fill_(~spec.query_valid[:, None, row_at.long(), None], torch.nan)
    return out
