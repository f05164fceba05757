"""Attention areas: connected regions of a map that stand above the rest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEAST = 0.004  # of the picture: smaller regions are specks


@dataclass(frozen=True)
class Area:
    """One region: box in pixels (bottom and right excluded), its part of the picture and of the evidence in it."""

    top: int
    left: int
    bottom: int
    right: int
    size: float
    share: float


def attention_areas(
    map_: Floats, evidence: Floats, least: float = LEAST
) -> tuple[NDArray[np.int16], list[Area]]:
    """The regions above Otsu's threshold of a map, those with the most evidence first.

    Args:
        map_: [H, W] from 0 up.
        evidence: [H, W], what is counted; negative values count as none.
        least: smallest region, as a part of the picture.

    Returns:
        [H, W] with the number of the region that a pixel lies in (from 1; 0 for none), and the regions in that order. None
        where the map is constant.
    """
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops

    numbers = np.zeros(map_.shape, dtype=np.int16)
    if not np.ptp(map_) > 0:
        return numbers, []
    found = label(map_ > threshold_otsu(map_), connectivity=2)
    support = np.clip(evidence, 0, None)
    total = float(support.sum()) or 1.0
    regions = []
    for region in regionprops(found):
        if region.area >= least * map_.size:
            share = float(support[found == region.label].sum()) / total
            top, left, bottom, right = (int(edge) for edge in region.bbox)
            size = float(region.area) / map_.size
            regions.append((Area(top, left, bottom, right, size, share), region.label))
    regions.sort(key=lambda pair: (-pair[0].share, pair[1]))
    for number, (_, own) in enumerate(regions, start=1):
        numbers[found == own] = number
    return numbers, [area for area, _ in regions]
