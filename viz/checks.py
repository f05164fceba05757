"""Read a record's validity report: one line per check, with the layer nearest to its tolerance or past it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class CheckLine:
    """One check over all layers.

    Attributes:
        name: The check.
        meaning: What it says, in words.
        layers: How many layers it was made in.
        failed: In how many of them it failed.
        layer: The layer with the error largest beside its tolerance; -1 if the check is not about a layer.
        worst: That error.
        tolerance: Its tolerance.
    """

    name: str
    meaning: str
    layers: int
    failed: int
    layer: int
    worst: float
    tolerance: float


def read_checks(record: xr.DataTree) -> list[CheckLine]:
    """The validity report of a record, failed checks first.

    Args:
        record: A record with the group `/validity`.

    Returns:
        One line per name of a check; an error that is not a number counts as the worst of all.
    """
    data = record["validity"].to_dataset()
    columns = ("name", "meaning", "layer", "worst", "tolerance", "passed")
    rows = list(zip(*(data[column].values for column in columns), strict=True))
    lines = []
    for name in dict.fromkeys(str(row[0]) for row in rows):
        own = [row for row in rows if str(row[0]) == name]
        worst = max(own, key=lambda row: _ratio(float(row[3]), float(row[4])))
        failed = sum(not bool(row[5]) for row in own)
        lines.append(
            CheckLine(name, str(worst[1]), len(own), failed, int(worst[2]), float(worst[3]), float(worst[4]))
        )
    return sorted(lines, key=lambda line: not line.failed)


def _ratio(worst: float, tolerance: float) -> float:
    if worst != worst:
        return float("inf")
    return worst / max(tolerance, 5e-324) if worst else 0.0
