"""How far several methods agree about one text, in numbers and a sentence a pair."""

from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.languages import language_of
from probe.explainers._verbalize.words import words_of

TOP = 5


def agreement(results: list[xr.Dataset], language: Language | None = None) -> list[dict[str, Any]]:
    """For each pair of token strips of one text: Kendall's τ of their word scores, shared strongest words.

    Args:
        results: strips of the same text and model.
        language: of the sentences; English if left out.

    Returns:
        Dicts with first, second (methods), tau (NaN where one is constant), shared (of the `TOP` strongest words), top
        (how many words that are at most), more_faithful (the method with the larger insertion AUC − deletion AUC, or
        "" where it was not measured), sentence.
    """
    from scipy.stats import kendalltau

    tongue, found = language or language_of("en"), []
    for one, other in combinations(results, 2):
        first, second = words_of(one), words_of(other)
        constant = np.ptp(first.scores) == 0 or np.ptp(second.scores) == 0
        tau = float("nan") if constant else float(kendalltau(first.scores, second.scores)[0])
        top = min(TOP, len(first.names))
        best = [set(np.argsort(-np.abs(w.scores), kind="stable")[:top].tolist()) for w in (first, second)]
        names = [str(strip.attrs["method"]).replace("_", " ") for strip in (one, other)]
        gains = [
            float(strip.attrs["insertion_auc"]) - float(strip.attrs["deletion_auc"])
            for strip in (one, other)
            if "insertion_auc" in strip.attrs
        ]
        pieces = {"first": names[0], "second": names[1], "shared": len(best[0] & best[1]), "top": top}
        sentence = tongue.say("agree", **pieces, tau="–" if constant else tongue.number(tau, 2, signed=True))
        leader = names[int(np.argmax(gains))] if len(gains) == 2 else ""
        if leader:
            gap = tongue.number(abs(gains[0] - gains[1]))
            sentence += " " + tongue.say("more_faithful", method=leader, gap=gap)
        found.append(pieces | {"tau": tau, "more_faithful": leader, "sentence": sentence})
    return found
