"""Rows of an evaluation: predictions and their measures."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from probe.record import strings


def table_of(rows: Mapping[str, Mapping[str, float]], note: str) -> xr.Dataset:
    """value(prediction, measure), NaN where a row has no such measure, with the note as attribute."""
    measures = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = np.array([[row.get(name, np.nan) for name in measures] for row in rows.values()])
    return xr.Dataset(
        {"value": (("prediction", "measure"), values)},
        coords={"prediction": ("prediction", strings(list(rows))), "measure": ("measure", strings(measures))},
        attrs={"note": note},
    )
