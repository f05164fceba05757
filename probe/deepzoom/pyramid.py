"""Pooled maps of a head at every level, so that any part of a long map can be looked at without computing it.

Level s holds the map on cells of s × s positions: cell (r, c) covers queries r·s … (r+1)·s - 1 and keys c·s … (c+1)·s - 1, as
far as there are any. Levels are the powers of two from `finest` until one cell holds all. A value is the mean (or the largest)
weight over the visible pairs of the cell, NaN if it has none, stored as float16 of 2¹⁵ times it: off by 2⁻¹¹ of itself, or by
2⁻⁴⁰ if that is more. All levels lie in one array (sample, head, tile, 512, 512), level after level, row after row of tiles;
tiles where nothing is visible take no room in a folder.

Room per head and reduction at N tokens: 2·(4/3)·(N / finest)² bytes, half of it for causal maps: 0.36 GB at 131,072 and 8.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.errors import RecordError
from probe.record.rounding import described, round_bits

Array = np.ndarray[Any, Any]

TILE = 512
FINEST = 8
SCALE = 2.0**15
REDUCTIONS = ("mean", "max")
#: Entries that are computed at once for a view, about 0.1 s on one core; maps of more need pooled maps.
LIVE = 1 << 24
#: Bounds of the error of a stored value: relative, or absolute for values below 2⁻²⁹.
RELATIVE, ABSOLUTE = 2.0**-11, 2.0**-40


@dataclass(frozen=True)
class Level:
    """One level: positions per cell and side, rows and columns of cells, and the number of its first tile."""

    size: int
    rows: int
    columns: int
    first: int

    @property
    def across(self) -> int:
        """Tiles beside each other."""
        return -(-self.columns // TILE)

    @property
    def tiles(self) -> int:
        """All of its tiles."""
        return -(-self.rows // TILE) * self.across


def levels_of(n_queries: int, n_keys: int, finest: int) -> tuple[Level, ...]:
    """The levels of a map, finest first."""
    found, first, size = [], 0, finest
    while True:
        level = Level(size, -(-n_queries // size), -(-n_keys // size), first)
        found.append(level)
        if level.rows == level.columns == 1:
            return tuple(found)
        first, size = first + level.tiles, 2 * size


@dataclass(frozen=True, eq=False)
class Pyramid:
    """The pooled maps of some heads.

    Attributes:
        levels: finest first.
        maps: by reduction ("mean", "max"), all tiles [B, n, tiles, 512, 512], float16 of `SCALE` times the values.
    """

    levels: tuple[Level, ...]
    maps: dict[str, Array]

    @classmethod
    def empty(
        cls, batch: int, heads: int, n_queries: int, n_keys: int, finest: int, reduce: Sequence[str]
    ) -> "Pyramid":
        """Pooled maps in which nothing is visible."""
        levels = levels_of(n_queries, n_keys, finest)
        shape = (batch, heads, levels[-1].first + 1, TILE, TILE)
        return cls(levels, {name: np.full(shape, np.nan, dtype=np.float16) for name in reduce})

    def put(
        self, name: str, level: Level, sample: int, head: int, top: int, values: Float[Tensor, "r C"]
    ) -> None:
        """Write rows `top` … of a level; `values` are not scaled yet."""
        coded = (values * SCALE).to(torch.float16).cpu().numpy()
        for at, here, there in _cuts(level, range(top, top + coded.shape[0]), range(coded.shape[1])):
            self.maps[name][(sample, head, at, *here)] = coded[there]

    def variables(self, keep_bits: int | None) -> tuple[dict[str, xr.Variable], dict[str, Any]]:
        """Its variables and attributes in the record."""
        variables = {}
        rounding = RELATIVE if keep_bits is None else max(RELATIVE, 2.0 ** -(keep_bits + 1))
        for name, tiles in self.maps.items():
            # below the smallest normal number a float16 has no digits to spare
            values = tiles if keep_bits is None else round_bits(tiles, keep_bits)
            attrs = {
                "unit": "probability",
                "scale": SCALE,
                "relative_rounding": rounding,
                "absolute_rounding": ABSOLUTE,
            }
            dims = ("sample", "head", "tile", "tile_row", "tile_column")
            variable = xr.Variable(dims, values, described(keep_bits) | attrs)
            variable.encoding |= {"chunks": (1, 1, 1, TILE, TILE), "_FillValue": np.nan}
            variables[f"pyramid_{name}"] = variable
        return variables, {"levels": json.dumps([[v.size, v.rows, v.columns, v.first] for v in self.levels])}


def levels_in(dataset: xr.Dataset) -> tuple[Level, ...]:
    """The levels that a kept layer holds, finest first; none if it has no pooled maps."""
    try:
        return tuple(Level(*numbers) for numbers in json.loads(dataset.attrs.get("levels", "[]")))
    except (TypeError, ValueError) as error:
        raise RecordError(f"the levels of a kept layer cannot be read: {error}") from error


def read_cells(
    tiles: xr.DataArray, level: Level, sample: int, head: int, rows: range, columns: range
) -> Float[Array, "R C"]:
    """Cells of one level, float32.

    Args:
        tiles: the variable `pyramid_<reduction>` of a kept layer.
        level: one of its levels.
        sample: index of the sample.
        head: place of the head among those that are kept.
        rows: rows of cells.
        columns: columns of cells.
    """
    out = np.empty((len(rows), len(columns)), dtype=np.float32)
    array = tiles.variable
    for at, (tile_rows, tile_columns), there in _cuts(level, rows, columns):
        here: Any = array[sample, head, at, tile_rows, tile_columns].values
        out[there] = here
    return out / np.float32(tiles.attrs["scale"])


def _cuts(
    level: Level, rows: range, columns: range
) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """A rectangle of cells cut at the tiles: number of the tile, the part in the tile, the part in the rectangle."""
    for down in range(rows.start // TILE, -(-rows.stop // TILE)):
        top, bottom = max(rows.start, down * TILE), min(rows.stop, (down + 1) * TILE)
        for along in range(columns.start // TILE, -(-columns.stop // TILE)):
            left, right = max(columns.start, along * TILE), min(columns.stop, (along + 1) * TILE)
            here = (
                slice(top - down * TILE, bottom - down * TILE),
                slice(left - along * TILE, right - along * TILE),
            )
            there = (
                slice(top - rows.start, bottom - rows.start),
                slice(left - columns.start, right - columns.start),
            )
            yield level.first + down * level.across + along, here, there
