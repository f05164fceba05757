"""How the blocks of a launch cut the cells of a pooled map into pieces, and which pieces make a cell again."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.pooling import cells_of, edges, merge_pieces, table_of

_FEWEST_ROWS, _MOST_FINE = 16, 8
_FAR = 2**30


@dataclass(frozen=True, eq=False)
class Cells:
    """One grid under one block shape.

    Attributes:
        grid: (row cells, column cells).
        M: query rows of a tile, made smaller for very fine grids.
        fine: 0 where every row cell is at least a tile high: a tile then holds one edge at most, and a block of keys leaves
            one row of pieces per row cell. Otherwise the most row cells that a tile touches; each tile leaves that many rows.
        wide: pieces that a block of keys is cut into, a power of two.
        shape: rows and pieces per row of a head's buffer; the last of both stay 0 and fill gaps.
        cell_of: the row cell of every query, padded to whole tiles.
        edges: the first query of every row cell, the number of queries, and two values beyond.
        piece_of: the piece of its block that a key belongs to; -1 beyond the last key.
        row_table: the rows of pieces that make each row cell, if `fine`.
        column_table: the pieces that make each column cell.
    """

    grid: tuple[int, int]
    M: int
    fine: int
    wide: int
    shape: tuple[int, int]
    cell_of: Int[Tensor, "rows"]
    edges: Int[Tensor, "cells3"]
    piece_of: Int[Tensor, "keys"]
    row_table: Int[Tensor, "R most"]
    column_table: Int[Tensor, "C most"]

    def merge(self, pieces: Float[Tensor, "heads rows pieces"], reduce: str) -> Float[Tensor, "heads R C"]:
        """Reduce the pieces of a launch to cells, in one order always."""
        out = merge_pieces(pieces, self.column_table, reduce)
        if self.fine:
            return merge_pieces(out.transpose(1, 2), self.row_table, reduce).transpose(1, 2)
        return out[:, : self.grid[0]]


@lru_cache(maxsize=32)
def cells_for(
    n_queries: int, n_keys: int, grid: tuple[int, int], rows: int, keys: int, device: torch.device
) -> Cells:
    """Plan a grid for tiles of `rows` queries and blocks of `keys` keys; the tables (O(N)) are kept for the next call."""
    M, fine = rows, 0
    if n_queries // grid[0] < M:
        while M > _FEWEST_ROWS and _most_cells(n_queries, grid[0], M) > _MOST_FINE:
            M //= 2
        if n_queries // grid[0] < M:
            fine = _most_cells(n_queries, grid[0], M)
    wide = 1 << (_most_cells(n_keys, grid[1], keys) - 1).bit_length()
    of_row, of_key = cells_of(n_queries, grid[0]), cells_of(n_keys, grid[1])
    blocks = -(-n_keys // keys)
    tiles = -(-n_queries // M)
    first_cell = of_key[::keys].repeat_interleave(keys)[:n_keys]
    piece_of = torch.nn.functional.pad(of_key - first_cell, (0, blocks * keys - n_keys), value=-1)
    row_owner = _owners(of_row, M, fine) if fine else torch.arange(grid[0])
    return Cells(
        grid=grid,
        M=M,
        fine=fine,
        wide=wide,
        shape=((tiles * fine if fine else grid[0]) + 1, blocks * wide + 1),
        cell_of=torch.nn.functional.pad(of_row, (0, tiles * M - n_queries), value=_FAR).int().to(device),
        edges=torch.nn.functional.pad(edges(n_queries, grid[0]), (0, 2), value=_FAR).int().to(device),
        piece_of=piece_of.int().to(device),
        row_table=table_of(row_owner, grid[0]).to(device),
        column_table=table_of(_owners(of_key, keys, wide), grid[1]).to(device),
    )


def _most_cells(n: int, cells: int, block: int) -> int:
    """The most cells that one block of positions touches."""
    of = cells_of(n, cells)
    last = of[torch.arange(block - 1, n + block - 1, block).clamp(max=n - 1)]
    return int((last - of[::block]).max()) + 1


def _owners(of: Int[Tensor, "n"], block: int, wide: int) -> Int[Tensor, "pieces"]:
    """The cell of each piece, `wide` pieces to a block; -1 for pieces that a block does not have."""
    first, n = of[::block], len(of)
    last = of[torch.arange(block - 1, n + block - 1, block).clamp(max=n - 1)]
    cell = first[:, None] + torch.arange(wide)
    return torch.where(cell <= last[:, None], cell, -1).flatten()
