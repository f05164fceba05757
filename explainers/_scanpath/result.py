"""Paths over objects as a labelled result of kind `path`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.gaze.boxes import Objects
from probe.record import strings


def path_dataset(
    objects: Objects,
    paths: Sequence[tuple[str, str, Sequence[int]]],
    target: int | None,
    picture: NDArray[np.uint8] | None,
    aspect: float,
) -> xr.Dataset:
    """Paths side by side.

    Args:
        objects: of the picture.
        paths: name, who made it ("model" or "person") and the numbers of objects of each.
        target: number of the object searched, or None.
        picture: [H, W, 3], or None where there is none to show.
        aspect: height over width of the picture.

    Returns:
        stop(path, step): number of the object, −1 after the end; row, column(path, step): its middle as parts of height and
        width, NaN after the end; name, made_by(path); box(object, side): top, left, bottom, right as parts,
        object_name(object); agreement(step): how often two of the paths drawn from the model (all of its own but the first,
        which was chosen, not drawn) that both go on so far stand on the same object, people(step) the
        same of people's, NaN for fewer than two; picture(pixel_row, pixel_column, colour), if any.
    """
    longest = max(len(path) for _, _, path in paths)
    stops = np.full((len(paths), longest), -1, np.int32)
    for row, (_, _, path) in enumerate(paths):
        stops[row, : len(path)] = path
    middle = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    at = np.where(stops[..., None] >= 0, middle[np.maximum(stops, 0)], np.nan)
    makers = np.array([maker for _, maker, _ in paths])
    found = xr.Dataset(
        {
            "stop": (("path", "step"), stops),
            "row": (("path", "step"), at[..., 0]),
            "column": (("path", "step"), at[..., 1]),
            "agreement": ("step", agreement_by_step(stops[makers == "model"][1:])),
            "people": ("step", agreement_by_step(stops[makers == "person"])),
            "box": (("object", "side"), np.asarray(objects.boxes, dtype=np.float64)),
        },
        coords={
            "name": ("path", strings([name for name, _, _ in paths])),
            "made_by": ("path", strings(list(makers))),
            "object_name": ("object", strings(list(objects.names))),
            "step": np.arange(1, longest + 1),
        },
        attrs={
            "unit": "object",
            "value": "stop",
            "aspect": float(aspect),
            "target_object": -1 if target is None else target,
        },
    )
    if picture is not None:
        found["picture"] = (("pixel_row", "pixel_column", "colour"), picture)
    return found


def agreement_by_step(stops: NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:
    """How often two paths that both go on stand on the same object, at each step: [path, step] (−1: ended) to [step]."""
    found = np.full(stops.shape[1], np.nan)
    for step in range(stops.shape[1]):
        here = stops[:, step][stops[:, step] >= 0]
        if len(here) > 1:
            counts = np.unique(here, return_counts=True)[1]
            found[step] = (counts * (counts - 1)).sum() / (len(here) * (len(here) - 1))
    return found
