"""Does it help on items that the search never saw, by more than as many heads at random?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.explainers._act_heads.journal import Head, Heads, Outcome
from probe.explainers._act_heads.search import differences
from probe.explainers._act_heads.trials import Trials

LEVEL = 0.05
RESAMPLES = 10_000


def evidence(
    trials: Trials,
    chosen: Heads,
    candidates: Sequence[Head],
    part: str,
    metric: str,
    n_random: int,
    seed: int,
) -> dict[str, Any]:
    """Held-out figures of the chosen heads and of random ones.

    Args:
        trials: runs trials.
        chosen: the heads; none gives figures of the plain model.
        candidates: what random heads are drawn from.
        part: the held-out items.
        metric: "accuracy" or "loss": which of both decides the verdict.
        n_random: sets of as many random heads.
        seed: of that draw and of the bootstrap.

    Returns:
        items; accuracy and loss, each {before, after, gain, low, high}; p (accuracy, McNemar), put_right, put_wrong;
        random_gain (list, of the metric), random_as_good; verdict: "gain", "harm", "not shown" or "no heads".
    """
    plain, steered = trials.run([(), chosen], [part])
    found: dict[str, Any] = {"items": len(plain.loss), "metric": metric}
    found |= {"accuracy": accuracy_change(plain, steered), "loss": loss_change(plain, steered, seed)}
    right = int((steered.correct & ~plain.correct).sum())
    wrong = int((plain.correct & ~steered.correct).sum())
    found |= {"put_right": right, "put_wrong": wrong, "p": mcnemar(right, wrong)}
    sets = random_sets(candidates, chosen, n_random, seed)
    gains = [
        float(differences(plain, one, metric).mean()) for one in (trials.run(sets, [part]) if sets else [])
    ]
    own = found[metric]["gain"]
    found |= {"random_gain": gains, "random_as_good": sum(gain >= own for gain in gains)}
    found["verdict"] = _verdict(found, bool(chosen))
    return found


def _verdict(found: dict[str, Any], any_heads: bool) -> str:
    change = found[found["metric"]]
    if not any_heads:
        return "no heads"
    if change["high"] < 0:
        return "harm"
    chance = (1 + found["random_as_good"]) / (1 + len(found["random_gain"]))
    return "gain" if change["low"] > 0 and chance <= LEVEL else "not shown"


def random_sets(candidates: Sequence[Head], chosen: Heads, n_random: int, seed: int) -> list[Heads]:
    """As many heads as are chosen, at random from the candidates; the chosen set itself is not drawn."""
    if not chosen or len(chosen) == len(candidates):
        return []
    draw, found = np.random.default_rng([seed, 1]), list[Heads]()
    while len(found) < n_random:
        places = draw.choice(len(candidates), size=len(chosen), replace=False)
        heads = tuple(sorted(candidates[place] for place in places))
        if heads != tuple(sorted(chosen)):
            found.append(heads)
    return found


def accuracy_change(plain: Outcome, steered: Outcome) -> dict[str, float]:
    """Accuracy before and after, and their difference with its 95 % interval for paired items.

    The interval is that of Agresti and Min, Statistics in Medicine 24 (2005) 729: Wald's, after half an item was added to
    each of the four cells; unlike the bootstrap it does not shrink to nothing where no answer changed.
    """
    right = int((steered.correct & ~plain.correct).sum()) + 0.5
    wrong = int((plain.correct & ~steered.correct).sum()) + 0.5
    n = len(plain.correct) + 2
    middle = (right - wrong) / n
    half = _quantile() * float(np.sqrt(right + wrong - (right - wrong) ** 2 / n)) / n
    before, after = float(plain.correct.mean()), float(steered.correct.mean())
    return {
        "before": before,
        "after": after,
        "gain": after - before,
        "low": middle - half,
        "high": middle + half,
    }


def loss_change(plain: Outcome, steered: Outcome, seed: int) -> dict[str, float]:
    """Loss before and after [nat], and how far it fell, with a 95 % interval: bootstrap over items (BCa, Efron 1987)."""
    from scipy.stats import bootstrap

    fell = differences(plain, steered, "loss")
    low = high = float(fell.mean())
    if np.ptp(fell) > 0:
        drawn = bootstrap(
            (fell,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng([seed, 2])
        )
        low, high = (float(x) for x in drawn.confidence_interval)
    return {
        "before": float(plain.loss.mean()),
        "after": float(steered.loss.mean()),
        "gain": float(fell.mean()),
        "low": low,
        "high": high,
    }


def mcnemar(right: int, wrong: int) -> float:
    """Two-sided p of McNemar's exact test: are answers put right and put wrong equally often?

    Args:
        right: answers put right.
        wrong: answers put wrong.
    """
    from scipy.stats import binomtest

    return float(binomtest(right, right + wrong).pvalue) if right + wrong else 1.0


def _quantile() -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - LEVEL / 2))
