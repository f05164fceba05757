"""What the faithfulness curves of an explanation say, in one sentence."""

from typing import Any

import numpy as np
import xarray as xr

from probe.explainers._verbalize.language import Language

LEAST_WORSE = 0.8  # share of random orders that a faithful one must leave behind
_STAND_INS = ("mask token", "padding token", "mean embedding", "zero vector", "unknown token")


def verdict(curves: xr.Dataset, language: Language) -> str:
    """The sentence for a result with the curves and attributes of `faithfulness_curves`."""
    attrs = curves.attrs
    given = str(attrs.get("stand_in", "baseline"))
    stand_in = language.say(given if given in _STAND_INS else "baseline")
    what = language.say(
        "of_answer" if "answer_tokens" in attrs else "of_contrast" if "contrast" in attrs else "of_target"
    )
    if attrs["faithfulness"] == "undecided":
        reach = language.number(float(attrs["probability_range"]), 3)
        return language.say("undecided", stand_in=stand_in, reach=reach, what=what)
    size = int(attrs["parts"])
    counts = np.rint(curves["fraction"].values * size).astype(int)
    deletion, random = curves["deletion"].values, curves["deletion_random"].values
    early = (counts > 0) & (counts <= (size + 1) // 2)
    step = int(np.argmax(np.where(early, random - deletion, -np.inf)))
    return language.say(
        "moved_1" if counts[step] == 1 else "moved",
        count=int(counts[step]),
        size=size,
        what=what,
        stand_in=stand_in,
        start=language.probability(float(deletion[0])),
        own=language.probability(float(deletion[step])),
        chance=language.probability(float(random[step])),
        ending=_ending(attrs, language),
    )


def _ending(attrs: dict[str, Any], language: Language) -> str:
    random, better, worse = (int(attrs[name]) for name in ("n_random", "random_better", "random_worse"))
    sigma = f"{language.number(float(attrs['faithfulness_sigma']), 1)}σ"
    if attrs["faithfulness"] == "faithful":
        claim = "faithful" if better > 1 else f"faithful_{better}"
        return language.say(claim, random=random, better=better, sigma=sigma)
    if not better and worse >= LEAST_WORSE * random:
        gain = float(attrs["insertion_auc"]) - float(attrs["deletion_auc"])
        reason = language.say("hardly", gain=language.number(gain, 3))
    elif better:
        reason = language.say("better_1" if better == 1 else "better", random=random, better=better)
    else:
        reason = language.say("as_well", random=random, equal=random - worse)
    return language.say("not_shown", reason=reason, sigma=sigma)
