"""What ACT did to a sequence, in sentences."""

import json

import numpy as np
import xarray as xr

from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import percent, plural


def act_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a report of `ex.act`."""
    beta = float(json.loads(data.attrs["parameters"])["beta"])
    heads = plural(data.sizes["calibrated"], "head")
    mean = float(data["sinks"].mean())
    if mean == 0:
        return [
            Statement(
                "sinks", f"ACT found no later sink in the {heads} that it watched: nothing changed.", 0.0
            )
        ]
    found = [Statement("sinks", f"ACT found {mean:.1f} later sinks per head and text in {heads}.", mean)]
    freed, unchanged = float(data["freed"].mean()), float(data["unchanged"].mean())
    kept = f"each sink kept {percent(beta)} of its weight, which freed {percent(freed)} of an average row's attention"
    found.append(Statement("freed", f"{kept[0].upper()}{kept[1:]}.", freed))
    share = data["row_to_first"].sum() / data["row_freed"].sum()
    if np.isfinite(share):
        text = f"The first token got {percent(float(share))} of what was freed."
        found.append(Statement("to_first", text, float(share)))
    rows = f"{percent(unchanged)} of the rows stayed as they were (no sink in sight, or nobody to pay)"
    found.append(Statement("unchanged", f"{rows}.", unchanged))
    return found


GRAMMAR = {"act": act_statements}
