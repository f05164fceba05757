"""From image tokens to pixels: each grid of tokens spread bilinearly over the part of the picture that it covers."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import ModelError

Floats = NDArray[np.floating[Any]]


def image_places(table: xr.Dataset, image: int = 0) -> NDArray[np.intp]:
    """Positions in the text that stand for a part of one picture."""
    own = (table["role"].values[0] == "patch") & (table["image"].values[0] == image)
    return np.flatnonzero(own)


def lattices(table: xr.Dataset, places: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The tokens as full grids: indices into `places`, [rows, columns], one for each level or tile.

    Tokens of one size whose middles fill a grid belong together, whichever tile they came from; else each tile stands alone.

    Raises:
        ModelError: tokens of a tile that fill no grid.
    """
    edges = {name: table[name].values[0][places] for name in ("x0", "x1", "y0", "y1", "tile", "frame")}
    size = np.round(np.stack([edges["x1"] - edges["x0"], edges["y1"] - edges["y0"], edges["frame"]], 1), 6)
    found: list[NDArray[np.intp]] = []
    for one in np.unique(size, axis=0):
        of = np.flatnonzero((size == one).all(1))
        whole = _lattice(edges, of)
        if whole is not None:
            found.append(whole)
            continue
        for tile in np.unique(edges["tile"][of]):
            part = _lattice(edges, of[edges["tile"][of] == tile])
            if part is None:
                raise ModelError(f"image tokens of tile {tile} do not fill a grid of rows and columns")
            found.append(part)
    return found


def _lattice(edges: dict[str, Any], of: NDArray[np.intp]) -> NDArray[np.intp] | None:
    y, x = (np.round((edges[f"{a}0"][of] + edges[f"{a}1"][of]) / 2, 4) for a in "yx")
    rows, columns = (np.unique(v, return_inverse=True) for v in (y, x))
    high, wide = len(rows[0]), len(columns[0])
    if high * wide != len(of):
        return None
    found = np.full((high, wide), -1, dtype=np.intp)
    found[rows[1], columns[1]] = of
    even = all(len(v) < 3 or np.allclose(np.diff(v), np.diff(v)[0], rtol=1e-2) for v in (rows[0], columns[0]))
    return found if even and (found >= 0).all() else None


def surface(
    values: Floats, table: xr.Dataset, places: NDArray[np.intp], size: tuple[int, int], shown: tuple[int, int]
) -> NDArray[np.float64]:
    """A map over the picture from one number for each image token.

    Args:
        values: [N], in the order of `places`.
        table: of `probe.families.vision.image_tokens`.
        places: positions in the text, of one picture.
        size: height and width of the picture, whose pixels the table speaks of.
        shown: height and width of the map.

    Returns:
        [height, width] float64; where several grids (tiles and the small whole picture) cover a pixel, their mean; NaN where
        the model saw nothing of the picture.
    """
    from scipy.ndimage import map_coordinates

    total, count = np.zeros(shown), np.zeros(shown)
    at = [(np.arange(n) + 0.5) * whole / n for n, whole in zip(shown, size, strict=True)]
    edges = {name: table[name].values[0][places] for name in ("x0", "x1", "y0", "y1")}
    for grid in lattices(table, places):
        spots, inside = [], []
        for axis, line, pixels in (("y", grid[:, 0], at[0]), ("x", grid[0, :], at[1])):
            low, high = edges[f"{axis}0"][line], edges[f"{axis}1"][line]
            step = (high[-1] - low[0]) / len(line)
            spots.append((pixels - low[0]) / step - 0.5)
            inside.append((pixels >= low[0] - 1e-6) & (pixels <= high[-1] + 1e-6))
        there = np.meshgrid(*spots, indexing="ij")
        painted = map_coordinates(np.asarray(values, np.float64)[grid], there, order=1, mode="nearest")
        covers = inside[0][:, None] & inside[1]
        total += np.where(covers, painted, 0.0)
        count += covers
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def token_of_pixel(
    mask: NDArray[np.bool_], table: xr.Dataset, places: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The share of each image token's rectangle that lies in a mask over the picture's own pixels, [N]."""
    found = np.zeros(len(places))
    edges = {name: table[name].values[0][places] for name in ("x0", "x1", "y0", "y1")}
    for n in range(len(places)):
        y0, y1, x0, x1 = (edges[e][n] for e in ("y0", "y1", "x0", "x1"))
        rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))))
        part = mask[rows, max(0, int(np.floor(x0))) : max(0, int(np.ceil(x1)))]
        found[n] = part.mean() if part.size else 0.0
    return found
