"""Attention laid over the slide that the patches were cut from."""

from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe import slide
from probe.errors import InputError, RecordError
from probe.explainers._mil import measures
from probe.explainers._mil.reading import bag_of, number_of
from probe.explainers.reading import origin_of
from probe.explainers.spec import Interval, Text, explainer


@explainer(
    title="Attention over the slide",
    shape="reads",
    kind="slide_overlay",
    references=(
        "Zhang et al., Attention-Challenging Multiple Instance Learning (ACMIL), ECCV 2024 (arXiv 2311.07125)",
        "Lu et al., CLAM, Nature Biomedical Engineering 2021 (arXiv 2004.09666): attention heatmaps of slides",
    ),
)
def slide_overlay(
    trace: xr.DataTree,
    *,
    bag: Annotated[str, Text("name or number of the bag")] = "0",
    picture: Annotated[
        str | None, Text("file of the slide: PNG, JPEG, TIFF, or a whole-slide format")
    ] = None,
    branch: Annotated[int | None, Interval(1, 1000, "one branch alone; left open: the mean of all")] = None,
    threshold: Annotated[
        float, Interval(0, 1e6, "patches above so many times an even share make the regions")
    ] = 1.0,
    patch_size: Annotated[
        float | None,
        Interval(
            1e-3, 1e6, "side of a patch in pixels of full resolution; left open: as the bag says, or its grid"
        ),
    ] = None,
    longest: Annotated[int, Interval(64, 20_000, "pixels along the longer side of the overview")] = 1600,
) -> xr.Dataset:
    """Where on the slide the attention falls, as it is and as percentiles, with the regions above an even share.

    The two views answer different questions. Raw attention times N says how strong it is: 1 is an even share, and a slide on
    which nothing stands out stays pale. Percentiles say which patch comes before which; they use the whole colour scale on
    every slide, also where attention is practically even.

    Args:
        trace: a record of bags with coordinates.
        bag: which bag.
        picture: the slide; without it patches are drawn on empty ground.
        branch: which branch, from 1.
        threshold: in even shares; 1 takes the activated patches, a_n > 1/N.
        patch_size: for bags that do not say it.
        longest: size of the overview that the result carries.

    Returns:
        slide_overlay: attention(patch) (× N, unit "even share"), percentile(patch), x(patch), y(patch) (upper left corner,
        in pixels of full resolution), region(patch) (number from 0, largest first; −1 outside); per region region_patches
        and region_mass (share of all attention); picture(row, column, channel) if given. Attributes patch_size, width,
        height, downsample.

    Raises:
        InputError: no record, no such bag or branch, or a picture that cannot be read or is smaller than the patches' places.
        RecordError: a record without bags or coordinates.
    """
    one = bag_of(trace, number_of(trace, bag))
    if one.coords is None:
        raise RecordError(f"{one.name}: the record has no coords of its patches: capture a Bag with coords")
    if branch is not None and branch > len(one.branches):
        raise InputError(f"branch: got {branch}, the model has {len(one.branches)}")
    a = one.attention if branch is None else one.branches[branch - 1]
    size = patch_size or (one.patch_size if one.patch_size > 0 else slide.spacing(one.coords))
    x, y = one.coords.T
    chosen = measures.activated(a) if threshold == 1 else a * len(a) > threshold
    region = slide.regions(x, y, size, chosen)
    numbers = np.arange(region.max(initial=-1) + 1)
    variables: dict[str, Any] = {
        "attention": ("patch", a * len(a)),
        "percentile": ("patch", measures.percentiles(a)),
        "x": ("patch", x),
        "y": ("patch", y),
        "region": ("patch", region),
        "region_patches": ("area", np.array([(region == n).sum() for n in numbers], dtype=np.int64)),
        "region_mass": ("area", np.array([a[region == n].sum() for n in numbers], dtype=np.float64)),
    }
    attrs = origin_of(trace) | {
        "unit": "even share",
        "value": "attention",
        "of": one.name,
        "patch_size": float(size),
    }
    attrs["branch"] = "mean of all" if branch is None else str(branch)
    attrs["threshold"] = float(threshold)
    view = _view(picture, x, y, size, longest, variables)
    return xr.Dataset(variables, attrs=attrs | view)


def _view(
    picture: str | None,
    x: measures.Array,
    y: measures.Array,
    size: float,
    longest: int,
    variables: dict[str, Any],
) -> dict[str, Any]:
    """The size of the slide and of its overview; the picture goes to the variables."""
    right, below = float(x.max() + size), float(y.max() + size)
    if picture is None:
        return {"width": right, "height": below, "downsample": max(right, below, longest) / longest}
    view = slide.read_overview(picture, longest)
    if x.max() >= view.width or y.max() >= view.height or min(x.min(), y.min()) < 0:
        raise InputError(
            f"{picture}: has {view.width:,} × {view.height:,} pixels, but patches begin as far as "
            f"x {x.max():g}, y {y.max():g}; is it the slide of this bag, at full resolution?"
        )
    variables["picture"] = (("row", "column", "channel"), view.pixels)
    return {"width": float(view.width), "height": float(view.height), "downsample": view.downsample}
