"""How alike two scanpaths are, and how like people a set of them is."""

import importlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError

Floats = NDArray[np.floating[Any]]
Path = Sequence[int]


def sequence_score(first: Path, second: Path) -> float:
    """Longest common subsequence over the longer length: Needleman-Wunsch with match 1, mismatch and gap 0; 0 to 1.

    Raises:
        InputError: an empty path.

    References:
        Yang et al., Predicting Goal-directed Human Attention, CVPR 2020 (arXiv 2005.14310), §5.
    """
    _some(first, second)
    return _align(first, second, lambda a, b: float(a == b), 0.0) / max(len(first), len(second))


def edit_distance(first: Path, second: Path, *, normalised: bool = False) -> float:
    """Levenshtein distance, each change at cost 1; normalised: over the longer length, 0 to 1.

    Raises:
        InputError: normalised, and both are empty.
    """
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    if not normalised:
        return float(row[-1])
    if not (first or second):
        raise InputError("two empty paths have no normalised distance")
    return row[-1] / max(len(first), len(second))


def scanmatch(
    first: Path, second: Path, places: Floats, *, threshold: float | None = None, gap: float = 0.0
) -> float:
    """ScanMatch over objects: alignment with a substitution score that falls with the distance, over the best possible; ≤ 1.

    The score of two objects is (threshold − distance) / threshold, 1 for the same object, below 0 beyond the
    threshold and never below −1.

    Args:
        first: numbers of objects.
        second: as first.
        places: [N, 2], of all objects. Where they are parts of height and width, as here, distances are those of a picture
            that is stretched to a square; give places in pixels for those of the picture itself.
        threshold: distance at which a substitution scores 0; left open: twice the standard deviation of the steps' sizes of
            both paths, or a quarter of the largest distance where no step moves.
        gap: score of a gap.

    Raises:
        InputError: an empty path, or a threshold that is not above 0.

    References:
        Cristino et al., ScanMatch: A novel method for comparing fixation sequences, Behavior Research Methods 42, 2010.
    """
    _some(first, second)
    steps = [math.dist(places[a], places[b]) for path in (first, second) for a, b in pairwise(path)]
    if threshold is None:
        spread = 2 * float(np.std(steps)) if steps else 0.0
        apart = np.ptp(places, 0)
        threshold = spread or float(np.hypot(*apart)) / 4 or 1.0
    if not threshold > 0:
        raise InputError(f"threshold {threshold}, expected a distance above 0")

    def worth(a: int, b: int) -> float:
        return max(-1.0, (threshold - math.dist(places[a], places[b])) / threshold)

    return _align(first, second, worth, gap) / max(len(first), len(second))


def multimatch(first: Path, second: Path, places: Floats) -> dict[str, float]:
    """MultiMatch on the objects' middles, without simplification: vector, direction, length and position, 1 at most.

    Fewer than three fixations have no such comparison: NaN (the reference code of OAT pads with a point instead).

    Args:
        first: numbers of objects.
        second: as first.
        places: [N, 2], row and column as parts: directions and lengths are those of a picture stretched to a square.

    Raises:
        InputError: the package multimatch-gaze is not installed.

    References:
        Dewhurst et al., It depends on how you look at it, Behavior Research Methods 44, 2012; Wagner, Halchenko and Hanke,
        multimatch-gaze, JOSS 4(40), 2019.
    """
    names = ("vector", "direction", "length", "position")
    if min(len(first), len(second)) < 3:
        return dict.fromkeys(names, math.nan)
    try:
        package = importlib.import_module("multimatch_gaze")  # optional, and without types
    except ImportError as error:
        raise InputError(
            "MultiMatch needs the package multimatch-gaze: pip install multimatch-gaze"
        ) from error
    kind = [("start_x", float), ("start_y", float), ("duration", float)]
    both = [
        np.array([(places[i][1], places[i][0], 1.0) for i in path], dtype=kind) for path in (first, second)
    ]
    found = package.docomparison(*both, screensize=[1.0, 1.0])
    return dict(zip(names, map(float, found), strict=False))


def behaviour(path: Path, target: int | None) -> dict[str, float]:
    """What a path is like: `hit` (it ends on the target), `length`, and the shares of first visits, refixations and revisits.

    A run is fixations of one object after each other; its first one is a search, or a revisit if the object had a run before,
    the others are refixations. The three shares sum to 1.

    Raises:
        InputError: an empty path.
    """
    _some(path, path)
    counts, seen, last = {"search": 0, "refixation": 0, "revisit": 0}, set[int](), None
    for stop in path:
        counts["refixation" if stop == last else "revisit" if stop in seen else "search"] += 1
        seen.add(stop)
        last = stop
    shares = {name: count / len(path) for name, count in counts.items()}
    hit = math.nan if target is None else float(path[-1] == target)
    return {"hit": hit, "length": float(len(path)), **shares}


def behavioural_delta(
    model: Sequence[tuple[Path, int | None]], people: Sequence[tuple[Path, int | None]]
) -> float:
    """Mean over `behaviour` of |mean of the model − mean of people| / mean of people; 0 for people themselves.

    A behaviour of which people have a mean of 0, or none (hits of free viewing), is left out.

    Args:
        model: its paths with their targets.
        people: theirs.

    Raises:
        InputError: no path on either side.

    References:
        Fang et al., ECCV 2024 (arXiv 2407.13335), §4.
    """
    if not (model and people):
        raise InputError("delta compares paths of a model with people's; one of the two is empty")
    ours, theirs = (_means(paths) for paths in (model, people))
    parts = [abs(ours[n] - theirs[n]) / theirs[n] for n in theirs if theirs[n] > 0]
    return float(np.mean(parts))


def _means(paths: Sequence[tuple[Path, int | None]]) -> dict[str, float]:
    rows = [behaviour(path, target) for path, target in paths]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def search_efficiency(paths: Sequence[Path], targets: Sequence[int], steps: int) -> Floats:
    """The part of the trials in which the target has been fixated by each step, [steps].

    Raises:
        InputError: no path, or not one target each.
    """
    if not paths or len(paths) != len(targets):
        raise InputError(f"{len(paths)} paths and {len(targets)} targets, expected one each")
    when = [list(p).index(t) if t in p else steps for p, t in zip(paths, targets, strict=True)]
    return np.asarray(np.mean(np.array(when)[:, None] <= np.arange(steps), 0))


def density(paths: Sequence[Path], boxes: Floats, shape: tuple[int, int], sigma: float) -> Floats:
    """Fixations of paths as a map: each spread evenly over its object, then blurred; sums to 1.

    Args:
        paths: numbers of objects.
        boxes: [N, 4], top, left, bottom, right as parts of height and width.
        shape: height and width of the map.
        sigma: of the blur, in pixels of the map.
    """
    from scipy.ndimage import gaussian_filter

    found = np.zeros(shape)
    for stop, count in zip(*np.unique([s for path in paths for s in path], return_counts=True), strict=True):
        top, left, bottom, right = np.round(boxes[stop] * np.tile(shape, 2)).astype(int)
        part = (
            slice(min(top, shape[0] - 1), max(bottom, top + 1)),
            slice(min(left, shape[1] - 1), max(right, left + 1)),
        )
        found[part] += count / found[part].size
    blurred = gaussian_filter(found, sigma)
    return np.asarray(blurred / blurred.sum())


def _some(*paths: Path) -> None:
    if not all(len(path) for path in paths):
        raise InputError("a path without fixations cannot be compared; expected at least one")


def _align(first: Path, second: Path, worth: Any, gap: float) -> float:
    """Score of the best global alignment (Needleman and Wunsch, 1970)."""
    row = [gap * j for j in range(len(second) + 1)]
    for i, a in enumerate(first, 1):
        before, row[0] = row[0], gap * i
        for j, b in enumerate(second, 1):
            before, row[j] = row[j], max(row[j] + gap, row[j - 1] + gap, before + worth(a, b))
    return row[-1]
