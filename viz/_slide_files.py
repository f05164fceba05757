"""A slide's overlay as files for other programs: GeoJSON (QuPath and others) and PNG."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.errors import InputError
from probe.viz import theme
from probe.viz._report import _write
from probe.viz._slide import PALE, Grid, grid_of, painted, rings_of

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    Array = NDArray[Any]


def slide_geojson(result: xr.Dataset) -> dict[str, Any]:
    """The overlay as GeoJSON in pixels of full resolution, y downwards, as QuPath reads it.

    Args:
        result: Of kind `slide_overlay`.

    Returns:
        A FeatureCollection: a polygon for each region (properties `region`, `patches`, `attention_share`), then a square for
        each patch (`attention` in even shares, `percentile`, `region`).
    """
    _check(result)
    features = []
    for number, rings in rings_of(result, grid_of(result, cells=100_000)).items():
        facts = {
            "objectType": "annotation",
            "name": f"region {number + 1}",
            "region": number,
            "patches": int(result["region_patches"].values[number]),
            "attention_share": float(result["region_mass"].values[number]),
        }
        shape = {"type": "MultiPolygon", "coordinates": _polygons(rings)}
        features.append({"type": "Feature", "geometry": shape, "properties": facts})
    size = float(result.attrs["patch_size"])
    names = ("x", "y", "attention", "percentile", "region")
    for x, y, a, p, region in zip(*(result[n].values.tolist() for n in names), strict=True):
        corners = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
        facts = {"objectType": "tile", "attention": a, "percentile": p, "region": region}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [corners]},
                "properties": facts,
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_geojson(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write `slide_geojson` to a file in one step."""
    return _write(Path(path), json.dumps(slide_geojson(result), allow_nan=False))


def slide_png(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write raw attention (left) and percentiles (right) over the overview as a PNG.

    Args:
        result: Of kind `slide_overlay`.
        path: The file.

    Raises:
        InputError: Another kind of result.
    """
    from PIL import Image

    _check(result)
    down = float(result.attrs["downsample"])
    shape = tuple(max(1, round(float(result.attrs[n]) / down)) for n in ("height", "width"))
    ground = result["picture"].values if "picture" in result else np.full((*shape, 3), 255, dtype=np.uint8)
    grid = Grid(0.0, 0.0, down, (ground.shape[0], ground.shape[1]))
    top = max(PALE, float(np.quantile(result["attention"].values, 0.995)))
    views = [
        _blend(ground, painted(result, n, grid) / high)
        for n, high in (("attention", top), ("percentile", 100.0))
    ]
    gap = np.full((len(ground), max(4, ground.shape[1] // 80), 3), 255, dtype=np.uint8)
    target = Path(path)
    Image.fromarray(np.concatenate([views[0], gap, views[1]], 1)).save(target, format="PNG")
    return target


def _blend(ground: Array, share: Array) -> Array:
    """The overlay's colours over the picture, as the figure shows them."""
    stops = np.array(
        [[position, *map(float, re.findall(r"[\d.]+", colour))] for position, colour in theme.OVERLAY]
    )
    filled = np.clip(np.nan_to_num(share), 0, 1)
    red, green, blue, alpha = (np.interp(filled, stops[:, 0], stops[:, i]) for i in range(1, 5))
    alpha = np.where(np.isfinite(share), alpha, 0)[..., None]
    mixed = ground * (1 - alpha) + np.stack([red, green, blue], -1) * alpha
    return np.asarray(mixed.round().astype(np.uint8))


def _polygons(rings: list[list[tuple[float, float]]]) -> list[list[list[list[float]]]]:
    """Outer rings with the holes that lie in them; the two run opposite ways round."""
    outer = [ring for ring in rings if _area(ring) > 0]
    found = [[[list(p) for p in ring]] for ring in outer]
    for hole in (ring for ring in rings if _area(ring) <= 0):
        holders = [i for i, ring in enumerate(outer) if _inside(hole[0], hole[1], ring)]
        smallest = min(holders, key=lambda i: _area(outer[i]))
        found[smallest].append([list(p) for p in hole])
    return found


def _area(ring: list[tuple[float, float]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _inside(a: tuple[float, float], b: tuple[float, float], ring: list[tuple[float, float]]) -> bool:
    """Whether the middle of an edge of a hole, a little to its outer side, lies within a ring (even-odd rule)."""
    px, py = (a[0] + b[0]) / 2 - (b[1] - a[1]) * 1e-6, (a[1] + b[1]) / 2 + (b[0] - a[0]) * 1e-6
    x, y = np.array(ring).T
    crosses = (y[:-1] > py) != (y[1:] > py)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x[:-1] + (py - y[:-1]) / (y[1:] - y[:-1]) * (x[1:] - x[:-1])
    return bool((crosses & (px < at)).sum() % 2)


def _check(result: xr.Dataset) -> None:
    if result.attrs.get("kind") != "slide_overlay":
        raise InputError(f"expected a slide_overlay, got a result of kind {result.attrs.get('kind')!r}")
