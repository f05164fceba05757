"""Records without attention towers (maps, bags): whole in memory, or in a folder that has its name only when it is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import RecordError
from probe.record import FORMAT, SCHEMA, folders, manifest, open_record, strings


def keep(
    groups: Mapping[str, xr.Dataset],
    attrs: Mapping[str, Any],
    store: str | Path | None,
    samples: int,
    *,
    overwrite: bool = False,
) -> xr.DataTree:
    """Put a record together, and into a folder if one is given.

    Args:
        groups: each group by its path, /validity among them.
        attrs: attributes of the root.
        store: the folder to be made; None keeps the record in memory.
        samples: how many inputs there were.
        overwrite: replace a record that is already there, after this one is complete.

    Returns:
        The record, from the folder if there is one.

    Raises:
        InputError: something is at `store` that may not be replaced.
        RecordError: the folder cannot be written.
    """
    root = xr.Dataset(attrs={"schema": SCHEMA, "backend": "", "stats": [], **attrs, "status": "complete"})
    inputs = xr.Dataset({"text": ("sample", strings([""] * samples))})
    tree = xr.DataTree.from_dict({"/": root, **{f"/{p}": d for p, d in groups.items()}, "/input": inputs})
    if store is None:
        return tree
    target = Path(store).absolute()
    partial = target.with_name(f"{target.name}.partial")
    folders.check_target(target, overwrite)
    folders.clear_stale(partial)
    try:
        _write(tree, partial)
        folders.publish(partial, target)
    except OSError as error:
        raise RecordError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        folders.settle()
        folders.remove(partial)
    return open_record(target)


def _write(tree: xr.DataTree, partial: Path) -> None:
    """The folder says that it is unfinished until its last write."""
    import zarr

    whole = dict(tree.attrs)
    unfinished = xr.DataTree(tree.to_dataset(), children=dict(tree.children))
    unfinished.attrs = whole | {"format": FORMAT, "status": "writing", "writer": folders.writer_of()}
    unfinished.to_zarr(partial, mode="w-", consolidated=False, zarr_format=3)
    root = zarr.open_group(partial, mode="r+")
    root.update_attributes({"status": "complete", "manifest": manifest(partial)})


def checks(rows: list[tuple[str, float, float, str]]) -> xr.Dataset:
    """The group /validity, from rows of name, worst, tolerance and meaning."""
    passed = [worst <= tolerance for _, worst, tolerance, _ in rows]
    columns = {
        "name": strings([row[0] for row in rows]),
        "layer": np.full(len(rows), -1, dtype=np.int64),
        "worst": np.array([row[1] for row in rows], dtype=np.float64),
        "tolerance": np.array([row[2] for row in rows], dtype=np.float64),
        "passed": np.array(passed, dtype=bool),
        "meaning": strings([row[3] for row in rows]),
    }
    dataset = xr.Dataset({name: ("check", values) for name, values in columns.items()})
    return dataset.assign_attrs(passed=all(passed))


def finite(groups: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The group /validity of maps: no value is NaN or infinite."""
    wrong = sum(int((~np.isfinite(v.values)).sum()) for d in groups.values() for v in d.data_vars.values())
    return checks([("finite", float(wrong), 0.0, "values that are NaN or infinite")])
