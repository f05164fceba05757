"""A table of faithfulness measures in sentences."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.statement import Statement

SHOWN = ("gap", "comprehensiveness", "leave-one-out", "simulatability")


def measure_statements(data: xr.Dataset, language: Language) -> list[Statement]:
    """Which method leads by what matters most, and whether its interval leaves random scores behind."""
    methods = [str(name) for name in data["explainer"].values]
    measures = [str(name) for name in data["measure"].values]
    chance = methods.index("random")
    found = []
    for i, name in enumerate(measures):
        if name.partition(" (")[0] not in SHOWN:
            continue
        mean, low, high = (np.asarray(data[part].values[:, i]) for part in ("mean", "low", "high"))
        own = [k for k in range(len(methods)) if k != chance and np.isfinite(mean[k])]
        if not own:
            continue
        sign = -1 if str(data["better"].values[i]) == "lower" else 1
        best = max(own, key=lambda k: sign * mean[k])
        clear = low[best] > high[chance] if sign > 0 else high[best] < low[chance]
        text = language.say(
            "measure_clear" if clear else "measure_unclear",
            measure=name,
            method=methods[best].replace("_", " "),
            mean=language.number(float(mean[best]), 2),
            low=language.number(float(low[best]), 2),
            high=language.number(float(high[best]), 2),
            chance=language.number(float(mean[chance]), 2),
        )
        found.append(Statement(name, text, float(mean[best])))
    return found


GRAMMAR: dict[str, Callable[..., list[Statement]]] = {"measure_table": measure_statements}
