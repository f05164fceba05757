"""Values of positions laid over the picture that they were taken from."""

from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError


def paint(
    dataset: xr.Dataset,
    values: Any,
    size: tuple[int, int],
    *,
    image: int = 0,
    tiles: Literal["all", "whole", "parts"] = "all",
    frame: int | None = None,
) -> NDArray[np.float64]:
    """Give each pixel of a picture the value of the position whose rectangle covers the pixel's centre.

    A rectangle holds its left and upper edge, not its right and lower one, so that neighbours share no pixel.

    Args:
        dataset: a table of `patches` or `image_tokens`, over (sample, token).
        values: one number per position, of the same shape.
        size: height and width of the original picture.
        image: number of the picture.
        tiles: "whole" takes only positions of the whole picture, "parts" only those of its tiles; where a model sees both,
            one of them must be chosen.
        frame: a frame of a video; needed where the table holds several.

    Returns:
        [H, W], NaN where no position lies.

    Raises:
        InputError: values of another shape, no position of that picture, or several positions on one pixel.
    """
    given = np.asarray(values, dtype=np.float64)
    if "x0" not in dataset or given.shape != dataset["x0"].shape:
        expected = list(dataset["x0"].shape) if "x0" in dataset else "a table of patches with x0, y0, x1, y1"
        raise InputError(f"values: got shape {list(given.shape)}, expected {expected}")
    chosen = (dataset["image"].values == image) & np.isfinite(dataset["x0"].values)
    if tiles != "all":
        chosen &= (dataset["tile"].values >= 0) == (tiles == "parts")
    if frame is not None:
        chosen &= (dataset["frame"].values <= frame) & (frame < dataset["frame_end"].values)
    if not chosen.any():
        raise InputError(f"image {image}: the table has no position there (tiles {tiles!r}, frame {frame})")
    corners = np.stack([dataset[name].values[chosen] for name in ("y0", "y1", "x0", "x1")])
    # pixel n has its centre at n + ½, so the first one not before an edge e is ceil(e − ½)
    limits = np.array([size[0], size[0], size[1], size[1]])[:, None]
    edges = np.clip(np.ceil(corners - 0.5), 0, limits).astype(int)
    picture, covered = np.full(size, np.nan), np.zeros(size, dtype=bool)
    for value, (top, bottom, left, right) in zip(given[chosen], edges.T, strict=True):
        place = (slice(top, bottom), slice(left, right))
        if covered[place].any():
            raise InputError(
                f"image {image}: several positions lie on one pixel; choose tiles='whole' or 'parts', or one frame of a video"
            )
        picture[place], covered[place] = value, True
    return picture
