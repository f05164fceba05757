"""The statistics that are timed: what each computes, and how much work its result needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from probe.dashboard.bench.case import BETA, LINKS, grid_of, rectangle, side_of, sinks_of, values_of_queries
from probe.kernels.column_pass import apply_transposed, column_mass, column_stats
from probe.kernels.row_pass import row_stats
from probe.kernels.sink_shift import sink_shift
from probe.kernels.statistics import MAP_STATISTICS, map_statistics
from probe.kernels.sweep import ROW_STATISTICS
from probe.kernels.tile import tile
from probe.kernels.top_links import top_links

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from probe.dashboard.bench.case import Case

    Run = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: Short, for JSON and options.
        label: For people.
        products: Products of queries (or of the map) with N vectors of the head size that the result needs.
        sweeps: Times that exp of every visible score is needed.
        make: From a case to the call that is timed; what it prepares is not timed.
        side: Rows and keys of the rectangle that counts, by N; None for all pairs that the mask lets through.
    """

    name: str
    label: str
    products: int
    sweeps: int
    make: Callable[[Case], Run]
    side: Callable[[int], int] | None = None


def _rows(case: Case, names: tuple[str, ...]) -> Run:
    return partial(row_stats, case.q, case.k, case.spec, names)


def _lse(case: Case) -> Tensor:
    return row_stats(case.q, case.k, case.spec, ("lse",))["lse"]


def _columns(case: Case) -> Run:
    lse = _lse(case)
    return lambda: {"received": column_mass(case.q, case.k, case.spec, lse)}


def _mass(case: Case) -> Run:
    return partial(map_statistics, case.q, case.k, case.spec, ("received",))


def _map(case: Case) -> Run:
    grid = grid_of(case.n)

    def run() -> dict[str, Tensor]:
        rows = row_stats(case.q, case.k, case.spec, ("lse", "entropy"))
        return rows | column_stats(case.q, case.k, case.spec, rows["lse"], grid=grid)

    return run


def _map_lse(case: Case) -> Run:
    return partial(column_stats, case.q, case.k, case.spec, _lse(case), grid=grid_of(case.n))


def _everything(case: Case) -> Run:
    return partial(map_statistics, case.q, case.k, case.spec, MAP_STATISTICS, grid=grid_of(case.n))


def _transposed(case: Case) -> Run:
    lse, y = _lse(case), values_of_queries(case)
    return lambda: {"transposed": apply_transposed(case.q, case.k, case.spec, lse, y)}


def _output(case: Case) -> Run:
    return partial(row_stats, case.q, case.k, case.spec, ("lse", "entropy"), x=case.v)


def _links(case: Case) -> Run:
    def run() -> dict[str, Tensor]:
        found = top_links(case.q, case.k, case.spec, links=LINKS)
        return {"link_keys": found.keys, "link_probs": found.probs}

    return run


def _tile(case: Case) -> Run:
    lse, (rows, keys) = _lse(case), rectangle(case.n)
    return lambda: {"tile": tile(case.q, case.k, case.spec, lse, rows, keys)}


def _shift(case: Case) -> Run:
    sinks = sinks_of(case)
    return lambda: {"shifted": sink_shift(case.q, case.k, case.v, case.spec, sinks, BETA).out}


def all_rows() -> list[Row]:
    """The statistics, in the order of the table."""
    return [
        Row("rows", "row pass: lse, entropy", 1, 1, partial(_rows, names=("lse", "entropy"))),
        Row("rows-all", "row pass: all statistics", 1, 1, partial(_rows, names=ROW_STATISTICS)),
        Row("rows-output", "row pass: lse, entropy, output", 2, 1, _output),
        Row("columns", "column pass, lse given", 1, 1, _columns),
        Row("mass", "column mass with its row pass", 2, 2, _mass),
        Row("map", "rows + columns + 512×512 map", 2, 2, _map),
        Row("map-lse", "columns + 512×512 map, lse given", 1, 1, _map_lse),
        Row("everything", "all row statistics + columns + 512×512 map", 2, 2, _everything),
        Row("transposed", "Aᵀ·Y, lse given", 2, 1, _transposed),
        Row("top-links", f"{LINKS} strongest keys of each query", 1, 1, _links),
        Row("sink-shift", "output with 4 sinks shrunk", 2, 1, _shift),
        Row("tile", "tile 1024×1024, lse given", 1, 1, _tile, side_of),
    ]
