"""The record: what a captured run looks like as an `xarray.DataTree`, in memory and in a zarr folder.

    /          attributes: model, its revision, dtype, backend, device, library versions, stats, schema,
    status /text      one statistic per variable over (sample, layer, head, query) or (sample, layer, head,
    key);
               keys_seen (sample, layer, query): how many keys a query sees; seen_by (sample, layer, key)
    /tokens    text, id, role, start, end, valid over (sample, token)
    /input     text over (sample)
    /validity  the checks of this run: name, layer, worst, tolerance, passed, meaning over (check)
    /results   one group per explainer, added later

Positions that are padding hold NaN (-1 in integer statistics). A folder is complete only when its root says
so and every file that it listed is there with its size; anything else is refused, because zarr reads a
missing chunk as fill values.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import RecordError
from probe.stats import STATS, Stat

SCHEMA = 1
FORMAT = "attention-probe record"
#: Attributes that serve the writing and checking of a folder only.
INTERNAL = ("format", "manifest", "writer", "layers_expected", "layers_written")

_REQUIRED = ("model", "dtype", "backend", "device", "created", "versions", "stats")
_TOKENS = ("text", "id", "role", "start", "end", "valid")
_CHECKS = ("name", "layer", "worst", "tolerance", "passed", "meaning")

#: Visible keys per query and the other way round; the variables every tower has beside its statistics.
COUNTS = {"keys_seen": "query", "seen_by": "key"}


def dims(variable: str) -> tuple[str, ...]:
    """The dimensions of a tower's variable: a statistic, or one of the two counts."""
    if variable in COUNTS:
        return ("sample", "layer", COUNTS[variable])
    return ("sample", "layer", "head", STATS[variable].along)


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


def validate(tree: xr.DataTree) -> None:
    """Check that a tree is a complete record of this schema.

    Raises:
        RecordError: names the first thing that is missing or of the wrong form.
    """
    schema = tree.attrs.get("schema")
    if schema != SCHEMA:
        raise RecordError(f"record: got schema {schema!r}, expected {SCHEMA}")
    if tree.attrs.get("status") != "complete":
        raise RecordError(f"record: its status is {tree.attrs.get('status')!r}, expected 'complete'")
    missing = [name for name in _REQUIRED if name not in tree.attrs]
    missing += [f"/{group}" for group in ("tokens", "input", "validity") if group not in tree.children]
    if missing or not towers(tree):
        raise RecordError(f"record: {', '.join(missing) or 'a group with statistics'} is missing")
    for tower in towers(tree):
        _validate_tower(tower, tree[tower].to_dataset(), [str(s) for s in tree.attrs["stats"]])
    tokens = tree["tokens"].to_dataset()
    for group, dataset, names in (
        ("tokens", tokens, _TOKENS),
        ("validity", tree["validity"].to_dataset(), _CHECKS),
        ("input", tree["input"].to_dataset(), ("text",)),
    ):
        absent = [name for name in names if name not in dataset.variables]
        if absent:
            raise RecordError(f"record: /{group} has no {', '.join(absent)}")
    samples = {tree[name].sizes["sample"] for name in [*towers(tree), "tokens", "input"]}
    if len(samples) > 1:
        raise RecordError(f"record: its groups have different numbers of samples {sorted(samples)}")


def _validate_tower(tower: str, dataset: xr.Dataset, stats: list[str]) -> None:
    for name in ("layer", "module", "head", "query", "key"):
        if name not in dataset.coords:
            raise RecordError(f"record: /{tower} has no coordinate {name}")
    for name in [*stats, *COUNTS]:
        if name not in STATS and name not in COUNTS:
            raise RecordError(f"record: /{tower} claims the unknown statistic {name!r}")
        if name not in dataset.data_vars:
            raise RecordError(f"record: /{tower} has no {name}")
        got = dataset[name]
        if got.dims != dims(name) or got.dtype != np.dtype(dtype(name)):
            raise RecordError(
                f"record: /{tower}/{name} is {got.dtype} over {got.dims}, "
                f"expected {dtype(name)} over {dims(name)}"
            )


def open_record(path: str | Path) -> xr.DataTree:
    """Open a recorded run, lazily: values are read from disk when they are used.

    Args:
        path: the folder that `probe.capture(…, store=path)` wrote.

    Returns:
        The record, as `probe.record` describes it.

    Raises:
        RecordError: not a record, unfinished, damaged (a file missing or of another size), or of another
            schema.
    """
    folder = Path(path)
    attrs = read_attributes(folder)
    if attrs.get("status") != "complete":
        raise RecordError(
            f"{folder}: the capture did not finish: {attrs.get('layers_written', 0)} of "
            f"{attrs.get('layers_expected', '?')} layers were written; capture again"
        )
    if attrs.get("schema") != SCHEMA:
        raise RecordError(f"{folder}: got schema {attrs.get('schema')!r}, expected {SCHEMA}; capture again")
    _check_files(folder, attrs)
    try:
        tree = xr.open_datatree(folder, engine="zarr", consolidated=False, chunks=None)
    except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
        raise RecordError(f"{folder}: cannot be read: {_line(error)}") from error
    tree = _ordered(tree, [str(s) for s in attrs.get("stats", ())])
    validate(tree)
    return tree


def _ordered(tree: xr.DataTree, stats: list[str]) -> xr.DataTree:
    """The tree with groups and variables in the order of the schema; a folder lists them in any order."""
    order = [*stats, *COUNTS, *_TOKENS, *_CHECKS]
    groups: dict[str, xr.Dataset] = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        names = sorted(
            map(str, dataset.data_vars), key=lambda n: order.index(n) if n in order else len(order)
        )
        groups[node.path] = dataset[names]
    groups["/"].attrs = {name: value for name, value in tree.attrs.items() if name not in INTERNAL}
    first = ("/", *(f"/{name}" for name in towers(tree)), "/tokens", "/input", "/validity")
    paths = [p for p in first if p in groups] + sorted(p for p in groups if p not in first)
    return xr.DataTree.from_dict({path: groups[path] for path in paths})


def read_attributes(folder: Path) -> dict[str, Any]:
    """The root attributes of a record's folder, finished or not, without opening it.

    Raises:
        RecordError: the folder does not exist or is not a record.
    """
    if not folder.exists():
        raise RecordError(f"{folder}: no such record")
    if not folder.is_dir():
        raise RecordError(f"{folder}: got a file, expected the folder of a record")
    root = folder / "zarr.json"
    if not root.is_file():
        raise RecordError(f"{folder}: not a record (it has no zarr.json)")
    try:
        attrs = json.loads(root.read_text(encoding="utf-8")).get("attributes", {})
    except (ValueError, AttributeError, OSError) as error:
        raise RecordError(f"{folder}: zarr.json cannot be read: {_line(error)}") from error
    if not isinstance(attrs, dict) or attrs.get("format") != FORMAT:
        raise RecordError(f"{folder}: a zarr folder, but not a record of attention-probe")
    return attrs


def is_record(folder: Path) -> bool:
    """Whether a folder is a record of ours, finished or not."""
    try:
        read_attributes(folder)
    except RecordError:
        return False
    return True


def manifest(folder: Path) -> dict[str, int]:
    """Size in bytes of each file of a record by relative path, without the root metadata that holds this."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "zarr.json")
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}


def _check_files(folder: Path, attrs: dict[str, Any]) -> None:
    listed = attrs.get("manifest")
    if not isinstance(listed, dict):
        raise RecordError(f"{folder}: damaged: it has no list of its files")
    for name, size in listed.items():
        try:
            got = (folder / name).stat().st_size
        except OSError:
            raise RecordError(f"{folder}: damaged: {name} is missing; capture again") from None
        if got != size:
            raise RecordError(f"{folder}: damaged: {name} has {got} bytes, expected {size}; capture again")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def chunk_shape(variable: str, sizes: dict[str, int], target: int = 1 << 20) -> tuple[int, ...]:
    """Chunks of a variable: one layer, all heads, as many positions and samples as make `target` values.

    Args:
        variable: a statistic or a count.
        sizes: sizes of the dimensions sample, head, query and key.
        target: values in a chunk.
    """
    names = dims(variable)
    heads = sizes["head"] if "head" in names else 1
    positions = min(sizes[names[-1]], max(1, target // heads))
    samples = min(sizes["sample"], max(1, target // (heads * positions)))
    shape = {"sample": samples, "layer": 1, "head": heads, names[-1]: math.ceil(positions)}
    return tuple(shape[name] for name in names)
