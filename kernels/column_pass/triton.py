"""The column pass in Triton: one sweep over the queries of each block of keys, nothing of size N×N, no atomics.

Tiles are [keys, queries]: what a key receives is then summed inside a thread, and the weights are the left operand of Aᵀ·Y as
they come out of the exponential. Cells of the pooled map are summed per block of keys and cut at the cells' edges; the pieces
of a cell are added afterwards in one order always.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from probe.kernels.column_pass.cells import cells_for
from probe.kernels.launch import column_blocks, core_width, hopper_covers
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import (
    LOG2E,
    describe,
    floor_div,
    inner_rows_of,
    interpreted,
    row_span,
    rows_of,
    score_tile,
    view,
    visible_tile,
)

#: Numbers in the buffer of pieces: heads are taken in portions, so that it stays at 256 MB.
_MOST_PIECES = 1 << 26


@triton.jit
def _clear_rows(first, last, sample, rules, F: tl.constexpr):
    """Query rows: [low, high) see something of the keys first … last, [open, close) see all of them (padding aside)."""
    low, high = row_span(first, last, sample, rules, F)
    if F.KEY_VALID:  # padded keys are left out afterwards; a block of nothing else is empty
        begin, end = tl.load(rules.span + 2 * sample), tl.load(rules.span + 2 * sample + 1)
        high = tl.where((last < begin) | (first >= end), low, high)
    open_, close = low, high
    if F.CAUSAL:
        open_ = tl.maximum(open_, last - rules.offset)
    if F.WINDOW:
        open_ = tl.maximum(open_, last - rules.offset - rules.window + 1)
        close = tl.minimum(close, first - rules.offset + rules.window)
    if F.CHUNK:
        start = tl.load(rules.origin + sample)
        parted = floor_div(first - start, rules.chunk) != floor_div(last - start, rules.chunk)
        close = tl.where(parted, low, close)
    if F.DOCUMENTS:
        starts = rules.starts + sample * rules.positions + rules.before
        close = tl.where(tl.load(starts + first) != tl.load(starts + last), low, close)
    if F.GROUPS:
        close = low
    return low, high, open_, close


@triton.jit
def _over(p, MOST: tl.constexpr):
    """Sum, or largest, over the queries of a tile [keys, queries]."""
    return tl.max(p, 1) if MOST else tl.sum(p, 1)


@triton.jit
def _store_pieces(at, value, piece, UNSCALE: tl.constexpr, MOST: tl.constexpr, PIECES: tl.constexpr):
    """Cut the values of a block's keys into `PIECES` cells and store what each of them holds."""
    number = tl.arange(0, PIECES)
    cut = tl.where(piece[:, None] == number[None, :], value[:, None], 0.0)
    tl.store(at + number, (tl.max(cut, 0) if MOST else tl.sum(cut, 0)) * UNSCALE)


@triton.jit
def _add(total, lost, part):
    """Add and carry what the rounding took (Kahan 1965): a column's thousands of small parts must not vanish beside its sum."""
    part -= lost
    new = total + part
    return new, (new - total) - part


@triton.jit
def _column_kernel(
    Q, K, Y, rules, SHIFT_OF, WEIGHTS, MASS, PRODUCT, CELLS, PIECE_OF, EDGES, CELL_OF, heads, group, first_head, padded,
    cells_of_head, cells_of_row,
    F: tl.constexpr, RECEIVED: tl.constexpr, WEIGHTED: tl.constexpr, HOLES: tl.constexpr, POOL: tl.constexpr,
    MOST: tl.constexpr, FINE: tl.constexpr, PIECES: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr,
    EXPONENT: tl.constexpr, PRECISION: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    # The first blocks of keys of a causal map are the longest, and start first.
    block = tl.program_id(0)
    at = tl.program_id(1) + first_head
    sample, head = at // heads, at % heads
    n_queries, n_keys = rules.n_queries, rules.n_keys
    UNSCALE: tl.constexpr = 2.0**-EXPONENT
    key = block * N + tl.arange(0, N)
    d = tl.arange(0, D)
    channel = tl.arange(0, C)
    k = rows_of(K, sample, head // group, key, d, SIZE, n_keys)
    shift_at = SHIFT_OF + at.to(tl.int64) * padded
    weights_at = WEIGHTS + at.to(tl.int64) * padded
    low, high, open_, close = _clear_rows(block * N, tl.minimum(block * N + N, n_keys) - 1, sample, rules, F)
    low = low // M * M
    mass = tl.zeros([N], tl.float32)
    lost = tl.zeros([N], tl.float32)
    held = tl.zeros([N], tl.float32)
    product = tl.zeros([N, C], tl.float32)
    cell, edge = 0, 0
    if POOL:
        piece = tl.load(PIECE_OF + key)
        if F.KEY_VALID:
            valid = tl.load(rules.key_valid + sample * n_keys + key, mask=key < n_keys, other=0)
            piece = tl.where(valid != 0, piece, -1)
        cells_at = CELLS + tl.program_id(1).to(tl.int64) * cells_of_head + block * PIECES
        row_step = cells_of_row.to(tl.int64)
        if FINE == 0:
            cell = tl.load(CELL_OF + tl.minimum(low, n_queries - 1))
            edge = tl.load(EDGES + cell + 1)
    for start in range(low, high, M):
        row = start + tl.arange(0, M)
        q = inner_rows_of(Q, sample, head, tl.minimum(row, n_queries - 1), d, SIZE)
        shift = tl.load(shift_at + row)
        s = score_tile(tl.trans(q), k, row, key, sample, head, rules, False, F, True) + shift[None, :]
        if (start < open_) | (start + M > close):
            s = tl.where(visible_tile(row, key, sample, rules, F, True), s, float("-inf"))
        p = tl.exp2(s)
        if HOLES:  # whatever stands in a padded query, NaN included, counts for nothing
            p = tl.where((shift > float("-inf"))[None, :], p, 0.0)
        if CHANNELS > 0:
            if HOLES:
                y = rows_of(
                    Y,
                    sample,
                    head,
                    tl.where(shift > float("-inf"), row, n_queries),
                    channel,
                    CHANNELS,
                    n_queries,
                )
            else:
                y = inner_rows_of(Y, sample, head, tl.minimum(row, n_queries - 1), channel, CHANNELS)
            if F.UPCAST:
                y = y.to(tl.float32)
            product = tl.dot(p.to(y.dtype), y, product, input_precision=PRECISION)
        if WEIGHTED:
            mass, lost = _add(mass, lost, tl.sum(p * tl.load(weights_at + row)[None, :], 1))
        elif RECEIVED and (not POOL or MOST or FINE > 0):
            mass, lost = _add(mass, lost, tl.sum(p, 1))
        if POOL and FINE > 0:  # a tile holds several cells: each leaves pieces of its own
            number_of = tl.load(CELL_OF + row) - tl.load(CELL_OF + start)
            for number in tl.static_range(FINE):
                part = _over(tl.where((number_of == number)[None, :], p, 0.0), MOST)
                part_at = cells_at + (start // M * FINE + number) * row_step
                _store_pieces(part_at, part, piece, UNSCALE, MOST, PIECES)
        elif POOL:  # a tile holds one edge at most: sum on until it comes
            if start + M < edge:
                held = tl.maximum(held, _over(p, MOST)) if MOST else held + _over(p, MOST)
            else:
                mine = (row < edge)[None, :]
                part = _over(tl.where(mine, p, 0.0), MOST)
                held = tl.maximum(held, part) if MOST else held + part
                _store_pieces(cells_at + cell * row_step, held, piece, UNSCALE, MOST, PIECES)
                if RECEIVED and not WEIGHTED and not MOST:
                    mass, lost = _add(mass, lost, held)
                held = _over(tl.where(mine, 0.0, p), MOST)
                cell += 1
                edge = tl.load(EDGES + cell + 1)
    if POOL and FINE == 0:
        _store_pieces(cells_at + cell * row_step, held, piece, UNSCALE, MOST, PIECES)
        if RECEIVED and not WEIGHTED and not MOST:
            mass, lost = _add(mass, lost, held)
    out_at = at.to(tl.int64) * n_keys + key
    if RECEIVED:
        tl.store(MASS + out_at, mass * UNSCALE, mask=key < n_keys)
    if CHANNELS > 0:
        inside = (key < n_keys)[:, None] & (channel < CHANNELS)[None, :]
        tl.store(PRODUCT + out_at[:, None] * CHANNELS + channel[None, :], product * UNSCALE, mask=inside)


def column_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    *,
    received: bool,
    weights: Float[Tensor, "B H Nq"] | None,
    y: Float[Tensor, "B H Nq C"] | None,
    grid: tuple[int, int] | None,
    most: bool,
) -> dict[str, Tensor]:
    """See `probe.kernels.column_pass.column_stats`; `most` asks for the largest weight of each cell instead of the sum."""
    (batch, heads, n_queries, size), n_keys = q.shape, k.shape[2]
    general = most or weights is not None or y is not None
    if not general and (fast := _on_hopper(q, k, spec, lse, received, grid)) is not None:
        return fast
    rules, flags = describe(spec, q, n_keys, interpreted(_column_kernel))
    channels = 0 if y is None else y.shape[3]
    shape = column_blocks(q.dtype, size, channels, grid is not None, flags.UPCAST)
    cells = None
    if grid is not None:
        cells = cells_for(n_queries, n_keys, (grid[0], grid[1]), shape.M, shape.N, q.device)
    M = shape.M if cells is None else cells.M
    precision = "tf32x3" if y is not None and y.dtype == torch.float32 else "ieee"
    # float16 holds weights below 6e-5 badly: scaled by 2^10 for the product, they keep their digits down to 6e-8.
    exponent = 10 if y is not None and y.dtype == torch.float16 else 0
    shifts = _shifts(lse, spec.query_valid, M, exponent)
    dummy = torch.empty(1, dtype=torch.float32, device=q.device)
    out: dict[str, Tensor] = {}
    if received:
        out["received"] = torch.empty(batch, heads, n_keys, dtype=torch.float32, device=q.device)
    if y is not None:
        out["transposed"] = torch.empty(batch, heads, n_keys, channels, dtype=torch.float32, device=q.device)
    settings = dict(
        Q=view(q), K=view(k), Y=view(q if y is None else y), rules=rules, SHIFT_OF=shifts,
        WEIGHTS=dummy if weights is None else _weights(weights, shifts),
        MASS=out.get("received", dummy),
        PRODUCT=out.get("transposed", dummy), heads=heads, group=heads // k.shape[1], padded=shifts.shape[2], F=flags,
        RECEIVED=received, WEIGHTED=weights is not None, HOLES=spec.query_valid is not None, POOL=cells is not None, MOST=most,
        CHANNELS=channels, C=core_width(channels), EXPONENT=exponent, PRECISION=precision,
        SIZE=size, D=shape.D, M=M, N=shape.N, **shape.options,
    )  # fmt: skip
    blocks, programs = triton.cdiv(n_keys, shape.N), batch * heads
    if cells is None:
        _column_kernel[(blocks, programs)](
            CELLS=dummy, PIECE_OF=dummy, EDGES=dummy, CELL_OF=dummy, first_head=0, cells_of_head=0, cells_of_row=0,
            FINE=0, PIECES=1, **settings,
        )  # fmt: skip
        return out
    out["pooled"] = torch.empty(batch, heads, *cells.grid, dtype=torch.float32, device=q.device)
    rows, width = cells.shape
    step = max(1, _MOST_PIECES // (rows * width))
    for first in range(0, programs, step):
        pieces = torch.zeros(min(step, programs - first), rows, width, dtype=torch.float32, device=q.device)
        _column_kernel[(blocks, len(pieces))](
            CELLS=pieces, PIECE_OF=cells.piece_of, EDGES=cells.edges, CELL_OF=cells.cell_of, first_head=first,
            cells_of_head=rows * width, cells_of_row=width, FINE=cells.fine, PIECES=cells.wide, **settings,
        )  # fmt: skip
        out["pooled"].flatten(0, 1)[first : first + step] = cells.merge(pieces, "max" if most else "sum")
    return out


def _on_hopper(
    q: Tensor, k: Tensor, spec: ScoreSpec, lse: Tensor, received: bool, grid: tuple[int, int] | None
) -> dict[str, Tensor] | None:
    """The pooled sum by the fast path, None where it does not cover the call."""
    if grid is None or not hopper_covers(q, k, spec):
        return None
    from probe.kernels.column_pass import hopper

    cut = hopper.pieces_of(q.shape[2], k.shape[2], grid)
    if cut is None:
        return None
    return hopper.column_stats(q, k, spec, _shifts(lse, None, hopper.ROWS, 0), received, grid, cut)


@triton.jit
def _shift_kernel(
    LSE,
    VALID,
    SHIFTS,
    n_queries,
    padded,
    heads,
    HOLES: tl.constexpr,
    EXPONENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The shifts of a block of rows, in float64 and then rounded once."""
    at, row = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n_queries
    lse = tl.load(LSE + at.to(tl.int64) * n_queries + row, mask=inside, other=float("inf")).to(tl.float64)
    gives = tl.abs(lse) < float("inf")
    if HOLES:
        gives = gives & (
            tl.load(VALID + (at // heads).to(tl.int64) * n_queries + row, mask=inside, other=0) != 0
        )
    shift = tl.where(gives, (EXPONENT - lse * LOG2E).to(tl.float32), float("-inf"))
    tl.store(SHIFTS + at.to(tl.int64) * padded + row, shift, mask=row < padded)


def _shifts(lse: Tensor, valid: Tensor | None, rows: int, exponent: int) -> Float[Tensor, "B H padded"]:
    """What is added to the scores of a row, so that 2^score is 2^exponent times the weight; -inf for rows that give nothing.

    Padded with such rows to a multiple of `rows`.
    """
    batch, heads, n_queries = lse.shape
    padded = triton.cdiv(n_queries, rows) * rows
    out = torch.empty(batch, heads, padded, dtype=torch.float32, device=lse.device)
    held = out if valid is None else valid.contiguous().view(torch.uint8)
    _shift_kernel[(triton.cdiv(padded, 1024), batch * heads)](
        lse.contiguous(),
        held,
        out,
        n_queries,
        padded,
        heads,
        HOLES=valid is not None,
        EXPONENT=exponent,
        BLOCK=1024,
    )
    return out


def _weights(weights: Tensor, shifts: Tensor) -> Float[Tensor, "B H padded"]:
    """The weights of the rows, 0 for those that give nothing."""
    padded = torch.nn.functional.pad(weights.float(), (0, shifts.shape[2] - weights.shape[2]))
    return padded.masked_fill(shifts == float("-inf"), 0.0)
