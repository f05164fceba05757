"""Writing a record layer by layer, into memory or into a zarr folder that counts as whole only at the end."""

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError, RecordError
from probe.record import (
    COUNTS,
    FORMAT,
    SCHEMA,
    attributes,
    chunk_shape,
    dims,
    dtype,
    fill,
    is_record,
    manifest,
    open_record,
    read_attributes,
    strings,
    validate,
)

Array = np.ndarray[Any, Any]
PATIENCE = 20.0  # seconds that zarr's own thread is given to end what it has begun


class Writer:
    """Collects one tower of a record; a context manager that leaves nothing half-written behind.

    Args:
        stats: names of the statistics.
        expected: how many layers will probably come.
    """

    def __init__(self, stats: Sequence[str], expected: int) -> None:
        self.variables = (*stats, *COUNTS)
        self.expected = expected
        self.layers: list[int] = []
        self.modules: list[str] = []
        self.sizes: dict[str, int] = {}

    def add(self, layer: int, module: str, values: Mapping[str, Array]) -> None:
        """Write one layer.

        Args:
            layer: its number.
            module: the module's name.
            values: each variable without its layer dimension.
        """
        if not self.layers:
            for name in self.variables:
                along = [d for d in dims(name) if d != "layer"]
                self.sizes |= dict(zip(along, values[name].shape, strict=True))
            self._create()
        self._write(len(self.layers), values)
        self.layers.append(layer)
        self.modules.append(module)

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
        """Add the small groups and the attributes, and close the record."""
        raise NotImplementedError

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()

    def _create(self) -> None:
        raise NotImplementedError

    def _write(self, index: int, values: Mapping[str, Array]) -> None:
        raise NotImplementedError

    def _abandon(self) -> None:
        """Remove what was written."""

    def _coordinates(self) -> dict[str, tuple[str, Array]]:
        numbers = {name: np.arange(self.sizes[name]) for name in ("head", "query", "key")}
        return {
            "layer": ("layer", np.array(self.layers, dtype=np.int64)),
            "module": ("layer", strings(self.modules)),
            **{name: (name, values) for name, values in numbers.items()},
        }

    def _shape(self, name: str, layers: int) -> tuple[int, ...]:
        return tuple(layers if d == "layer" else self.sizes[d] for d in dims(name))


class MemoryWriter(Writer):
    """A record in memory; needs no zarr."""

    def _create(self) -> None:
        layers = max(1, self.expected)
        self._arrays = {n: np.full(self._shape(n, layers), fill(n), dtype=dtype(n)) for n in self.variables}

    def _write(self, index: int, values: Mapping[str, Array]) -> None:
        for name, array in self._arrays.items():
            if index >= array.shape[1]:
                more = np.full(self._shape(name, array.shape[1]), fill(name), dtype=array.dtype)
                array = self._arrays[name] = np.concatenate([array, more], axis=1)
            array[:, index] = values[name]

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
        """Put the tree together."""
        tower = xr.Dataset(
            {n: (dims(n), a[:, : len(self.layers)], attributes(n)) for n, a in self._arrays.items()},
            coords=self._coordinates(),
        )
        root = xr.Dataset(attrs={"schema": SCHEMA, **attrs, "status": "complete"})
        tree = xr.DataTree.from_dict({"/": root, "/text": tower, **{f"/{n}": g for n, g in groups.items()}})
        validate(tree)
        return tree


class ZarrWriter(Writer):
    """A record in a zarr folder: `<store>.partial` while it is written, moved to its name when complete.

    Args:
        stats: names of the statistics.
        expected: how many layers will probably come.
        store: the folder to be made.
        overwrite: replace a record that is already there, after this one is complete.

    Raises:
        InputError: something is there that may not be replaced.
        RecordError: the folder cannot be made.
    """

    def __init__(self, stats: Sequence[str], expected: int, store: Path, *, overwrite: bool) -> None:
        super().__init__(stats, expected)
        self.target = store.absolute()
        self.partial = self.target.with_name(f"{self.target.name}.partial")
        _check_target(self.target, overwrite)
        _clear_stale(self.partial)
        _settle()  # starts zarr's thread: an interrupt while it starts finds no folder yet

    def __enter__(self) -> "ZarrWriter":
        import zarr

        begun = {"pid": os.getpid(), "host": socket.gethostname()}
        self._attrs: dict[str, Any] = {
            "format": FORMAT, "schema": SCHEMA, "status": "writing", "writer": begun,
            "layers_expected": self.expected, "layers_written": 0,
        }  # fmt: skip
        try:
            self.partial.mkdir(parents=True)
            self._root = zarr.create_group(self.partial, zarr_format=3, attributes=self._attrs)
        except FileExistsError as error:  # made since we looked, so not ours to remove
            raise InputError(f"{self.partial}: another run has just begun this record") from error
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:  # an interrupt: `with` calls __exit__ only for what was entered
            self._abandon()
            raise
        return self

    def _failed(self, error: OSError) -> RecordError:
        self._abandon()
        return RecordError(
            f"{self.target}: cannot be written: {error.strerror or error}; "
            f"{len(self.layers)} of {self.expected} layers were done, nothing is kept"
        )

    def _abandon(self) -> None:
        try:
            _settle()
        finally:
            _remove(self.partial)

    def _create(self) -> None:
        try:
            tower = self._root.create_group("text", attributes={"coordinates": "module"})
            layers = max(1, self.expected)
            self._arrays = {
                name: _array(
                    tower, name, self._shape(name, layers), dtype(name), dims(name), attributes(name),
                    chunks=chunk_shape(name, self.sizes), fill_value=fill(name),
                )
                for name in self.variables
            }  # fmt: skip
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, index: int, values: Mapping[str, Array]) -> None:
        try:
            for name, array in self._arrays.items():
                if index >= array.shape[1]:
                    array.resize(self._shape(name, index + 1))
                array[:, index] = values[name]
            self._attrs |= {
                "layers_written": index + 1,
                "layers_expected": max(self.expected, index + 1),
            }
            self._root.update_attributes(self._attrs)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
        """Write the rest, list all files, mark the record complete and move it to its name."""
        try:
            for name, array in self._arrays.items():
                if array.shape[1] != len(self.layers):
                    array.resize(self._shape(name, len(self.layers)))
            for name, (along, values) in self._coordinates().items():
                _array(self._root["text"], name, values.shape, values.dtype, (along,), {})[...] = values
            for name, dataset in groups.items():
                _write_dataset(self._root, name, dataset)
            self._attrs |= {**attrs, "status": "complete", "manifest": manifest(self.partial)}
            self._root.update_attributes(self._attrs)
            _publish(self.partial, self.target)
        except OSError as error:
            raise self._failed(error) from error
        return open_record(self.target)


def writer(stats: Sequence[str], expected: int, store: str | Path | None, *, overwrite: bool) -> Writer:
    """A writer into memory (store None) or into a folder."""
    if store is None:
        return MemoryWriter(stats, expected)
    return ZarrWriter(stats, expected, Path(store), overwrite=overwrite)


def _array(
    group: Any,
    name: str,
    shape: Sequence[int],
    kind: Any,
    along: Sequence[str],
    attrs: Mapping[str, str],
    *,
    chunks: Sequence[int] | None = None,
    fill_value: float | int | None = None,
) -> Any:
    from zarr.codecs import ZstdCodec

    text = np.dtype(kind).kind in "TOU"
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=str if text else kind,
        chunks=tuple(chunks) if chunks is not None else tuple(max(1, n) for n in shape),
        dimension_names=tuple(along),
        attributes=dict(attrs),
        fill_value=("" if text else 0) if fill_value is None else fill_value,
        compressors=ZstdCodec(level=1, checksum=True),
    )


def _write_dataset(root: Any, name: str, dataset: xr.Dataset) -> None:
    extra = [str(c) for c in dataset.coords if c not in dataset.dims]
    attrs = dict(dataset.attrs) | ({"coordinates": " ".join(extra)} if extra else {})
    group = root.create_group(name, attributes=attrs)
    for key, variable in dataset.variables.items():
        along = [str(d) for d in variable.dims]
        _array(group, str(key), variable.shape, variable.dtype, along, variable.attrs)[...] = variable.values


def _check_target(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise InputError(f"{target}: exists already; choose another name, or overwrite it (overwrite=True)")
    if not is_record(target):
        raise InputError(f"{target}: exists and is not a record of attention-probe, so it is not overwritten")


def _clear_stale(partial: Path) -> None:
    """Remove what a killed run left; refuse what is not ours or is being written now."""
    if not os.path.lexists(partial):
        return
    if not partial.is_dir() or not (is_record(partial) or _is_bare(partial)):
        raise InputError(
            f"{partial}: is in the way and is not an unfinished record; remove it or choose another name"
        )
    begun = read_attributes(partial).get("writer", {}) if is_record(partial) else {}
    if (
        begun.get("host") == socket.gethostname()
        and begun.get("pid") != os.getpid()
        and _alive(begun.get("pid"))
    ):
        raise InputError(
            f"{partial}: process {begun['pid']} is writing this record; wait, or choose another name"
        )
    _remove(partial)
    if partial.exists():
        raise RecordError(f"{partial}: is left from a run that ended early and cannot be removed")


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing, or nothing but a root file that zarr had not finished."""
    return all(path.match("zarr.*.partial") for path in folder.iterdir())


def _settle() -> None:
    """Wait, within reason, until zarr writes nothing any more.

    Its files are written by a thread of its own, where an interrupt of ours stops nothing: what had been begun
    would appear again in a folder that we have just removed.
    """
    from zarr.core.sync import sync

    async def rest() -> None:
        deadline = time.monotonic() + PATIENCE
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.wait(others, timeout=left)

    with suppress(TimeoutError):  # its thread is gone, or never began
        sync(rest(), timeout=2 * PATIENCE)


def _remove(folder: Path) -> None:
    """Remove a record, its root file last: cut short, what is left is still known as an unfinished record."""
    for _ in range(20):
        for entry in folder.glob("*"):
            shutil.rmtree(entry, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.05)


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or os.name == "nt":  # there, signal 0 would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _publish(partial: Path, target: Path) -> None:
    """Move a complete record to its name; an old record there goes only when the new one stands."""
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f"{target.name}.replaced-{os.getpid()}")
    try:
        target.rename(old)
        partial.rename(target)
    finally:  # an interrupt may come between the two
        if target.exists():
            _remove(old)
        else:
            old.rename(target)
