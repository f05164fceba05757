"""Numbers on how concentrated attention over the instances of a bag is (arXiv 2311.07125, §3.2 and §4.4)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.explainers.reading import Floats

Array = NDArray[Any]


def cumulative(attention: Floats, longest: int) -> Floats:
    """C_k: the sum of the k largest weights, k = 1 … longest; 1 from k = N on.

    Args:
        attention: weights of one bag, [N], sum one.
        longest: length of the curve.
    """
    curve = np.ones(longest)
    found = np.cumsum(np.sort(attention)[::-1])[:longest]
    curve[: len(found)] = np.minimum(found, 1.0)
    if len(attention) <= longest:
        curve[len(attention) - 1] = 1.0
    return curve


def entropy(attention: Floats) -> float:
    """H(a) in nats; zero weights count nothing."""
    positive = attention[attention > 0]
    return float(-(positive * np.log(positive)).sum())


def normalised_entropy(attention: Floats) -> float:
    """H(a) / log N: 1 for even attention, 0 for a single instance; NaN for a bag of one instance, which has no choice."""
    return entropy(attention) / np.log(len(attention)) if len(attention) > 1 else float("nan")


def effective_instances(attention: Floats) -> float:
    """Exp of the entropy: so many equally attended instances would be as concentrated."""
    return float(np.exp(entropy(attention)))


def activated(attention: Floats) -> Array:
    """Which instances get more than an even share, a_n > 1/N; [N] bool. Rounding of an even share does not activate."""
    return np.asarray(attention * len(attention) > 1 + 1e-6)


def branch_cosines(branches: Floats) -> Floats:
    """Cosine of the attention of every two branches, [M, M]: 1 for equal branches, 0 where they share no instance.

    Args:
        branches: [M, N].
    """
    unit = branches / np.maximum(np.linalg.norm(branches, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(unit @ unit.T)


def overlap(cosines: Floats) -> float:
    """Mean cosine of two different branches; NaN for a single one."""
    count = len(cosines)
    if count < 2:
        return float("nan")
    return float((cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def recall(chosen: Array, annotation: Array, patterns: Array) -> Floats:
    """Share of each pattern's instances that are chosen; NaN where the bag has none of it.

    Args:
        chosen: [N] bool.
        annotation: [N], number of the pattern, NaN or 0 for none.
        patterns: their numbers.
    """
    return np.array(
        [chosen[annotation == p].mean() if (annotation == p).any() else np.nan for p in patterns],
        dtype=np.float64,
    )


def percentiles(attention: Floats) -> Floats:
    """Rank of each instance within its bag, 0 to 100 (ties share the middle): hides how strong attention is, on purpose."""
    from scipy.stats import rankdata

    return np.asarray((rankdata(attention) - 0.5) / len(attention) * 100)


def v_measure(labels: Array, clusters: Array) -> float:
    """Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007) of clusters against labels."""
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(labels, clusters))
