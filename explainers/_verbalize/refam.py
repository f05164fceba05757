"""What `refam` found in sentences: the point, how far the heat is gathered, and who holds the attention."""

import xarray as xr

from probe.explainers._verbalize.areas import concentration, place
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, percent, quoted


def refam_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a result of `refam`."""
    import numpy as np

    attrs = data.attrs
    row, column = (float(x) for x in attrs["point"])
    text = f"{quoted(str(attrs['target']))} points at the {place(row, column)} "
    text += f"(row {percent(row)}, column {percent(column)} of the picture)."
    found = [Statement("point", text, row)]
    half = concentration(np.nan_to_num(data["heat"].values[0]))
    found.append(
        Statement("concentration", f"Half of the heat lies on {percent(half)} of the picture.", half)
    )
    mass = dict(zip(map(str, data["role"].values), data["role_mass"].values.tolist(), strict=True))
    told = [
        f"{name} {percent(mass[role])}"
        for role, name in (
            ("content", "content words"),
            ("stop", "stop words"),
            ("magnet", "magnets"),
            ("special", "special tokens"),
        )
    ]
    found.append(
        Statement("roles", f"Of the text's attention to the picture hold: {listing(told)}.", mass["content"])
    )
    if attrs["note"]:
        found.append(Statement("note", f"Note: {attrs['note']}.", 0.0))
    return found


GRAMMAR = {"refam": refam_statements}
