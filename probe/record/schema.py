"""The record: what a captured run looks like as an `xarray.DataTree`, in memory and in a zarr folder.

    /          attributes: model, its revision, dtype, backend, device, library versions, stats (as asked for), schema, status
    /<stream>  a tower ("text", "vision", "decoder", "cross", …). Attributes: stats (what it has), queries and keys (names of
               its groups of positions). One statistic per variable over (sample, layer, head, query), (…, key) or
               (…, row, column); keys_seen (sample, layer, query): how many keys a query sees; seen_by (sample, layer, key).
               Coordinates along layer: module, and facts such as the rules; along row and column: row_start, row_stop,
               column_start, column_stop
    /tokens    and other groups of positions ("source", "patches", "frames"): text, id, role, start, end, valid over
               (sample, token); there if a tower names it
    /input     text over (sample)
    /validity  the checks of this run: name, layer, worst, tolerance, passed, meaning over (check)
    /qkv       optional, by stream and layer: what `probe.zoom` needs (`probe.deepzoom.kept`)
    /results   one group per explainer, added later

Towers may differ in samples, heads and lengths. Positions that are padding hold NaN (-1 in integer statistics), cells
without a visible pair NaN. A folder is complete only when its root says so and every file that it listed is there with its
size; anything else is refused, because zarr reads a missing chunk as fill values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError, RecordError
from probe.stats import STATS, Stat

SCHEMA = 2
FORMAT = "attention-probe record"
#: Attributes that serve the writing and checking of a folder only.
INTERNAL = ("format", "manifest", "writer", "request", "layers_expected", "layers_written", "written")

_REQUIRED = ("model", "dtype", "backend", "device", "created", "versions", "stats")
_POSITIONS = ("text", "id", "role", "start", "end", "valid")
_CHECKS = ("name", "layer", "worst", "tolerance", "passed", "meaning")

#: Visible keys per query and the other way round; the variables every tower has beside its statistics.
COUNTS = {"keys_seen": "query", "seen_by": "key"}

#: Coordinates of the cells of a pooled map: the positions [start, stop) of each row and column of cells.
CELLS = {"row_start": "row", "row_stop": "row", "column_start": "column", "column_stop": "column"}

#: Names at the root that no tower may have.
RESERVED = ("input", "validity", "qkv", "results", "tokens", "source", "patches", "frames")


@dataclass(frozen=True)
class Check:
    """One figure of a report: the worst error found, and what rounding can explain."""

    name: str
    layer: int
    worst: float
    tolerance: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the error is explained; NaN never is."""
        return self.worst <= self.tolerance


def dims(variable: str) -> tuple[str, ...]:
    """The dimensions of a tower's variable: a statistic, or one of the two counts."""
    if variable in COUNTS:
        return ("sample", "layer", COUNTS[variable])
    return STATS[variable].dims


def dtype(variable: str) -> str:
    """The dtype of a tower's variable in the record."""
    return "int32" if variable in COUNTS else STATS[variable].dtype


def fill(variable: str) -> float | int:
    """What a tower's variable holds where there is nothing."""
    return 0 if variable in COUNTS else STATS[variable].absent


def attributes(variable: str) -> dict[str, str]:
    """Unit and meaning of a tower's variable."""
    if variable == "keys_seen":
        return {"unit": "key", "meaning": "how many keys the query sees"}
    if variable == "seen_by":
        return {"unit": "query", "meaning": "how many valid queries see the key"}
    stat: Stat = STATS[variable]
    return {"unit": stat.unit, "meaning": stat.meaning}


def strings(values: Iterable[Any]) -> np.ndarray[Any, Any]:
    """An array of variable-length strings, of the type that zarr gives back."""
    kind = getattr(np.dtypes, "StringDType", None)
    return np.array(values, dtype=object if kind is None else kind())


def towers(tree: xr.DataTree) -> list[str]:
    """Names of the groups that hold attention statistics."""
    return [name for name, node in tree.children.items() if "layer" in node.dims and "head" in node.dims]


def positions(tree: xr.DataTree, tower: str, side: str) -> xr.Dataset:
    """The places along one side of a tower's maps.

    Args:
        tree: a record.
        tower: its tower.
        side: "queries" or "keys".

    Returns:
        The group of positions over (sample, token): text, id, role, start, end, valid, and geometry where there is any.

    Raises:
        InputError: another side.
        RecordError: no such tower, or the record lacks the group that it names.
    """
    if side not in ("queries", "keys"):
        raise InputError(f"side: got {side!r}, expected 'queries' or 'keys'")
    if tower not in tree.children:
        raise RecordError(f"the record has no tower {tower!r}; it has: {', '.join(towers(tree)) or 'none'}")
    group = tree[tower].attrs.get(side)
    if group not in tree.children:
        raise RecordError(f"record: /{tower} names {group!r} as its {side}, but there is no such group")
    return tree[str(group)].to_dataset()


def validate(tree: xr.DataTree) -> None:
    """Check that a tree is a complete record of this schema.

    Raises:
        RecordError: names the first thing that is missing or of the wrong form.
    """
    check_schema("record", tree.attrs)
    if tree.attrs.get("status") != "complete":
        raise RecordError(f"record: its status is {tree.attrs.get('status')!r}, expected 'complete'")
    missing = [name for name in _REQUIRED if name not in tree.attrs]
    missing += [f"/{group}" for group in ("input", "validity") if group not in tree.children]
    if missing or (tree.attrs["stats"] and not towers(tree)):  # a record of maps alone has no statistics
        raise RecordError(f"record: {', '.join(missing) or 'a group with statistics'} is missing")
    _known("/", tree.attrs["stats"])
    for tower in towers(tree):
        _validate_tower(tower, tree[tower].to_dataset(), tree)
    for group, names in (("validity", _CHECKS), ("input", ("text",))):
        _has(group, tree[group].to_dataset(), names)


def check_schema(where: str, attrs: Mapping[Any, Any]) -> None:
    """Check that a record is of this schema.

    Raises:
        RecordError: it is older or newer.
    """
    schema = attrs.get("schema")
    if schema != SCHEMA:
        older = isinstance(schema, int) and schema < SCHEMA
        do = "capture again" if older else "read it with the version of attention-probe that wrote it"
        raise RecordError(f"{where}: got schema {schema!r}, expected {SCHEMA}; {do}")


def _known(where: str, stats: Iterable[object]) -> None:
    for name in stats:
        if name not in STATS:
            raise RecordError(f"record: {where} claims the unknown statistic {name!r}")


def _has(group: str, dataset: xr.Dataset, names: Iterable[str]) -> None:
    absent = [name for name in names if name not in dataset.variables]
    if absent:
        raise RecordError(f"record: /{group} has no {', '.join(absent)}")


def _validate_tower(tower: str, dataset: xr.Dataset, tree: xr.DataTree) -> None:
    stats = dataset.attrs.get("stats")
    if not isinstance(stats, list | tuple) or not stats:
        raise RecordError(
            f"record: /{tower} does not say which statistics it has (attribute stats: {stats!r})"
        )
    _known(f"/{tower}", stats)
    unasked = [name for name in stats if name not in tree.attrs["stats"]]
    if unasked:
        raise RecordError(f"record: /{tower} has {', '.join(unasked)}, which the root does not name")
    cells = CELLS if "pooled" in stats else {}
    for name in ("layer", "module", "head", "query", "key", *cells):
        if name not in dataset.coords:
            raise RecordError(f"record: /{tower} has no coordinate {name}")
    for name in [*stats, *COUNTS]:
        if name not in dataset.data_vars:
            raise RecordError(f"record: /{tower} has no {name}")
        got = dataset[name]
        if got.dims != dims(name) or got.dtype != np.dtype(dtype(name)):
            raise RecordError(
                f"record: /{tower}/{name} is {got.dtype} over {got.dims}, "
                f"expected {dtype(name)} over {dims(name)}"
            )
    for side, along in (("queries", "query"), ("keys", "key")):
        places = positions(tree, tower, side)
        group = dataset.attrs[side]
        _has(group, places, _POSITIONS)
        want = {"sample": dataset.sizes["sample"], "token": dataset.sizes[along]}
        if places["valid"].dims != ("sample", "token") or dict(places["valid"].sizes) != want:
            raise RecordError(
                f"record: /{group} holds {dict(places['valid'].sizes)}, expected {want} as the {side} of /{tower}"
            )


def ordered(groups: Mapping[str, xr.Dataset], streams: Iterable[str]) -> xr.DataTree:
    """A record's tree with groups and variables in the order of the schema; a folder lists them in any order.

    Args:
        groups: datasets by path.
        streams: the towers, in order.
    """
    sorted_: dict[str, xr.Dataset] = {}
    for path, dataset in groups.items():
        order = [*dataset.attrs.get("stats", ()), *COUNTS, *_POSITIONS, *_CHECKS]
        names = sorted(
            map(str, dataset.data_vars), key=lambda n: (order.index(n) if n in order else len(order), n)
        )
        sorted_[path] = dataset[names]
    towers_ = [f"/{name}" for name in dict.fromkeys(streams)]
    named = [f"/{groups[t].attrs.get(s)}" for t in towers_ if t in groups for s in ("queries", "keys")]
    first = [*dict.fromkeys(("/", *towers_, *named, "/input", "/validity"))]
    paths = [p for p in first if p in groups] + sorted(p for p in groups if p not in first)
    return xr.DataTree.from_dict({path: sorted_[path] for path in paths})


def chunk_shape(variable: str, sizes: Mapping[str, int], target: int = 1 << 20) -> tuple[int, ...]:
    """Chunks of a variable: one layer, all heads, as many positions (or rows of cells) and samples as make `target` values.

    Args:
        variable: a statistic or a count.
        sizes: sizes of the dimensions sample, head, query, key, row and column, as far as it has them.
        target: values in a chunk.
    """
    names = dims(variable)
    shape = {"sample": sizes["sample"], "layer": 1, "head": 1, "column": 1}
    shape |= {name: sizes[name] for name in ("head", "column") if name in names}
    if variable == "pooled":  # a cell is looked at head by head
        shape["head"] = min(sizes["head"], max(1, target // (sizes["row"] * sizes["column"])))
    along = next(name for name in ("query", "key", "row") if name in names)
    beside = shape["head"] * shape["column"]
    shape[along] = min(sizes[along], max(1, target // beside))
    shape["sample"] = min(sizes["sample"], max(1, target // (beside * shape[along])))
    return tuple(shape[name] for name in names)
