"""The statistics that a record can hold: what each one is, its dimension, unit and cost.

A new statistic is its kernel (`probe.kernels`) and one entry here; record, capture and checks read this
table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

from probe.errors import InputError


@dataclass(frozen=True)
class Stat:
    """What one statistic of an attention map A (queries i, keys j) holds for each head.

    Attributes:
        name: as it is asked for, and its variable in the record.
        along: "query" (one number per row of A), "key" (one per column) or "map" (one per cell of a grid over A).
        dtype: in the record; "int32" marks absent positions with -1, "float32" with NaN.
        unit: unit of the value.
        sweep: "row" (one pass over the keys of each query), "column" (needs the rows' normalisers first) or "sample" (of
            some queries only: an estimate).
        meaning: the definition, in one line.
    """

    name: str
    along: str
    dtype: str
    unit: str
    sweep: str
    meaning: str

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of its variable in the record."""
        return ("sample", "layer", "head", *(("row", "column") if self.along == "map" else (self.along,)))

    @property
    def absent(self) -> float | int:
        """What stands where a position is padding, or where a cell holds no visible pair."""
        return -1 if self.dtype == "int32" else float("nan")


_STATS = (
    Stat("entropy", "query", "float32", "nat", "row", "-Σ_j A_ij ln A_ij over the keys"),
    Stat("effective_keys", "query", "float32", "key", "row", "exp(entropy): equal weights of that entropy"),
    Stat("received", "key", "float32", "attention", "column", "Σ_i A_ij over the valid queries"),
    Stat("max_prob", "query", "float32", "probability", "row", "largest A_ij of the row"),
    Stat("max_key", "query", "int32", "position", "row", "key of the largest A_ij"),
    Stat("lse", "query", "float32", "logit", "row", "ln Σ_j exp(score_ij), the sink logit included"),
    Stat("distance", "query", "float32", "token", "row", "Σ_j A_ij |i - j|"),
    Stat("second_moment", "query", "float32", "probability", "row", "Σ_j A_ij²"),
    Stat(
        "key_mass",
        "query",
        "float32",
        "probability",
        "row",
        "Σ_j A_ij: 1, or 1 minus the mass of a sink logit",
    ),
    Stat(
        "received_sampled",
        "key",
        "float32",
        "attention",
        "sample",
        "unbiased estimate of received from a random sample of query blocks",
    ),
    Stat("received_error", "key", "float32", "attention", "sample", "standard error of received_sampled"),
    Stat(
        "pooled",
        "map",
        "float32",
        "probability",
        "column",
        "mean of A_ij over the visible pairs of valid positions in the cell (rows row_start to row_stop - 1, "
        "columns column_start to column_stop - 1)",
    ),
)

#: Estimates; nothing else is one.
SAMPLED = tuple(stat.name for stat in _STATS if stat.sweep == "sample")

#: All statistics by name.
STATS = MappingProxyType({stat.name: stat for stat in _STATS})


def resolve(names: str | Iterable[str]) -> tuple[Stat, ...]:
    """The statistics that a request names, in order, each once.

    Args:
        names: one name, or several.

    Raises:
        InputError: no name, or one that is not a statistic.
    """
    wanted = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in STATS]
    if unknown or not wanted:
        what = f"got {', '.join(map(repr, unknown))}" if unknown else "got none"
        raise InputError(f"stats: {what}, expected one or more of {', '.join(STATS)}")
    return tuple(STATS[name] for name in wanted)
