"""The arithmetic of CARVE on plain arrays: contrast, fusion, the quantile mask, its regions, the box that is cut out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError

Floats = NDArray[np.floating[Any]]

#: Spread of a map, in shares of its mean, below which it is flat: a few thousand roundings of float32.
FLAT = 1e-4
STEPS = ("first", "last", "all")


def contrast(
    question: Floats, general: Floats, lam: float, *, normalise: bool = False
) -> NDArray[np.float64]:
    """C = A_Q / (A_G + λ), elementwise over the last axis: the minimiser of Σ (c A_G − A_Q)² + λ Σ c² A_G.

    Args:
        question: attention to the image tokens under the question, [..., N].
        general: the same under the general instruction.
        lam: λ; 0 is the plain ratio, and with λ → ∞ the result becomes proportional to `question`.
        normalise: first divide each map by its sum, so that layers that look at the picture more do not weigh more.

    Raises:
        InputError: λ is 0 and a general weight too, or a map to be normalised has no mass.
    """
    q, g = np.asarray(question, np.float64), np.asarray(general, np.float64)
    if normalise:
        sums = [x.sum(-1, keepdims=True) for x in (q, g)]
        if not all((s > 0).all() for s in sums):
            raise InputError("normalise: a layer gives the picture no attention at all; choose other layers")
        q, g = q / sums[0], g / sums[1]
    bottom = g + lam
    if not (bottom > 0).all():
        raise InputError(
            "lam = 0 and a general attention weight of 0: the ratio has no value; give a lam above 0"
        )
    return np.asarray(q / bottom)


def paired(question: int, general: int, steps: str, start: int = 0) -> list[tuple[int, int, float]]:
    """Which steps of two answers are compared, with their weights.

    Args:
        question: steps of the answer to the question.
        general: steps of the answer to the general instruction.
        steps: "first", "last" (each answer's own last) or "all" (the common ones, weight t − start + 1).
        start: with "all", the first step.

    Raises:
        InputError: an answer without a step, or no step from `start` on.
    """
    common = min(question, general)
    if common < 1 or (steps == "all" and start >= common):
        raise InputError(
            f"steps: the answers have {question} and {general} steps, expected at least {start + 1} of both"
        )
    if steps == "first":
        return [(0, 0, 1.0)]
    if steps == "last":
        return [(question - 1, general - 1, 1.0)]
    return [(t, t, float(t - start + 1)) for t in range(start, common)]


def entropy(weights: Floats) -> NDArray[np.float64]:
    """−Σ a ln a over the last axis in nats, of the weights divided by their sum; at most ln N."""
    a = np.asarray(weights, np.float64)
    total = a.sum(-1, keepdims=True)
    a = np.divide(a, total, out=np.zeros_like(a), where=total > 0)
    return np.asarray(-np.sum(a * np.log(np.where(a > 0, a, 1.0)), axis=-1))


def spread(values: Floats) -> float:
    """How uneven a map is: (max − min) / mean over its finite values; 0 for a constant one."""
    found = np.asarray(values)[np.isfinite(values)]
    mean = float(np.abs(found).mean()) if found.size else 0.0
    return float(found.max() - found.min()) / mean if mean > 0 else 0.0


def kept(surface: Floats, keep: float) -> NDArray[np.bool_]:
    """The top share `keep` of the finite pixels of a map; ties at the threshold stay, so that `keep` = 1 keeps all."""
    finite = np.isfinite(surface)
    threshold = np.quantile(np.asarray(surface)[finite], 1 - keep)
    return np.asarray(finite & (np.nan_to_num(surface, nan=-np.inf) >= threshold))


@dataclass(frozen=True)
class Region:
    """One connected region; edges in pixels of the map, `bottom` and `right` excluded."""

    top: int
    left: int
    bottom: int
    right: int
    size: float
    share: float


@dataclass(frozen=True)
class RegionRule:
    """Which regions stay.

    Attributes:
        count: K.
        rule: "most" (paper: at most K) or "least" (released code: K, or a share `keep` of all regions if that is more).
        order: by "sum" of the map in them, or by "size".
        smallest: regions below this share of the mask are dropped first (variant 1 of the code: 0.001).
        connectivity: 4 or 8 neighbours.
        keep: the mask's share, which the code uses here again.
    """

    count: int = 3
    rule: str = "most"
    order: str = "sum"
    smallest: float = 0.0
    connectivity: int = 4
    keep: float = 0.2


def regions(
    surface: Floats, mask: NDArray[np.bool_], rule: RegionRule
) -> tuple[NDArray[np.int16], list[Region]]:
    """Connected regions of a mask, the strongest first.

    Args:
        surface: the map, [H, W].
        mask: what it keeps, [H, W].
        rule: which of them stay.

    Returns:
        The number of the region at each pixel (0: none), and the regions; shares are of the map's sum over all pixels.
    """
    from skimage.measure import label

    labels = label(mask, connectivity=1 if rule.connectivity == 4 else 2)
    values = np.nan_to_num(surface)
    count = int(labels.max())
    sums = np.bincount(labels.ravel(), values.ravel(), count + 1)[1:]
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-(sums if rule.order == "sum" else sizes), kind="stable")
    order = order[sizes[order] >= rule.smallest * mask.sum()]
    most = rule.count if rule.rule == "most" else max(rule.count, int(rule.keep * count))
    numbers, found = np.zeros(mask.shape, np.int16), []
    for new, old in enumerate(order[:most], start=1):
        rows, columns = np.nonzero(labels == old + 1)
        numbers[rows, columns] = new
        edges = int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
        found.append(Region(*edges, float(sizes[old] / mask.size), float(sums[old] / (values.sum() or 1.0))))
    return numbers, found


def box_around(mask: NDArray[np.bool_], margin: float, slimmest: float = 0.25) -> tuple[int, int, int, int]:
    """The bounding box of a mask with a margin, (top, left, bottom, right) inside the picture.

    Args:
        mask: [H, W], True somewhere.
        margin: added on each side, in shares of the box's longer side.
        slimmest: a box slimmer than this is widened about its middle: magnified to cover the picture, a strip of one pixel
            would else be thousands of pixels long.
    """
    rows, columns = np.nonzero(mask)
    ends = []
    high, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
    longer = max(high, wide)
    for at, side, limit in ((rows, high, mask.shape[0]), (columns, wide, mask.shape[1])):
        low, past = float(at.min()), float(at.max() + 1)
        more = margin * longer + max(0.0, slimmest * longer - side) / 2
        ends.append((max(0, int(np.floor(low - more))), min(limit, int(np.ceil(past + more)))))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def sharpest_window(
    surface: Floats, side: tuple[float, float], ratios: tuple[float, ...] = (1, 1.2, 1.4, 1.6, 1.8, 2)
) -> tuple[int, int, int, int]:
    """ViCrop's box: of windows of several sizes, the one whose mean stands out most from that of the windows beside it.

    Args:
        surface: the map, [H, W].
        side: height and width of the smallest window in pixels.
        ratios: sizes in shares of it.

    Returns:
        (top, left, bottom, right).
    """
    values = np.nan_to_num(surface)
    table = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best, found = -np.inf, (0, 0, *values.shape)
    for ratio in ratios:
        high, wide = (
            min(limit, max(1, round(ratio * s))) for limit, s in zip(values.shape, side, strict=True)
        )
        sums = table[high:, wide:] - table[:-high, wide:] - table[high:, :-wide] + table[:-high, :-wide]
        row, column = np.unravel_index(int(sums.argmax()), sums.shape)
        steps = max(1, high // 2), max(1, wide // 2)
        near = [(row + a * steps[0], column + b * steps[1]) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        beside = [sums[r, c] for r, c in near if 0 <= r < sums.shape[0] and 0 <= c < sums.shape[1]]
        drop = (sums[row, column] - np.mean(beside)) / (high * wide) if beside else 0.0
        if drop > best:
            best, found = drop, (int(row), int(column), int(row + high), int(column + wide))
    top, left, bottom, right = found
    return top, left, bottom, right
