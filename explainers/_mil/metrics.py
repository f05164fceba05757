"""How well bags are classified: accuracy, macro-F1, AUC, log loss, with bootstrap intervals over the bags."""

from collections.abc import Callable
from typing import Any

import numpy as np

from probe.errors import InputError

Array = np.ndarray[Any, Any]
MEASURES = ("accuracy", "macro_f1", "auc", "log_loss")


def evaluate(labels: Array, probabilities: Array) -> dict[str, float]:
    """The measures of one set of predictions.

    `macro_f1` is the unweighted mean of the classes' F1 (micro-F1, which some released code reports as F1, equals the
    accuracy); `auc` is the area under the ROC curve, of several classes the mean of one against the rest.

    Args:
        labels: [B] classes 0 … C − 1.
        probabilities: [B, C], rows sum to one.

    Returns:
        A number for each of `MEASURES`; `auc` is NaN where a class has no bag.

    Raises:
        InputError: shapes that do not fit, or no bag.
    """
    from sklearn.metrics import f1_score, log_loss

    labels, probabilities = _checked(labels, probabilities)
    classes = np.arange(probabilities.shape[1])
    guess = probabilities.argmax(1)
    return {
        "accuracy": float((guess == labels).mean()),
        "macro_f1": float(f1_score(labels, guess, labels=classes, average="macro", zero_division=0.0)),
        "auc": auc(labels, probabilities),
        "log_loss": float(log_loss(labels, probabilities, labels=classes)),
    }


def auc(labels: Array, probabilities: Array) -> float:
    """Area under the ROC curve, mean over classes against the rest if there are more than two; NaN where a class is absent."""
    from scipy.stats import rankdata

    areas = []
    for c in range(1 if probabilities.shape[1] == 2 else 0, probabilities.shape[1]):
        positive = labels == c
        up, down = int(positive.sum()), int((~positive).sum())
        if not up or not down:
            return float("nan")
        ranks = rankdata(probabilities[:, c])
        areas.append((ranks[positive].sum() - up * (up + 1) / 2) / (up * down))
    return float(np.mean(areas))


def accuracy(labels: Array, probabilities: Array) -> float:
    """Share of the bags whose most probable class is theirs."""
    return float((probabilities.argmax(1) == labels).mean())


def interval(
    labels: Array,
    probabilities: Array,
    measure: Callable[[Array, Array], float] = accuracy,
    *,
    against: Array | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap over the bags, each class resampled on its own (Efron and Tibshirani 1993, ch. 13).

    It says how far the figure depends on which bags were measured. It does not contain the luck of the training's seed.

    Args:
        labels: [B].
        probabilities: [B, C], of bags that were not trained on.
        measure: accuracy, or auc.
        against: other predictions of the same bags: the interval is that of the paired difference, first minus these.
        resamples: how often.
        level: of confidence.
        seed: of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        InputError: shapes that do not fit.
    """
    labels, probabilities = _checked(labels, probabilities)
    if against is not None:
        _, against = _checked(labels, against)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    values = np.empty(resamples)
    for i in range(resamples):
        drawn = np.concatenate([rng.choice(group, len(group)) for group in groups])
        values[i] = measure(labels[drawn], probabilities[drawn])
        if against is not None:
            values[i] -= measure(labels[drawn], against[drawn])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[:1] != labels.shape or not len(labels):
        raise InputError(
            f"got labels {list(labels.shape)} and probabilities {list(probabilities.shape)}, expected [B] and [B, C]"
        )
    return labels, probabilities
