"""Two relevance results of one view side by side: two classes, or two networks."""

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.record import strings


def relevance_contrast(first: xr.Dataset, second: xr.Dataset, *, map_name: str = "sr") -> xr.Dataset:
    """The same map of two results, and their difference.

    Args:
        first: what `relevance` gave.
        second: the same for another class or another network that sees the same part of the picture.
        map_name: "relevance" (each divided by its largest absolute value), "sr" or "blurred".

    Returns:
        image_overlay of three maps: the two, and first − second (signed).

    Raises:
        InputError: results of another kind, or of two different views.
    """
    places = {"relevance": 0, "sr": 1, "blurred": 2}
    if map_name not in places:
        raise InputError(f"map_name = {map_name!r}, expected one of {', '.join(places)}")
    for result in (first, second):
        if getattr(result, "attrs", {}).get("explainer") != "relevance":
            raise InputError("expected two results of `relevance`")
    if not np.array_equal(first["picture"].values, second["picture"].values):
        raise InputError(
            "the two networks see different parts or sizes of the picture: their places do not correspond"
        )
    maps = [result["relevance"].values[places[map_name]].astype(np.float32) for result in (first, second)]
    if map_name == "relevance":
        maps = [map_ / (np.abs(map_).max() or 1.0) for map_ in maps]
    signed = map_name == "relevance"
    labels = [_label(result, first.attrs["model"] != second.attrs["model"]) for result in (first, second)]
    if labels[0] == labels[1]:
        labels = [
            f"{label} ({result.attrs['method']})"
            for label, result in zip(labels, (first, second), strict=True)
        ]
    found = xr.Dataset(
        {
            "relevance": (("map", "row", "column"), np.stack([*maps, maps[0] - maps[1]])),
            "picture": first["picture"],
        },
        coords={
            "name": ("map", strings([*labels, "first − second"])),
            "signed": ("map", np.array([signed, signed, True])),
        },
    )
    agreement = (
        float(np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1]) if all(np.ptp(m) for m in maps) else 0.0
    )
    found.attrs = {
        name: first.attrs[name]
        for name in (
            "kind",
            "references",
            "input",
            "method",
            "target",
            "target_probability",
            "parameters",
            "seen",
        )
    } | {
        "explainer": "relevance_contrast",
        "title": f"{labels[0]} beside {labels[1]}",
        "unit": "1",
        "value": "relevance",
        "model": " and ".join(dict.fromkeys((first.attrs["model"], second.attrs["model"]))),
        "agreement": agreement,
    }
    return found


def _label(result: xr.Dataset, networks: bool) -> str:
    return f"{result.attrs['model']}: {result.attrs['target']}" if networks else str(result.attrs["target"])
