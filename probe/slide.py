"""Slides: a picture of any size as a small overview, scores of patches painted over it, regions and their outlines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import InputError

Array = np.ndarray[Any, Any]
WHOLE_SLIDE = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".svslide")
_TIFF = (".tif", ".tiff")
_PLAIN = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LARGEST = 400_000_000
"""Pixels that are read at once; a larger picture needs a pyramid."""


@dataclass(frozen=True, eq=False)
class Overview:
    """A slide, small enough to be shown.

    Attributes:
        pixels: uint8 [row, column, 3].
        width: Of the full resolution, in pixels.
        height: Likewise.
        downsample: Pixels of full resolution beside a pixel of the overview.
    """

    pixels: Array
    width: int
    height: int
    downsample: float


def read_overview(path: str | Path, longest: int = 1600) -> Overview:
    """Read a slide at low magnification.

    PNG, JPEG and the like through scikit-image, TIFF through tifffile (of a pyramid the level that just suffices), whole-slide
    formats through openslide or tiffslide, if one of them is installed.

    Args:
        path: The picture.
        longest: Pixels along its longer side, at most.

    Raises:
        InputError: No such file, another format, a reader that is not installed, or a picture too large to be read whole.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise InputError(f"there is no picture {place}")
    suffix = place.suffix.lower()
    if suffix in WHOLE_SLIDE:
        pixels, width, height = _whole_slide(place, longest)
    elif suffix in _TIFF:
        pixels, width, height = _tiff(place, longest)
    elif suffix in _PLAIN:
        from skimage.io import imread

        pixels = imread(place)
        height, width = pixels.shape[:2]
    else:
        known = ", ".join((*_PLAIN, *_TIFF, *WHOLE_SLIDE))
        raise InputError(f"{place}: not a format of pictures; expected {known}")
    return fit_overview(_rgb(place, pixels), width, height, longest)


def fit_overview(pixels: Array, width: int, height: int, longest: int = 1600) -> Overview:
    """Shrink a picture to an overview.

    Args:
        pixels: uint8 [row, column, 3], at full resolution or below.
        width: Of the full resolution.
        height: Likewise.
        longest: Pixels along the longer side, at most.
    """
    from skimage.transform import resize

    factor = max(1.0, max(pixels.shape[:2]) / longest)
    if factor > 1:
        shape = tuple(max(1, round(side / factor)) for side in pixels.shape[:2])
        pixels = (resize(pixels, shape, anti_aliasing=True) * 255).round().astype(np.uint8)
    return Overview(pixels, width, height, width / pixels.shape[1])


def paint(x: Array, y: Array, size: float, scores: Array, cell: float, shape: tuple[int, int]) -> Array:
    """Scores of square patches as a picture; where patches overlap, their mean.

    Args:
        x: Left edges, [P], in pixels of full resolution.
        y: Upper edges, [P].
        size: Side of a patch, in the same pixels.
        scores: [P].
        cell: Pixels of full resolution along a cell of the picture: any magnification.
        shape: Rows and columns of the picture.

    Returns:
        float64 [row, column], NaN where no patch lies. A patch covers the cells whose middle it covers, at least one.
    """
    edges = []
    for start, cells in ((y, shape[0]), (x, shape[1])):
        first = np.clip(np.round(np.asarray(start) / cell).astype(np.int64), 0, cells - 1)
        stop = np.round((np.asarray(start) + size) / cell).astype(np.int64)
        edges.append((first, np.clip(np.maximum(stop, first + 1), 1, cells)))
    (top, bottom), (left, right) = edges
    total, count = np.zeros((2, shape[0] + 1, shape[1] + 1))
    for grid, weight in ((total, np.asarray(scores, dtype=np.float64)), (count, np.ones(len(left)))):
        for rows, columns, sign in ((top, left, 1), (bottom, left, -1), (top, right, -1), (bottom, right, 1)):
            np.add.at(grid, (rows, columns), sign * weight)
    total, count = (g.cumsum(0).cumsum(1)[:-1, :-1] for g in (total, count))
    count = count.round()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def spacing(coords: Array) -> float:
    """The smallest distance of two patches along an axis, in pixels: the patch size of a gapless grid without overlap.

    Raises:
        InputError: all patches lie at one place.
    """
    steps = [np.diff(np.unique(coords[:, axis])) for axis in (0, 1)]
    steps = [s.min() for s in steps if len(s)]
    if not steps:
        raise InputError("one patch says nothing of the patches' size: give patch_size")
    return float(min(steps))


def regions(x: Array, y: Array, size: float, chosen: Array) -> Array:
    """Number of the region of each chosen patch: patches that overlap or share an edge are one region, largest first.

    Returns:
        int64 [P], from 0; −1 for patches that are not chosen.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    found = np.full(len(x), -1, dtype=np.int64)
    places = np.flatnonzero(chosen)
    if not len(places):
        return found
    points = np.stack([x[places], y[places]], 1)
    pairs = cKDTree(points).query_pairs(size * (1 + 1e-9), p=np.inf, output_type="ndarray")
    apart = np.abs(points[pairs[:, 0]] - points[pairs[:, 1]])
    pairs = pairs[(apart < size * (1 - 1e-9)).any(1)]  # a shared corner alone joins nothing
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(places),) * 2)
    _, part = connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(part), kind="stable")
    found[places] = np.argsort(order)[part]
    return found


def outlines(mask: Array) -> list[list[tuple[int, int]]]:
    """The edges of a mask's areas as closed rings of corners (column, row), each straight run once; holes are rings, too.

    Args:
        mask: bool [row, column].
    """
    padded = np.pad(np.asarray(mask, dtype=np.int8), 1)
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}
    across, down = np.diff(padded, axis=0), np.diff(padded, axis=1)
    for row, column in np.argwhere(across):  # the area stays on the right hand
        a, b = (int(column) - 1, int(row)), (int(column), int(row))
        follow.setdefault(*((a, []) if across[row, column] > 0 else (b, []))).append(
            b if across[row, column] > 0 else a
        )
    for row, column in np.argwhere(down):
        a, b = (int(column), int(row) - 1), (int(column), int(row))
        follow.setdefault(*((b, []) if down[row, column] > 0 else (a, []))).append(
            a if down[row, column] > 0 else b
        )
    rings = []
    while follow:
        start = next(iter(follow))
        ring = [start]
        while True:
            ring.append(_turn(follow, ring))
            if ring[-1] == start:
                break
        rings.append(_corners(ring))
    return rings


def _turn(
    follow: dict[tuple[int, int], list[tuple[int, int]]], ring: list[tuple[int, int]]
) -> tuple[int, int]:
    """The next corner; where two areas touch at a corner, the turn that keeps them apart."""
    here = ring[-1]
    ways = follow[here]
    best = 0
    if len(ways) > 1 and len(ring) > 1:
        dx, dy = here[0] - ring[-2][0], here[1] - ring[-2][1]
        best = max(range(len(ways)), key=lambda i: dx * (ways[i][1] - here[1]) - dy * (ways[i][0] - here[0]))
    following = ways.pop(best)
    if not ways:
        del follow[here]
    return following


def _corners(ring: list[tuple[int, int]]) -> list[tuple[int, int]]:
    body = ring[:-1]
    kept = [
        p
        for i, p in enumerate(body)
        if (p[0] - body[i - 1][0]) * (body[(i + 1) % len(body)][1] - p[1])
        != (p[1] - body[i - 1][1]) * (body[(i + 1) % len(body)][0] - p[0])
    ]
    return [*kept, kept[0]]


def _tiff(path: Path, longest: int) -> tuple[Array, int, int]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            levels = [level for level in series.levels if level.ndim in (2, 3)]
            height, width = levels[0].shape[:2]
            enough = [level for level in levels if max(level.shape[:2]) >= longest]
            level = enough[-1] if enough else levels[0]
            if level.shape[0] * level.shape[1] > LARGEST:
                raise InputError(
                    f"{path}: {width:,} × {height:,} pixels without a small enough level; save it as a pyramid"
                )
            return np.asarray(level.asarray()), int(width), int(height)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: tifffile cannot read it: {' '.join(str(error).split())[:160]}") from error


def _whole_slide(path: Path, longest: int) -> tuple[Array, int, int]:
    from importlib import import_module

    for name, kind in (("openslide", "OpenSlide"), ("tiffslide", "TiffSlide")):
        try:
            opener = getattr(import_module(name), kind)
        except ImportError:
            continue
        with opener(str(path)) as slide:
            width, height = slide.dimensions
            return np.asarray(slide.get_thumbnail((longest, longest)).convert("RGB")), int(width), int(height)
    raise InputError(
        f"{path}: whole-slide formats need a reader: pip install openslide-python openslide-bin, or tiffslide"
    )


def _rgb(path: Path, pixels: Array) -> Array:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise InputError(f"{path}: a picture of shape {list(pixels.shape)}, expected [row, column, 3]")
    pixels = pixels[..., :3]
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(f"{path}: pixels of {pixels.dtype}, expected 8 or 16 bits a channel")
    return np.ascontiguousarray(pixels)
