"""Plain appearance of objects: twelve numbers from the pixels, between −1 and 1, that need no network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError
from probe.gaze.scene import Floats

NAMES = (
    "lightness", "green to red", "blue to yellow", "spread of lightness", "spread of green to red",
    "spread of blue to yellow", "contrast of lightness", "contrast of green to red", "contrast of blue to yellow",
    "edges", "edges across", "edges down",
)  # fmt: skip
_SIDE = 200  # pixels of the longer side on which features are measured


def shrunk(picture: Any) -> NDArray[np.uint8]:
    """A picture of Pillow, its longer side at most 200 pixels, [H, W, 3]."""
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    return np.asarray(small, dtype=np.uint8)


def plain_features(
    pixels: NDArray[np.uint8], labels: NDArray[np.integer[Any]] | None, boxes: Floats | None
) -> Floats:
    """Colour, its spread, its contrast with the surround, and edges, of each object.

    Args:
        pixels: [H, W, 3].
        labels: [H, W], number of the object at each pixel, each from 0 on present; or None.
        boxes: [N, 4], top, left, bottom, right as parts of height and width, where there are no labels.

    Returns:
        [N, 12], `NAMES`, CIE L*a*b* scaled to about −1 to 1 and cut there; the surround of an object is the whole picture,
        weighted by a Gaussian of a fifth of the picture around the object's middle.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2lab

    if (labels is None) == (boxes is None):
        raise InputError("expected labels of pixels or boxes, one of the two")
    lab = rgb2lab(pixels) / (50, 60, 60) - (1, 0, 0)
    down, across = np.gradient(gaussian_filter(lab[..., 0], 0.7))
    edges = np.stack([np.hypot(down, across), np.abs(across), np.abs(down)], -1) * 6
    around = np.stack([gaussian_filter(lab[..., i], max(lab.shape[:2]) / 5) for i in range(3)], -1)
    rows = []
    for inside in _members(lab.shape[:2], labels, boxes):
        own, wide, lines = (values[inside].reshape(-1, 3) for values in (lab, around, edges))
        mean = own.mean(0)
        rows.append(
            np.concatenate([mean, 3 * own.std(0) - 0.5, 2 * (mean - wide.mean(0)), lines.mean(0) - 0.5])
        )
    return np.asarray(np.clip(np.array(rows), -1, 1), dtype=np.float32)


def _members(shape: tuple[int, int], labels: Any, boxes: Any) -> list[Any]:
    """What picks out each object's pixels: at least one."""
    if labels is not None:
        return [labels == number for number in range(int(labels.max()) + 1)]
    found = []
    for box in boxes:
        ends = np.round(box * np.tile(shape, 2)).astype(int)
        top, left = min(ends[0], shape[0] - 1), min(ends[1], shape[1] - 1)
        found.append((slice(top, max(ends[2], top + 1)), slice(left, max(ends[3], left + 1))))
    return found
