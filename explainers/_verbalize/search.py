"""Which runs of neighbouring units stand out: three searches over one row of scores.

"segments" is the default. Over spans of every length it maximises coverage − share of units, exactly and in
linear time, and so needs neither window nor threshold. "windows" is the search of Saliency Map Verbalization
(SMV) with its faults mended, "published" the search as its study texts were made. What the two differ in: the
last place is tried; texts shorter than a window give results; gaps inside a hit are not counted; a window's
weak members are not drawn in; equal coverages do not overwrite each other; zeros are not dropped; a map
without support has no hits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Accepted = Callable[[Floats], NDArray[np.bool_]]
WINDOW = 5
TOP = 5  # hits of each search that are pooled
QUARTILE = 0.75
PUBLISHED_SHARE = 0.4  # threshold "mean": mean of the top 40 % of the normalised scores


@dataclass(frozen=True)
class Run:
    """Neighbouring units, both ends included; coverage is max(0, Σ of their scores) over Σ of all positive."""

    first: int
    last: int
    coverage: float


def coverage_in(scores: Floats) -> Callable[[int, int], float]:
    """Of a run, both ends included: max(0, Σ its scores) / Σ positive scores; 0 where no score is positive."""
    support = float(scores[scores > 0].sum())

    def coverage(first: int, last: int) -> float:
        return max(0.0, float(scores[first : last + 1].sum())) / support if support > 0 else 0.0

    return coverage


def find(scores: Floats, search: str) -> list[Run]:
    """The runs that speak for the target, by falling coverage; of −scores: those that speak against it.

    Args:
        scores: [n], finite.
        search: "segments", "windows" or "published".
    """
    return {"segments": standing_runs, "windows": windows, "published": published}[search](scores)


def standing_runs(scores: Floats) -> list[Run]:
    """Runs of units whose scores stand above an even share of the support, by falling coverage.

    The maximal segments of score − τ, τ = Σ positive scores / n: what is left when the segment with the
    largest sum is taken out again and again. Nothing is found where no score is positive.

    References:
        Ruzzo, Tompa, A Linear Time Algorithm for Finding All Maximal Scoring Subsequences, ISMB 1999.
    """
    support = float(scores[scores > 0].sum())
    if support <= 0:
        return []
    excess = scores - support / len(scores)
    coverage = coverage_in(scores)
    runs = [
        Run(first, last, coverage(first, last))
        for first, last, gain in maximal_segments(excess)
        if gain > 1e-9 * support
    ]
    return sorted(runs, key=lambda run: -run.coverage)


def maximal_segments(values: Floats) -> list[tuple[int, int, float]]:
    """All maximal segments (first, last, sum) in reading order; each ends and starts with a positive value."""
    spans: list[tuple[int, int, float, float]] = []  # first, last, Σ before, Σ up to and with
    smaller: list[int] = []  # of each span the nearest earlier one with a smaller Σ before, or −1
    total = 0.0
    for i, value in enumerate(values.tolist()):
        before, total = total, total + value
        if value <= 0:
            continue
        first, j = i, len(spans) - 1
        while True:
            while j >= 0 and spans[j][2] >= before:
                j = smaller[j]
            if j < 0 or spans[j][3] >= total:
                break
            first, _, before, _ = spans[j]
            del spans[j:], smaller[j:]
            j = len(spans) - 1
        spans.append((first, i, before, total))
        smaller.append(j)
    return [(first, last, after - before) for first, last, before, after in spans]


def windows(scores: Floats) -> list[Run]:
    """The mended search of SMV: each member of a hit stands above an even share of the support."""
    support = float(scores[scores > 0].sum())
    if support <= 0:
        return []
    strong = scores > support / len(scores) * (1 + 1e-9)
    size = min(WINDOW, len(scores))
    pooled: set[int] = set()
    for masks in (_gapped(size), _solid(size), [(1,)]):
        hits = _hits(strong.astype(np.float64), masks, lambda part: part.min(axis=1) > 0)
        ranked = sorted(hits, key=lambda hit: -float(scores[list(hit)].sum()))
        pooled.update(i for hit in ranked[:TOP] for i in hit)
    coverage = coverage_in(scores)
    return _kept([Run(*run, coverage(*run)) for run in _merged(sorted(pooled))])


def published(scores: Floats) -> list[Run]:
    """The search as the study texts of SMV were made, with inclusive coverage; faults and all.

    Scores of exactly 0 are dropped first. Of the five study texts whose scores survive, four come out word
    for word, and with them all five coverages.
    """
    places = np.flatnonzero(scores)
    a = scores[places]
    support = float(a[a > 0].sum())
    if support <= 0:
        return []
    normal = a / np.abs(a).max()
    top = np.sort(normal)[::-1][: int(PUBLISHED_SHARE * len(normal))]
    threshold = float(top.mean()) if top.size else np.inf
    coverage, pooled = coverage_in(a), set[int]()
    for masks in (_gapped(WINDOW), [(0, 1, 1, 1, 0), (1,) * WINDOW]):
        hits = _hits(
            normal[:-1], masks, lambda part: (part.mean(axis=1) > threshold) & (part.min(axis=1) >= 0)
        )
        by_coverage = {coverage(hit[0], hit[-1]): hit for hit in hits}  # equal ones overwrite each other
        pooled.update(i for value in sorted(by_coverage)[::-1][:TOP] for i in by_coverage[value])
    pooled.update(int(i) for i in np.argsort(-np.maximum(a, 0), kind="stable")[:TOP])
    runs = [Run(*run, coverage(*run)) for run in _merged(sorted(pooled))]
    return [Run(int(places[r.first]), int(places[r.last]), r.coverage) for r in _kept(runs)]


def _gapped(size: int) -> list[tuple[int, ...]]:
    """Binary masks with 2 … size − 2 ones."""
    return [mask for mask in product((0, 1), repeat=size) if 2 <= sum(mask) <= size - 2]


def _solid(size: int) -> list[tuple[int, ...]]:
    return [(1,) * length for length in range(2, size + 1)]


def _hits(values: Floats, masks: Sequence[tuple[int, ...]], accepted: Accepted) -> list[tuple[int, ...]]:
    """Index sets of the accepted windows, each once, window by window."""
    found: dict[tuple[int, ...], int] = {}
    for mask in masks:
        if len(mask) > len(values):
            continue
        offsets = np.flatnonzero(mask)
        view = np.lib.stride_tricks.sliding_window_view(values, len(mask))[:, offsets]
        for start in np.flatnonzero(accepted(view)).tolist():
            found.setdefault(tuple(int(start + k) for k in offsets), start)
    return sorted(found, key=lambda hit: found[hit])


def _merged(indices: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for i in indices:
        if runs and i == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _kept(runs: list[Run]) -> list[Run]:
    """Runs at or above the upper quartile of their coverages, by falling coverage."""
    if not runs:
        return []
    least = float(np.quantile([run.coverage for run in runs], QUARTILE))
    return sorted((run for run in runs if run.coverage >= least), key=lambda run: -run.coverage)
