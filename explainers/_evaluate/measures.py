"""How faithful the scores of one text are: what is measured of one method's scores, without any reference."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.explainers._evaluate.perturb import Perturbed, keep_probabilities
from probe.explainers._faithfulness import step_counts

Floats = NDArray[np.float64]
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the tokens, in comprehensiveness and sufficiency
SOFT_AMOUNT = 0.5  # kept on average in the soft variants


@dataclass(frozen=True)
class Measure:
    """A measure's name, which way is better ("higher", "lower"), and what it is."""

    name: str
    better: str
    meaning: str


MEASURES = (
    Measure("deletion", "lower", "area under p while tokens go, most relevant first (MoRF)"),
    Measure(
        "insertion",
        "higher",
        "area under p while tokens come back, most relevant first; equal to the area of deletion, least relevant "
        "first (LeRF)",
    ),
    Measure("gap", "higher", "insertion − deletion = LeRF − MoRF; 0 by chance"),
    Measure("comprehensiveness", "higher", "AOPC: mean fall of p without the top 10 … 50 % of the tokens"),
    Measure("sufficiency", "lower", "AOPC: mean fall of p with nothing but the top 10 … 50 % of the tokens"),
    Measure("soft comprehensiveness", "higher", "fall of p, the relevant softly removed, half kept"),
    Measure("soft sufficiency", "lower", "fall of p, the irrelevant softly removed, half kept"),
    Measure(
        "leave-one-out", "higher", "Kendall τ with the fall of the score without one token; 1 for occlusion"
    ),
)
PER_BASELINE = ("deletion", "insertion", "gap")


def curves(text: Perturbed, scores: Floats) -> dict[str, float]:
    """Deletion, insertion and their gap.

    References:
        Samek et al., 2017 (arXiv 1509.06321): MoRF; Petsiuk et al., RISE, 2018 (arXiv 1806.07421).
    """
    order, counts = np.argsort(-scores, kind="stable"), step_counts(len(scores))
    rank = np.argsort(order)
    kept = np.concatenate([rank[None] >= counts[:, None], rank[None] < counts[:, None]])
    falling, rising = np.split(text.probability(kept), 2)
    x = counts / len(scores)
    deletion, insertion = float(np.trapezoid(falling, x)), float(np.trapezoid(rising, x))
    return {"deletion": deletion, "insertion": insertion, "gap": insertion - deletion}


def aopc(text: Perturbed, scores: Floats) -> dict[str, float]:
    """Comprehensiveness and sufficiency, both over the same fractions of the length (at least one token).

    References:
        DeYoung et al., ERASER, ACL 2020 (arXiv 1911.03429), §4.2.
    """
    rank = np.argsort(np.argsort(-scores, kind="stable"))
    counts = np.array([max(1, round(fraction * len(scores))) for fraction in FRACTIONS])
    top = rank[None] < counts[:, None]
    values = text.probability(np.concatenate([np.ones((1, len(scores)), dtype=bool), ~top, top]))
    without, alone = np.split(values[0] - values[1:], 2)
    return {"comprehensiveness": float(without.mean()), "sufficiency": float(alone.mean())}


def soft(text: Perturbed, scores: Floats, samples: int, seed: int) -> dict[str, float]:
    """The soft variants: element-wise replacement with half of the input kept, whatever the scores."""
    whole = float(text.probability(np.ones((1, len(scores)), dtype=bool))[0])
    found = {}
    for name, side in (("soft sufficiency", 1.0), ("soft comprehensiveness", -1.0)):
        keep = keep_probabilities(side * scores, SOFT_AMOUNT)
        found[name] = whole - text.soft_probability(keep, samples, seed)
    return found


def leave_one_out(text: Perturbed) -> Floats:
    """Fall of the score [n] without each token."""
    kept = np.concatenate([np.ones((1, text.size), dtype=bool), ~np.eye(text.size, dtype=bool)])
    values = text.score(kept)
    return np.asarray(values[0] - values[1:])


def rank_correlation(one: Floats, other: Floats, kind: str = "kendall") -> float:
    """Kendall's τ-b or Spearman's ρ; NaN where one of them is constant or has fewer than two values."""
    from scipy import stats

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    test: Callable[[Floats, Floats], tuple[float, float]]
    test = stats.kendalltau if kind == "kendall" else stats.spearmanr
    return float(test(one, other)[0])
