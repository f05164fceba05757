"""Opening a record's folder: only what is whole and undamaged is read."""

import json
from pathlib import Path
from typing import Any

import xarray as xr

from probe.errors import RecordError
from probe.record.schema import FORMAT, INTERNAL, check_schema, ordered, validate


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
    check_schema(str(folder), attrs)
    if attrs.get("status") != "complete":
        raise RecordError(
            f"{folder}: the capture did not finish: {attrs.get('layers_written', 0)} of "
            f"{attrs.get('layers_expected', '?')} layers were written; capture again"
        )
    _check_files(folder, attrs)
    try:
        tree = xr.open_datatree(folder, engine="zarr", consolidated=False, chunks=None)
    except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
        raise RecordError(f"{folder}: cannot be read: {_line(error)}") from error
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    groups["/"].attrs = {name: value for name, value in tree.attrs.items() if name not in INTERNAL}
    record = ordered(groups, [json.loads(line)["stream"] for line in attrs.get("written", ())])
    validate(record)
    return record


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
