"""Writing a record into a zarr folder: nothing unfinished reads as whole, and what is finished is never written twice.

Everything goes into `<store>.partial`. A layer counts from the moment when the root's attribute `written` names it, which is
one atomic replacement of one file after all of the layer's data; the record counts when the root says that it is complete, and
the folder is then moved to its name.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xarray as xr

from probe.errors import InputError, RecordError
from probe.record import (
    COUNTS,
    FORMAT,
    SCHEMA,
    chunk_shape,
    dims,
    dtype,
    fill,
    folders,
    manifest,
    open_record,
    read_attributes,
)
from probe.record.arrays import make_array, write_dataset
from probe.record.tower import Tower, Written
from probe.record.writer import Array, Writer


class ZarrWriter(Writer):
    """A record in a zarr folder; see `probe.record.target.writer` for the arguments.

    Raises:
        InputError: something is there that may not be replaced or continued.
        RecordError: the folder cannot be made.
    """

    def __init__(
        self,
        expected: int,
        store: Path,
        *,
        overwrite: bool,
        resume: bool,
        request: str,
        keep_bits: int | None,
    ) -> None:
        super().__init__(expected, keep_bits)
        self.target = store.absolute()
        self.partial = self.target.with_name(f"{self.target.name}.partial")
        self.resume, self.request = resume, request
        self._arrays: dict[str, dict[str, Any]] = {}
        folders.check_target(self.target, overwrite)
        if resume:
            self._continued = folders.resumable(self.partial, request)
        else:
            folders.clear_stale(self.partial)
            self._continued = False
        folders.settle()  # starts zarr's thread: an interrupt while it starts finds no folder yet

    def __enter__(self) -> "ZarrWriter":
        try:
            if self._continued:
                self._take_up()
            else:
                self._begin()
        except FileExistsError as error:  # made since we looked, so not ours to remove
            raise InputError(f"{self.partial}: another run has just begun this record") from error
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:  # an interrupt: `with` calls __exit__ only for what was entered
            self._abandon()
            raise
        return self

    def _begin(self) -> None:
        import zarr

        self._attrs: dict[str, Any] = {
            "format": FORMAT, "schema": SCHEMA, "status": "writing", "writer": folders.writer_of(),
            "request": self.request, "layers_expected": self.expected, "layers_written": 0, "written": [],
        }  # fmt: skip
        self.partial.mkdir(parents=True)
        self._group = zarr.create_group(self.partial, zarr_format=3, attributes=self._attrs)

    def _take_up(self) -> None:
        """Find the layers that are whole, and remove what is not."""
        import zarr

        found = read_attributes(self.partial)
        self._attrs = {
            name: found[name] for name in ("format", "schema", "request", "layers_written", "written")
        }
        self._attrs |= {
            "status": "writing",
            "writer": folders.writer_of(),
            "layers_expected": max(self.expected, found["layers_written"]),
        }
        self._group = zarr.open_group(self.partial, mode="r+", zarr_format=3)
        self._set(self._attrs)
        self.written = [Written.read(line) for line in found["written"]]
        self._clean()
        for written in self.written:
            tower = self._towers.get(written.stream)
            if tower is None:
                tower = self._towers[written.stream] = self._reopened(written)
            tower.layers.append(written)

    def _clean(self) -> None:
        whole = {f"qkv/{w.stream}/{w.layer}" for w in self.written} | {w.stream for w in self.written}
        for path in (*self.partial.glob("*/"), *self.partial.glob("qkv/*/*/")):
            name = path.relative_to(self.partial).as_posix()
            if path.is_dir() and name not in whole and name != "qkv":
                shutil.rmtree(path)
        for path in self.partial.rglob("*.partial"):  # files that zarr had not finished
            path.unlink()

    def _reopened(self, first: Written) -> Tower:
        group = self._group[first.stream]
        told = dict(group.attrs)
        arrays = {name: group[name] for name in [*told["stats"], *COUNTS]}
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            sizes |= dict(zip(dims(name), array.shape, strict=True))
        del sizes["layer"]
        self._arrays[first.stream] = arrays
        return Tower(
            first.stream, told["queries"], told["keys"], tuple(told["stats"]), sizes, tuple(first.facts)
        )

    def _create(self, tower: Tower) -> None:
        coordinates = " ".join(name for name, (along, _) in tower.coordinates().items() if name != along)
        try:
            group = self._group.create_group(
                tower.name, attributes={"coordinates": coordinates, **tower.attributes}
            )
            layers = max(1, self.expected)
            self._arrays[tower.name] = {
                name: make_array(
                    group, name, tower.shape(name, layers), dtype(name), dims(name), self._attributes(name),
                    chunks=chunk_shape(name, tower.sizes), fill_value=fill(name),
                )
                for name in tower.variables
            }  # fmt: skip
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, tower: Tower, values: Mapping[str, Array]) -> None:
        index = len(tower.layers)
        try:
            for name, array in self._arrays[tower.name].items():
                if index >= array.shape[1]:
                    array.resize(tower.shape(name, index + 1))
                array[:, index] = values[name]
        except OSError as error:
            raise self._failed(error) from error

    def _keep(self, path: str, dataset: xr.Dataset) -> None:
        try:
            group = self._group
            for name in path.split("/")[:-1]:
                group = group.require_group(name)
            write_dataset(group, path.split("/")[-1], dataset)
        except OSError as error:
            raise self._failed(error) from error

    def _mark(self, written: Written) -> None:
        done = len(self.written) + 1
        self._attrs |= {
            "layers_written": done,
            "layers_expected": max(self._attrs["layers_expected"], done),
            "written": [*self._attrs["written"], written.line()],
        }
        try:
            self._set(self._attrs)
        except OSError as error:
            raise self._failed(error) from error

    def _set(self, attrs: Mapping[str, Any]) -> None:
        """Replace the root's attributes, in one step."""
        for name in set(self._group.attrs) - set(attrs):
            self._group.metadata.attributes.pop(name)
        self._group.update_attributes(dict(attrs))

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
        """Write the rest, list all files, mark the record complete and move it to its name."""
        try:
            for stream, tower in self._towers.items():
                for name, array in self._arrays[stream].items():
                    if array.shape[1] != len(tower.layers):
                        array.resize(tower.shape(name, len(tower.layers)))
                for name, (along, values) in tower.coordinates().items():
                    array = make_array(
                        self._group[stream], name, values.shape, values.dtype, (along,), {}, overwrite=True
                    )
                    array[...] = values
            for name, dataset in groups.items():
                write_dataset(self._group, name, dataset)
            whole = {**self._attrs, **self._root(attrs), "status": "complete"}
            self._set(whole | {"manifest": manifest(self.partial)})
            open_record(self.partial)  # before an old record goes
            folders.publish(self.partial, self.target)
        except OSError as error:
            raise self._failed(error) from error
        return open_record(self.target)

    def _failed(self, error: OSError) -> RecordError:
        self._abandon()
        done = f"{len(self.written)} of {self.expected} layers"
        left = f"are kept in {self.partial}" if self.resume else "were done, nothing is kept"
        return RecordError(f"{self.target}: cannot be written: {error.strerror or error}; {done} {left}")

    def _abandon(self) -> None:
        try:
            folders.settle()
        finally:
            if self.resume:
                self._release()
            else:
                folders.remove(self.partial)

    def _release(self) -> None:
        """Let another run continue what is written; a folder without a whole layer goes."""
        if not self.written:
            folders.remove(self.partial)
            return
        with suppress(OSError):
            self._set(self._attrs | {"writer": {}})
