"""The folder of a corpus run: what is done is done once, what is half-written does not count, and a finished run says so.

corpus.json      format, schema, status ("running", "complete"), request, writer, inputs (how many), and when complete the
                 manifest of aggregate.zarr; replaced whole, never edited
parts/           one file per finished input until the run is complete: its moments and facts, each in its place at once
records/         with `keep_records`: the record of every input (or batch)
aggregate.zarr   the result, moved to its name when it is whole
"""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from probe.corpus.moments import Moments, as_arrays, described, from_arrays
from probe.errors import InputError, RecordError
from probe.record import manifest
from probe.record.folders import _alive, writer_of

FORMAT = "attention-probe corpus"
SCHEMA = 1
_ORDER = (
    *("id", "text", "tokens", "seconds", "passed", "worst", "worst_check", "error"),
    *("count", "mean", "variance", "least", "largest", "input_mean", "quantiles"),
)


class CorpusFolder:
    """Where a corpus run keeps what it has; a context manager that holds the folder against other processes.

    Args:
        folder: the place.
        request: what was asked for, in JSON's types; a run that goes on must ask for the same.
        resume: go on with what is there.

    Raises:
        InputError: something is there that may not be continued, or another process is at it.
        RecordError: the folder cannot be made or read.
    """

    def __init__(self, folder: str | Path, request: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = Path(folder).absolute()
        self.complete = False
        self._facts: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "status": "running",
            "inputs": request["inputs"],
            "request": json.loads(json.dumps(request)),
        }
        if os.path.lexists(self.folder):
            self._take_up(resume)

    def _take_up(self, resume: bool) -> None:
        if self.folder.is_dir() and all(path.name == "corpus.json.partial" for path in self.folder.iterdir()):
            return  # empty, or killed at once
        if not is_corpus(self.folder):
            raise InputError(
                f"{self.folder}: exists and is no corpus of attention-probe; choose another name"
            )
        if not resume:
            raise InputError(
                f"{self.folder}: holds a corpus already; go on with it (resume=True, --resume), or choose another name"
            )
        found = read_facts(self.folder)
        differ = [k for k, x in self._facts["request"].items() if found.get("request", {}).get(k) != x]
        if found.get("schema") != SCHEMA or differ:
            what = ", ".join(differ) or f"schema {found.get('schema')}"
            raise InputError(
                f"{self.folder}: was begun with other {what}; resume with what began it, or choose another name"
            )
        begun = found.get("writer", {})
        me = writer_of()
        if begun.get("host") == me["host"] and begun.get("pid") != me["pid"] and _alive(begun.get("pid")):
            raise InputError(
                f"{self.folder}: process {begun['pid']} is at work on this corpus; wait, or choose another name"
            )
        self.complete = found.get("status") == "complete"

    def __enter__(self) -> "CorpusFolder":
        if not self.complete:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._tell({"writer": writer_of()})
                (self.folder / "parts").mkdir(exist_ok=True)
            except OSError as error:
                raise RecordError(f"{self.folder}: cannot be made: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.complete and self.folder.is_dir():
            self._tell({})  # no longer at work

    def _tell(self, more: Mapping[str, Any]) -> None:
        _replace(self.folder / "corpus.json", json.dumps({**self._facts, **more}, indent=1).encode())

    def record(self, number: int) -> Path:
        """Where the record of an input, or of the batch that begins with it, belongs."""
        folder = self.folder / "records"
        folder.mkdir(exist_ok=True)
        return folder / f"{number + 1:06d}.zarr"

    def write(self, number: int, facts: Mapping[str, Any], moments: Mapping[str, Moments]) -> None:
        """Keep what one input gave; from here on it is done.

        Raises:
            RecordError: it cannot be written.
        """
        buffer = io.BytesIO()
        told = json.dumps({**facts, "towers": described(moments)})
        np.savez(buffer, facts=np.array(told), **as_arrays(moments))  # type: ignore[arg-type]
        try:
            _replace(self._part(number), buffer.getvalue())
        except OSError as error:
            raise RecordError(
                f"{self.folder}: cannot be written: {error.strerror or error}; what was done until now is kept"
            ) from error

    def read(self, number: int) -> tuple[dict[str, Any], dict[str, Moments]] | None:
        """What one input gave: its facts and moments; None if it is not done, or its file is not whole."""
        try:
            with np.load(self._part(number), allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                return facts, from_arrays(facts.pop("towers"), file)
        except (FileNotFoundError, zipfile.BadZipFile, EOFError, KeyError, ValueError):
            return None

    def _part(self, number: int) -> Path:
        return self.folder / "parts" / f"{number + 1:06d}.npz"

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> None:
        """Write the result, say that the run is complete, and drop the parts.

        Raises:
            RecordError: it cannot be written; the parts are kept.
        """
        import zarr

        from probe.record.arrays import write_dataset
        from probe.record.folders import remove, settle

        target, partial = self.folder / "aggregate.zarr", self.folder / "aggregate.zarr.partial"
        try:
            for old in (target, partial):  # of a run that was killed while it finished
                if old.exists():
                    remove(old)
            root = zarr.create_group(partial, zarr_format=3, attributes=dict(attrs))
            for name, dataset in groups.items():
                write_dataset(root, name, dataset)
            settle()
            partial.rename(target)
            report = json.dumps(attrs["report"], indent=1, ensure_ascii=False) + "\n"
            _replace(self.folder / "report.json", report.encode())
            self._tell({"status": "complete", "manifest": manifest(target)})
        except OSError as error:
            raise RecordError(
                f"{target}: cannot be written: {error.strerror or error}; resume to try again"
            ) from error
        self.complete = True
        shutil.rmtree(self.folder / "parts", ignore_errors=True)


def _replace(path: Path, data: bytes) -> None:
    """Put a whole file in its place at once: a kill leaves the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def is_corpus(folder: Path) -> bool:
    """Whether a folder is a corpus run of ours, finished or not."""
    try:
        read_facts(folder)
    except RecordError:
        return False
    return True


def read_facts(folder: Path) -> dict[str, Any]:
    """What corpus.json says.

    Raises:
        RecordError: there is none, or it is not ours.
    """
    path = folder / "corpus.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder}: not a corpus (its corpus.json cannot be read)") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise RecordError(f"{folder}: its corpus.json is not one of attention-probe")
    return facts


def open_result(folder: Path) -> xr.DataTree:
    """The result of a complete run, read lazily.

    Raises:
        RecordError: not a corpus, unfinished, or damaged.
    """
    facts = read_facts(folder)
    if facts.get("schema") != SCHEMA:
        raise RecordError(f"{folder}: got a corpus of schema {facts.get('schema')!r}, expected {SCHEMA}")
    if facts.get("status") != "complete":
        done = len(list(folder.glob("parts/*.npz")))
        raise RecordError(
            f"{folder}: the run did not finish: {done} of {facts.get('inputs', '?')} inputs are done; resume it"
        )
    result = folder / "aggregate.zarr"
    try:
        there = manifest(result) if result.is_dir() else {}
        if there != facts["manifest"] or not (result / "zarr.json").is_file():
            wrong = sorted(set(there.items()) ^ set(facts["manifest"].items()))
            name = wrong[0][0] if wrong else "zarr.json"
            raise RecordError(f"{folder}: damaged: aggregate.zarr/{name} is missing or of another size")
        return _ordered(xr.open_datatree(result, engine="zarr", consolidated=False, chunks=None))
    except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
        raise RecordError(f"{folder}: cannot be read: {' '.join(str(error).split())}") from error


def _ordered(tree: xr.DataTree) -> xr.DataTree:
    """Groups and variables in the order of the schema; a folder lists them in any order."""
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    for path, dataset in groups.items():
        names = sorted(
            map(str, dataset.data_vars), key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n)
        )
        groups[path] = dataset[names]
    first = [path for path in ("/", "/inputs") if path in groups]
    return xr.DataTree.from_dict(
        {path: groups[path] for path in [*first, *(p for p in groups if p not in first)]}
    )
