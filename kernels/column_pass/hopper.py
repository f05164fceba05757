"""The column pass with a pooled sum for plain calls on Hopper, causal or full, see `launch.hopper_covers`.

Cells must be made of whole pieces of 16 keys and 16 queries: then no tile is cut at an edge. A warp sums its own 16 keys, so
that no warp waits for another; the pieces are added afterwards in one order always.
"""

from math import gcd
from typing import NamedTuple

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

from probe.kernels.hopper import arrived, barriers, blocks_of, finish, meet, product, programs, rows_of
from probe.kernels.score import ScoreSpec

_KEYS, _N, _STAGES, _BODY, _PIECE = 128, 64, 2, 2, 16
_OPTIONS = {"num_warps": 8, "maxnreg": 128}  # two programs to a multiprocessor
_LOG2E = 1.4426950408889634
#: Rows to a block of queries.
ROWS = 2 * _N
#: Numbers in the buffer of pieces, as in the general pass: heads are taken in portions.
MOST_PIECES = 1 << 26


class Pieces(NamedTuple):
    """How a grid is cut: `tall` where a row cell is made of whole tiles, of `height` queries; else rows of `height` queries."""

    tall: bool
    height: int
    rows: int
    columns: int


def pieces_of(n_queries: int, n_keys: int, grid: tuple[int, int]) -> Pieces | None:
    """The pieces of a grid; None where its edges cut one, or there would be too many."""
    height, width = n_queries // grid[0], n_keys // grid[1]
    if n_queries % grid[0] or n_keys % grid[1] or height % _PIECE or width % _PIECE:
        return None
    tall = height % _N == 0
    height = height if tall else gcd(height, _N)
    found = Pieces(tall, height, n_queries // height, n_keys // _PIECE)
    return found if found.rows * found.columns <= MOST_PIECES else None


@gluon.jit
def _add(total, lost, part):
    """Add and carry what the rounding took (Kahan 1965), as in the general pass."""
    part -= lost
    new = total + part
    return new, (new - total) - part


@gluon.jit
def _fetch(q, shifts, q_smem, shift_smem, full, sample, head, at, token, use, STAGES: gl.constexpr, pred):
    """As `hopper.fetch`: start copying a block of queries, and their shifts."""
    slot = use % STAGES
    mbarrier.expect(full.index(slot), q.block_type.nbytes + shifts.block_type.nbytes, pred=pred)
    meet()
    tma.async_copy_global_to_shared(
        q, [sample, head, token, 0], full.index(slot), q_smem.index(slot), pred=pred
    )
    tma.async_copy_global_to_shared(shifts, [at, token], full.index(slot), shift_smem.index(slot), pred=pred)


@gluon.jit
def _shift(smem, use, HALF: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, layout: gl.constexpr):
    """The shifts of one half of a block, [1, N]."""
    return smem.index(use % STAGES).slice(HALF * N, N, 1).load(layout)


@gluon.jit
def _store_pieces(at, values, row, column, rows, columns):
    """Store what the pieces of a tile hold, [groups of 16 keys, rows of pieces]."""
    layout: gl.constexpr = values.type.layout
    c = column + gl.arange(0, values.shape[0], gl.SliceLayout(1, layout))
    r = row + gl.arange(0, values.shape[1], gl.SliceLayout(0, layout))
    gl.store(
        at + (r * columns)[None, :] + c[:, None], values, mask=(r < rows)[None, :] & (c < columns)[:, None]
    )


@gluon.jit
def _take(
    p, mass, lost, held, row, left, at, height, column, rows, columns, TALL: gl.constexpr, H: gl.constexpr
):  # fmt: skip
    """Take a tile of weights [keys, queries]; every thread sums what it holds, over 8 queries apart."""
    KEYS: gl.constexpr = p.shape[0]
    N: gl.constexpr = p.shape[1]
    if not TALL:
        parts = gl.sum(gl.reshape(p, [KEYS, N // H, H // 8, 8]), 2)
        mass, lost = _add(mass, lost, gl.convert_layout(gl.sum(parts, 1), mass.type.layout))
        pieces = gl.sum(gl.reshape(gl.sum(parts, 2), [KEYS // 16, 16, N // H]), 1)
        _store_pieces(at, pieces, row, column, rows, columns)
        row += N // H
    else:
        held += gl.sum(gl.reshape(p, [KEYS, N // 8, 8]), 1)
        left -= N
        if left == 0:
            mass, lost = _add(mass, lost, held)
            pieces = gl.sum(gl.reshape(held, [KEYS // 16, 128]), 1)
            _store_pieces(at, pieces[:, None], row, column, rows, columns)
            held = held * 0.0
            left = height
            row += 1
    return mass, lost, held, row, left


@gluon.jit(
    do_not_specialize=[
        "n_queries", "n_keys", "offset", "heads", "key_heads", "height", "rows", "columns", "first_head"
    ]
)  # fmt: skip
def _column_kernel(
    Q, K, SHIFT, MASS, PIECES, n_queries, n_keys, offset, scale, heads, key_heads, height, rows, columns, first_head,
    CAUSAL: gl.constexpr, RECEIVED: gl.constexpr, TALL: gl.constexpr, H: gl.constexpr,
    KEYS: gl.constexpr, N: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, BODY: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    # The first blocks of keys of a causal map are the longest, and start first.
    block = gl.program_id(0)
    at = gl.program_id(1) + first_head
    sample = at // heads
    head = at % heads
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, N, 16])
    of_key: gl.constexpr = gl.SliceLayout(1, layout)
    k_smem = gl.allocate_shared_memory(K.dtype, [1, 1, KEYS, D], K.layout)
    q_smem = gl.allocate_shared_memory(Q.dtype, [STAGES, 1, 1, 2 * N, D], Q.layout)
    shift_smem = gl.allocate_shared_memory(gl.float32, [STAGES, 1, 2 * N], SHIFT.layout)
    full, own = barriers(STAGES)
    fence_async_shared()
    mbarrier.expect(own, K.block_type.nbytes)
    tma.async_copy_global_to_shared(K, [sample, head * key_heads // heads, block * KEYS, 0], own, k_smem)

    # Blocks of 2N queries, from the first that sees a key; the first `masked` of them may not see all.
    blocks = gl.cdiv(n_queries, 2 * N)
    begin = 0
    masked = 0
    if CAUSAL:
        begin = gl.minimum(gl.maximum(block * KEYS - offset, 0) // (2 * N), blocks)
        last = gl.minimum(block * KEYS + KEYS, n_keys) - 1
        masked = gl.minimum(gl.cdiv(gl.maximum(last - offset, 0), 2 * N), blocks) - begin
    blocks -= begin
    masked += (blocks - masked) % BODY
    begin *= 2 * N
    for i in gl.static_range(STAGES):
        _fetch(Q, SHIFT, q_smem, shift_smem, full, sample, head, at, begin + i * 2 * N, i, STAGES, i < blocks)
    mbarrier.wait(own, 0)
    k = k_smem.reshape([KEYS, D])
    zero = gl.zeros([KEYS, N], gl.float32, layout)
    key = block * KEYS + gl.arange(0, KEYS, of_key)
    query = gl.arange(0, N, gl.SliceLayout(0, layout))
    mass = gl.sum(gl.reshape(zero, [KEYS, N // 8, 8]), 1)
    lost = mass
    held = mass
    cells = PIECES + gl.program_id(1).to(gl.int64) * rows * columns
    column = block * (KEYS // 16)
    row = begin // height
    left = height - begin % height
    for use in range(0, masked):
        arrived(full, use, STAGES)
        for half in gl.static_range(2):
            start = begin + use * 2 * N + half * N
            shift = _shift(shift_smem, use, half, N, STAGES, layout)
            s = warpgroup_mma_wait(0, [product(k, q_smem, use, half, N, D, STAGES, zero)])
            p = gl.exp2(s * scale + shift)
            if CAUSAL:
                p = gl.where(key[:, None] <= (start + offset + query)[None, :], p, 0.0)
            mass, lost, held, row, left = _take(
                p, mass, lost, held, row, left, cells, height, column, rows, columns, TALL, H
            )
        after = use + STAGES
        there = begin + after * 2 * N
        _fetch(Q, SHIFT, q_smem, shift_smem, full, sample, head, at, there, after, STAGES, after < blocks)
    # As in the row pass: two products are under way at a time, and none when a step of the loop ends.
    for step in range(0, (blocks - masked) // BODY):
        use = masked + step * BODY
        arrived(full, use, STAGES)
        even = product(k, q_smem, use, 0, N, D, STAGES, zero)
        for part in gl.static_range(BODY):
            odd = product(k, q_smem, use + part, 1, N, D, STAGES, zero)
            shift = _shift(shift_smem, use + part, 0, N, STAGES, layout)
            s, shift, mass, lost, held = warpgroup_mma_wait(1, [even, shift, mass, lost, held])
            p = gl.exp2(s * scale + shift)
            mass, lost, held, row, left = _take(
                p, mass, lost, held, row, left, cells, height, column, rows, columns, TALL, H
            )
            shift = _shift(shift_smem, use + part, 1, N, STAGES, layout)
            if part + 1 < BODY:
                arrived(full, use + part + 1, STAGES)
                even = product(k, q_smem, use + part + 1, 0, N, D, STAGES, zero)
                s, shift, mass, lost, held = warpgroup_mma_wait(1, [odd, shift, mass, lost, held])
            else:
                s, shift, mass, lost, held = warpgroup_mma_wait(0, [odd, shift, mass, lost, held])
            after = use + part + STAGES
            there = begin + after * 2 * N
            _fetch(Q, SHIFT, q_smem, shift_smem, full, sample, head, at, there, after, STAGES, after < blocks)
            p = gl.exp2(s * scale + shift)
            mass, lost, held, row, left = _take(
                p, mass, lost, held, row, left, cells, height, column, rows, columns, TALL, H
            )
    finish(full, own, STAGES)
    if RECEIVED:
        total = gl.convert_layout(gl.sum(mass, 1), of_key)
        gl.store(MASS + at.to(gl.int64) * n_keys + key, total, mask=key < n_keys)


def column_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    shifts: Float[Tensor, "B H padded"],
    received: bool,
    grid: tuple[int, int],
    pieces: Pieces,
) -> dict[str, Tensor]:
    """See `probe.kernels.column_pass.column_stats`.

    Args:
        q: queries.
        k: keys.
        spec: the rules, plain ones.
        shifts: minus the log-sum-exp in base 2, -inf for rows that give nothing, padded to a multiple of `ROWS`.
        received: whether the column mass is wanted.
        grid: of the pooled sum.
        pieces: as `pieces_of` cuts the grid.
    """
    (batch, heads, n_queries, size), n_keys = q.shape, k.shape[2]
    rows, columns = pieces.rows, pieces.columns
    out = {"pooled": torch.empty(batch, heads, *grid, dtype=torch.float32, device=q.device)}
    if received:
        out["received"] = torch.empty(batch, heads, n_keys, dtype=torch.float32, device=q.device)
    step = max(1, MOST_PIECES // (rows * columns))
    for first in range(0, batch * heads, step):
        count = min(step, batch * heads - first)
        held = shifts.new_zeros(
            count, rows, columns
        )  # what lies above a causal map's diagonal is not written
        _column_kernel[programs(n_keys, _KEYS, count)](
            blocks_of(q, 2 * _N), blocks_of(k, _KEYS), rows_of(shifts, 2 * _N), out.get("received", shifts), held, n_queries,
            n_keys, spec.offset, spec.scale * _LOG2E, heads, k.shape[1], pieces.height, rows, columns, first,
            CAUSAL=spec.causal, RECEIVED=received, TALL=pieces.tall, H=_N if pieces.tall else pieces.height,
            KEYS=_KEYS, N=_N, D=size, STAGES=_STAGES, BODY=_BODY, **_OPTIONS,
        )  # fmt: skip
        cells = held.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1))
        out["pooled"].flatten(0, 1)[first : first + count] = cells.sum((2, 4))
    return out
