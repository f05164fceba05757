"""Faithfulness: does the answer fall and rise with the parts that an explanation names, beyond chance?"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers._verbalize.languages.en import LANGUAGE as ENGLISH
from probe.explainers._verbalize.verdict import LEAST_WORSE, verdict

__all__ = ["faithfulness_curves"]

Floats = NDArray[np.float64]
Probability = Callable[[NDArray[np.bool_]], Floats]
LEVEL = 0.05
TIE = 1e-6  # differences of areas below this are rounding
SMALLEST_RANGE = 0.05
SMALLEST_GAIN = 0.02  # an order that wins by less says nothing, however surely it wins


def faithfulness_curves(
    probability: Probability, scores: Floats, *, n_random: int = 20, seed: int = 0, stand_in: str = "baseline"
) -> xr.Dataset:
    """Deletion and insertion curves of an explanation, against random orders.

    Parts are replaced by a stand-in in order of falling score (deletion, "most relevant first"), and put
    back in the same order into an input where all are replaced (insertion). A faithful explanation has a
    small area under the first curve and a large one under the second: D = insertion AUC − deletion AUC. The
    same is done for random orders. The explanation counts as faithful if at most 5 % of all orders, its own
    included, do better, at least 80 % of the random ones do worse, and D is at least 0.02 (orders that do
    as well count for neither: where one part of N decides, one order in N puts it first by chance). Where
    the probability moves by less than 0.05 over all that was tried, nothing can be told. Replaced inputs
    are not natural inputs, which is why only the comparison with chance is read.

    Random orders come in pairs, an order and its reverse (an odd number is raised by one): the insertion
    curve of an order is the deletion curve of its reverse read backwards, so that each evaluation serves
    twice; a set of parts that several orders share is run once. Steps are single parts at both ends and
    grow towards the middle (1, 2, 3, 5, 8, … parts), which keeps the cost logarithmic.

    Args:
        probability: from flags [B, n], True where a part is replaced, to the target's probability [B].
        scores: [n], one per part.
        n_random: random orders, at least 20 (with fewer the 5 % cannot be reached).
        seed: of these orders.
        stand_in: what parts are replaced by, for the verdict's wording.

    Returns:
        Dataset over `step`: fraction (of parts replaced, or put back), deletion, insertion, and of the random
        orders the mean and standard deviation (`…_random`, `…_random_sd`). Attributes: deletion_auc,
        insertion_auc, deletion_auc_random, insertion_auc_random, faithfulness ("faithful", "not shown",
        "undecided"), faithfulness_sigma (D over the standard deviation of the random D), random_better and
        random_worse (random orders with a larger and a smaller D), probability_range, n_random, seed,
        faithfulness_verdict (one sentence).

    Raises:
        InputError: no scores, not finite ones, or fewer than 20 random orders.

    References:
        Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned, 2017 (arXiv
        1509.06321); Petsiuk et al., RISE, BMVC 2018 (arXiv 1806.07421).
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise InputError(
            f"expected finite scores of at least one part, got {scores.size} of shape {scores.shape}"
        )
    if n_random < 20:
        raise InputError(f"n_random = {n_random}, expected at least 20: fewer cannot show the 5 % level")
    order = np.argsort(-scores, kind="stable")
    draw = np.random.default_rng(seed)
    orders = [order, order[::-1]]
    for _ in range(-(-n_random // 2)):
        shuffled = draw.permutation(len(scores))
        orders += [shuffled, shuffled[::-1]]
    counts = step_counts(len(scores))
    deletion = _deletion(probability, np.stack(orders), counts)
    partner = np.arange(len(orders)) ^ 1
    insertion = deletion[partner, ::-1]
    curves = {"deletion": deletion, "insertion": insertion}
    found = xr.Dataset({"fraction": ("step", counts / len(scores))})
    for name, values in curves.items():
        found[name] = ("step", values[0])
        found[f"{name}_random"] = ("step", values[2:].mean(axis=0))
        found[f"{name}_random_sd"] = ("step", values[2:].std(axis=0))
    areas = {
        name: np.asarray(np.trapezoid(values, counts / len(scores), axis=1))
        for name, values in curves.items()
    }
    found.attrs = {f"{name}_auc": float(area[0]) for name, area in areas.items()}
    found.attrs |= {f"{name}_auc_random": float(area[2:].mean()) for name, area in areas.items()}
    found.attrs |= _judge(areas["insertion"] - areas["deletion"], float(np.ptp(deletion)))
    found.attrs |= {"n_random": len(orders) - 2, "seed": seed, "parts": len(scores), "stand_in": stand_in}
    found.attrs["faithfulness_verdict"] = verdict(found, ENGLISH)
    return found


def step_counts(size: int) -> NDArray[np.int64]:
    """Numbers of replaced parts where curves are taken: all up to 12, else Fibonacci steps from both ends."""
    if size <= 12:
        return np.arange(size + 1)
    near = [0, 1]
    step = 2
    while step <= size // 2:
        near.append(step)
        step += near[-2]
    return np.unique([*near, *(size - k for k in near)])


def _deletion(probability: Probability, orders: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    """Deletion curves [orders, counts]; both ends are the same for every order and run once."""
    ranks = np.argsort(orders, axis=1)
    inner = counts[1:-1]
    replaced = ranks[:, None, :] < inner[None, :, None]
    ends = np.zeros((2, orders.shape[1]), dtype=bool)
    ends[1] = True
    values = _each_once(probability, np.concatenate([ends, replaced.reshape(-1, orders.shape[1])]))
    curves = np.empty((len(orders), len(counts)))
    curves[:, 0], curves[:, -1] = values[0], values[1]
    curves[:, 1:-1] = values[2:].reshape(len(orders), len(inner))
    return curves


def _each_once(probability: Probability, replaced: NDArray[np.bool_]) -> Floats:
    """The probability of each row, every different row run once: of few parts there are few subsets."""
    packed = np.packbits(replaced, axis=1)
    _, first, place = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    as_they_come = np.argsort(first)
    return probability(replaced[first[as_they_come]])[np.argsort(as_they_come)[place.reshape(-1)]]


def _judge(difference: Floats, reach: float) -> dict[str, str | float | int]:
    """The verdict from D of all orders (own, own reversed, random …) and the range of all probabilities."""
    own, chance = difference[0], difference[2:]
    better, worse = int((chance > own + TIE).sum()), int((chance < own - TIE).sum())
    spread = float(chance.std())
    beats = (1 + better) / (1 + len(chance)) <= LEVEL and worse >= LEAST_WORSE * len(chance)
    beats = beats and own >= SMALLEST_GAIN
    return {
        "faithfulness": "undecided" if reach < SMALLEST_RANGE else "faithful" if beats else "not shown",
        "faithfulness_sigma": float(own / spread) if spread > TIE else 0.0,
        "random_better": better,
        "random_worse": worse,
        "probability_range": reach,
    }
