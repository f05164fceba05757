"""Which heads to calibrate: each candidate is tried alone, then heads are put together, always on the calibration items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from probe.explainers._act_heads.journal import Head, Heads, Outcome
from probe.explainers._act_heads.trials import Trials

FEWEST_ITEMS = 8
ETA = 3  # halving: a third of the heads goes on to three times the items
FEWEST_HEADS = 8


@dataclass(frozen=True)
class Plan:
    """How to search: the parameters of `ex.act_heads` of these names."""

    search: str
    select: str
    metric: str
    least_z: float


@dataclass
class Found:
    """What a search found.

    Attributes:
        gain: of each candidate alone over the plain model, on the items it was tried on.
        z: this gain in standard errors of the paired difference.
        items: how many items it was tried on.
        chosen: the heads to calibrate together.
        gain_together: of `chosen`, on all calibration items.
    """

    gain: dict[Head, float] = field(default_factory=dict)
    z: dict[Head, float] = field(default_factory=dict)
    items: dict[Head, int] = field(default_factory=dict)
    chosen: Heads = ()
    gain_together: float = 0.0


def slices(items: int, search: str) -> list[tuple[int, int]]:
    """The calibration items in pieces that are tried one after the other; with "full" one piece.

    Args:
        items: how many there are.
        search: "full" or "halving".
    """
    ends = [items]
    while search == "halving" and ends[0] // ETA >= FEWEST_ITEMS and len(ends) < 3:
        ends.insert(0, ends[0] // ETA)
    return list(pairwise([0, *ends]))


def find(trials: Trials, candidates: Sequence[Head], parts: Sequence[str], plan: Plan) -> Found:
    """Search (see `ex.act_heads`).

    Args:
        trials: runs trials.
        candidates: heads to try.
        parts: names of the pieces of the calibration items, in their order.
        plan: how to search.
    """
    found, alive = Found(), list(candidates)
    for number in range(1, len(parts) + 1):
        seen = parts[:number]
        plain, *outcomes = trials.run([(), *((head,) for head in alive)], seen)
        for head, outcome in zip(alive, outcomes, strict=True):
            difference = differences(plain, outcome, plan.metric)
            found.gain[head], found.z[head] = float(difference.mean()), z_of(difference)
            found.items[head] = len(difference)
        if number < len(parts):
            alive = ranked(alive, found)[: max(FEWEST_HEADS, -(-len(alive) // ETA))]
    good = [head for head in ranked(alive, found) if found.gain[head] > 0 and found.z[head] >= plan.least_z]
    plain = trials.run([()], parts)[0]

    def together(heads: Heads) -> float:
        return float(differences(plain, trials.run([heads], parts)[0], plan.metric).mean()) if heads else 0.0

    found.chosen = tuple(sorted(good)) if plan.select == "beats" else _greedy(good, together, trials)
    found.gain_together = together(found.chosen)
    return found


def _greedy(good: Sequence[Head], together: Callable[[Heads], float], trials: Trials) -> Heads:
    """Take head after head, the best first, and keep each that raises the gain of those kept together."""
    kept: Heads = ()
    best = 0.0
    trials.expected = trials.cost.trials + len(good) - bool(good)
    for head in good:
        union = tuple(sorted((*kept, head)))
        gain = together(union)
        if gain > best:
            kept, best = union, gain
    return kept


def ranked(heads: Sequence[Head], found: Found) -> list[Head]:
    """Heads by falling gain; equal ones in their order in the model."""
    return sorted(heads, key=lambda head: (-found.gain[head], head))


def differences(plain: Outcome, steered: Outcome, metric: str) -> NDArray[np.float64]:
    """What each item gained: loss that fell [nat], or 1 for an answer put right and −1 for one put wrong."""
    if metric == "loss":
        return np.asarray(plain.loss - steered.loss)
    return np.asarray(steered.correct.astype(np.float64) - plain.correct)


def z_of(difference: NDArray[np.float64]) -> float:
    """The mean over its standard error; 0 where nothing differs."""
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    return float(difference.mean() / (spread / np.sqrt(len(difference)))) if spread > 0 else 0.0
