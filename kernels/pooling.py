"""The cells of a grid over the map: their edges, which pieces belong to which, and how many pairs of tokens each holds.

Row cell r of R covers the queries [⌊r·Nq/R⌋, ⌊(r+1)·Nq/R⌋), column cell c of C the keys likewise: any grid on any length.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.visible import intervals, visible_block

REDUCTIONS = ("sum", "mean", "max")
_CHUNK_ROWS = 4096
_CHUNK_PAIRS = 1 << 22


def check_grid(grid: Sequence[int], reduce: str, n_queries: int, n_keys: int) -> None:
    """Check a grid and its reduction.

    Raises:
        ValueError: not two positive numbers, finer than the map, or an unknown reduction.
    """
    if len(grid) != 2 or not all(isinstance(cells, int) and cells >= 1 for cells in grid):
        raise ValueError(f"grid: got {tuple(grid)}, expected two positive numbers (row cells, column cells)")
    if grid[0] > n_queries or grid[1] > n_keys:
        raise ValueError(
            f"grid: got {tuple(grid)} for a map of {n_queries} queries and {n_keys} keys, expected at most "
            f"({n_queries}, {n_keys}); a coarser grid, or `tile` for the entries themselves"
        )
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce: got {reduce!r}, expected one of {', '.join(REDUCTIONS)}")


def edges(n: int, cells: int, device: torch.device | str = "cpu") -> Int[Tensor, "cells1"]:
    """The first position of every cell, and `n` at the end."""
    return torch.arange(cells + 1, device=device) * n // cells


def cells_of(n: int, cells: int, device: torch.device | str = "cpu") -> Int[Tensor, "n"]:
    """The cell of every position."""
    return ((torch.arange(n, device=device) + 1) * cells - 1) // n


def table_of(owner: Int[Tensor, "pieces"], cells: int) -> Int[Tensor, "cells most"]:
    """Which pieces make up each cell, from the cell of each piece (-1 for none), filled up with the number of pieces."""
    pieces = len(owner)
    order = torch.argsort(torch.where(owner < 0, cells, owner), stable=True)
    counts = torch.bincount(owner[owner >= 0], minlength=cells)
    at = torch.arange(max(1, int(counts.max())), device=owner.device)
    first = counts.cumsum(0) - counts
    inside = at < counts[:, None]
    return torch.where(inside, order[(first[:, None] + at).clamp(max=pieces - 1)], pieces)


def merge_pieces(
    x: Float[Tensor, "*rest pieces1"], table: Int[Tensor, "cells most"], reduce: str
) -> Float[Tensor, "*rest cells"]:
    """Reduce pieces along the last dimension to cells, in one order always; the last entry of `x` is 0 and fills gaps."""
    gathered: Tensor = x.index_select(-1, table.flatten()).unflatten(-1, tuple(table.shape))
    return gathered.amax(-1) if reduce == "max" else gathered.sum(-1)


def cell_counts(
    spec: ScoreSpec,
    batch: int,
    n_queries: int,
    n_keys: int,
    grid: tuple[int, int],
    device: torch.device | str,
) -> Int[Tensor, "B R C"]:
    """How many visible pairs each cell holds: valid queries with the valid keys that they see.

    Time and memory O(N · columns), in chunks; where groups are in play the pairs are counted one by one, in chunks.
    """
    rows, columns = grid
    out = torch.zeros(batch, rows, columns, dtype=torch.int64, device=device)
    row_cell, key_edges = cells_of(n_queries, rows, device), edges(n_keys, columns, device)
    per_token = n_keys if spec.groups is not None else columns
    step = min(_CHUNK_ROWS, max(1, _CHUNK_PAIRS // per_token))
    for b in range(batch):
        key_valid = _valid(spec.key_valid, b, n_keys, device)
        before = torch.nn.functional.pad(key_valid.cumsum(0), (1, 0))
        query_valid = _valid(spec.query_valid, b, n_queries, device)
        for first in range(0, n_queries, step):
            at = torch.arange(first, min(first + step, n_queries), device=device)
            if spec.groups is None:
                low, high = (x[:, None] for x in intervals(spec, b, at + spec.offset, n_keys))
                begin, end = torch.maximum(low, key_edges[:-1]), torch.minimum(high, key_edges[1:])
                seen = torch.where(end > begin, before[end] - before[begin.clamp(max=n_keys)], 0)
            else:
                block = visible_block(spec, b, range(first, first + len(at)), range(n_keys), device)
                total = torch.nn.functional.pad(block.cumsum(1), (1, 0))
                seen = total[:, key_edges[1:]] - total[:, key_edges[:-1]]
            # integers: the order of the additions does not matter
            out[b].index_add_(0, row_cell[at], seen * query_valid[at, None])
    return out


def _valid(flags: Tensor | None, sample: int, length: int, device: torch.device | str) -> Tensor:
    if flags is None:
        return torch.ones(length, dtype=torch.int64, device=device)
    return flags[sample].to(device).long()


def mean_of(total: Float[Tensor, "B H R C"], counts: Int[Tensor, "B R C"]) -> Float[Tensor, "B H R C"]:
    """The mean weight of the visible pairs of each cell; NaN where a cell holds none."""
    share = total / counts[:, None].to(total.dtype)
    return share.masked_fill_(counts[:, None] == 0, float("nan"))
