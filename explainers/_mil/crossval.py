"""Splits by class and cross-validation: each bag is predicted by a model that saw it neither in training nor in validation."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe.bags import Bags
from probe.errors import InputError
from probe.explainers._mil.metrics import Array, accuracy, auc, evaluate, interval
from probe.explainers._mil.training import Fitted, Plan, Progress, fit, predict


@dataclass(frozen=True, eq=False)
class Tested:
    """Predictions of bags that the models had not seen.

    Attributes:
        names: of the bags.
        labels: [B].
        probabilities: [B, C].
        fold: [B], which model predicted a bag.
        measures: accuracy, macro_f1, auc, log_loss over all these bags.
        intervals: 95 % bootstrap intervals of accuracy and auc over the bags.
        best: the best epoch of each fold.
    """

    names: list[str]
    labels: Array
    probabilities: Array
    fold: Array
    measures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    best: list[int]


def split(labels: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Places of two parts with the same mixture of classes, the second with about `share` of the bags.

    Raises:
        InputError: a class has too few bags to be in both.
    """
    rng = np.random.default_rng(seed)
    first, second = [], []
    for c in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == c))
        count = max(1, round(share * len(places)))
        if count >= len(places):
            raise InputError(f"class {c} has {len(places)} bags, too few to put {share:.0%} of them aside")
        second.append(places[:count])
        first.append(places[count:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def folds_of(labels: Array, folds: int, seed: int) -> Array:
    """The fold of each bag, 0 … folds − 1, each with the same mixture of classes.

    Raises:
        InputError: fewer than 2 folds, or more than the rarest class has bags.
    """
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    if not 2 <= folds <= rarest:
        raise InputError(
            f"folds: got {folds}, expected 2 to {rarest}, the number of bags of the rarest class"
        )
    rng, fold, start = np.random.default_rng(seed), np.empty(len(labels), dtype=np.int64), 0
    for c in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == c))
        fold[places] = (np.arange(len(places)) + start) % folds
        start += len(places)
    return fold


def cross_validate(
    bags: Bags,
    plan: Plan,
    *,
    folds: int = 10,
    validation: float = 0.15,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Tested:
    """Train a model for each fold on the others, and let it predict the fold.

    Args:
        bags: with labels.
        plan: how to train; its seed makes the folds, too, so that methods with one seed meet the same folds.
        folds: how many.
        validation: share of each fold's training bags that is put aside to choose the epoch.
        folder: where each model is kept (`fold-1`, …); None keeps none.
        resume: go on where the folder ends.
        progress: called with (folds done, folds, a word).

    Raises:
        InputError: labels or folds that cannot be, or bags that do not fit one another.
    """
    labels = bags.known_labels()
    fold = folds_of(labels, folds, plan.seed)
    probabilities, best = np.empty((0, 0)), []
    for number in range(folds):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        own = replace(plan, seed=plan.seed * 1000 + number)
        train, valid = split(labels[inside], validation, own.seed)
        place = None if folder is None else Path(folder) / f"fold-{number + 1}"
        fitted = fit(bags.subset(inside[train]), bags.subset(inside[valid]), own, folder=place, resume=resume)
        _, found = predict(fitted.model, bags.subset(outside))
        if not probabilities.size:
            probabilities = np.empty((len(bags), found.shape[1]))
        probabilities[outside] = found
        best.append(fitted.best)
        if progress is not None:
            progress(number + 1, folds, f"fold {number + 1}, best epoch {fitted.best}")
    return _tested(bags, labels, probabilities, fold, best)


def hold_out(
    bags: Bags,
    plan: Plan,
    *,
    validation: float = 0.2,
    test: float = 0.2,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Fitted, Tested]:
    """Train once; choose the epoch on the validation bags, and predict the test bags once, at the end.

    Args:
        bags: with labels.
        plan: how to train; its seed makes the split.
        validation: share of all bags for choosing the epoch.
        test: share of all bags for the figures.
        folder: where the model is kept.
        resume: go on where the folder ends.
        progress: called with (epochs done, epochs, a word).

    Raises:
        InputError: as `cross_validate`.
    """
    labels = bags.known_labels()
    inside, outside = split(labels, test, plan.seed)
    train, valid = split(labels[inside], validation / (1 - test), plan.seed)
    fitted = fit(
        bags.subset(inside[train]),
        bags.subset(inside[valid]),
        plan,
        folder=folder,
        resume=resume,
        progress=progress,
    )
    _, found = predict(fitted.model, bags.subset(outside))
    fold = np.zeros(len(outside), dtype=np.int64)
    return fitted, _tested(bags.subset(outside), labels[outside], found, fold, [fitted.best])


def _tested(bags: Bags, labels: Array, probabilities: Array, fold: Array, best: list[int]) -> Tested:
    found = {
        "accuracy": interval(labels, probabilities, accuracy),
        "auc": interval(labels, probabilities, auc),
    }
    return Tested(bags.names, labels, probabilities, fold, evaluate(labels, probabilities), found, best)
