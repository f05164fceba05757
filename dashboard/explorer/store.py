"""The only state of the server: the records of one folder, opened lazily, and a bounded cache of small results."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from probe.dashboard.explorer.entry import Entry, entry_of
from probe.dashboard.explorer.jobs import Jobs
from probe.errors import InputError, RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    import xarray as xr

T = TypeVar("T")

DEPTH = 3
"""Folders below the explorer's own in which records are looked for."""
MOST = 2000
"""Records that are listed."""
OPENED = 8
"""Records that stay opened; an opened record holds metadata, not values."""
CACHE = 192 << 20
"""Bytes of results that are kept, the least recently used going first."""
FRESH = 2.0
"""Seconds for which a listing stands."""


class Store:
    """Records of a folder by name, and what was computed of them.

    Safe for several threads. Nothing outside the folder can be named, and nothing is ever unpickled.
    """

    def __init__(self, folder: str | Path, cache: int = CACHE) -> None:
        """Look into a folder.

        Args:
            folder: where the records are; a record's own folder shows that record alone.
            cache: bytes of results to keep.

        Raises:
            InputError: no such folder.
        """
        from probe.record import is_record

        place = Path(folder).resolve()
        if not place.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder that holds your records")
        self.only = place.name if is_record(place) else None
        self.folder = place.parent if self.only else place
        self.jobs = Jobs()
        self._results: _Bounded = _Bounded(cache)
        self._trees: OrderedDict[tuple[str, int], xr.DataTree] = OrderedDict()
        self._lock = threading.RLock()
        self._listed: tuple[float, dict[str, Entry]] = (-FRESH, {})

    def records(self) -> dict[str, Entry]:
        """What is there by name, newest first: attributes only, no values are read."""
        with self._lock:
            if time.monotonic() - self._listed[0] > FRESH:
                found = [entry_of(self.folder, path) for path in self._places()]
                found.sort(key=lambda entry: (entry.created, entry.name), reverse=True)
                self._listed = (time.monotonic(), {entry.name: entry for entry in found})
            return self._listed[1]

    def entry(self, name: str) -> Entry:
        """One record's line of the list.

        Raises:
            InputError: no record of that name in the folder.
        """
        known = self.records()
        if name not in known:
            near = ", ".join(list(known)[:5]) or "none"
            raise InputError(f"no record {name!r} in this folder; there are: {near}")
        return known[name]

    def open(self, name: str) -> xr.DataTree:
        """A record, opened lazily and kept open.

        Raises:
            InputError: no record of that name in the folder.
            RecordError: unfinished, damaged, or of another schema.
        """
        key = (name, _stamp(self._sound(name)))
        with self._lock:
            if key in self._trees:
                self._trees.move_to_end(key)
                return self._trees[key]
        tree = self.fresh(name)
        with self._lock:
            self._trees[key] = tree
            while len(self._trees) > OPENED:
                self._trees.popitem(last=False)
        return tree

    def fresh(self, name: str) -> xr.DataTree:
        """A record opened anew, for work that reads whole variables: what it reads is let go with it.

        Raises:
            InputError: no record of that name in the folder.
            RecordError: unfinished, damaged, or of another schema.
        """
        from probe.record import open_record

        return open_record(self._sound(name))

    def _sound(self, name: str) -> Path:
        entry = self.entry(name)
        if entry.problem:
            raise RecordError(f"{name}: {entry.problem}")
        return entry.path

    def remember(self, name: str, key: Hashable, make: Callable[[xr.DataTree], T]) -> T:
        """What `make` gives for a record, from the cache where it was made before.

        Args:
            name: the record.
            key: tells this result from others of the record.
            make: computes it of a freshly opened record; its result has `nbytes`.

        Raises:
            InputError: no record of that name in the folder.
            RecordError: the record cannot be read.
        """
        return self.hold(name, key, lambda: make(self.fresh(name)))

    def hold(self, name: str, key: Hashable, make: Callable[[], T]) -> T:
        """As `remember`, of what `make` gets for itself.

        Raises:
            InputError: no record of that name in the folder.
        """
        return self._results.get((name, _stamp(self.entry(name).path), key), make)

    def cached(self) -> int:
        """Bytes of results in the cache."""
        return self._results.size

    def _places(self) -> Iterator[Path]:
        from probe.record import is_record

        if self.only:
            yield self.folder / self.only
            return
        count = 0
        for here, folders, _ in os.walk(self.folder):
            deep = len(Path(here).relative_to(self.folder).parts)
            kept = []
            for name in sorted(folders):
                path = Path(here) / name
                if path.is_symlink() and not path.resolve().is_relative_to(self.folder):
                    continue
                if is_record(path):
                    count += 1
                    if count > MOST:
                        return
                    yield path
                elif deep + 1 < DEPTH and not name.startswith("."):
                    kept.append(name)
            folders[:] = kept


class _Bounded:
    """The most recently used values whose sizes fit a limit; each is made once, also when several ask at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]  # type: ignore[return-value]
            lock = self._making.setdefault(key, threading.Lock())
        try:
            with lock:
                with self._lock:
                    if key in self._kept:
                        return self._kept[key]  # type: ignore[return-value]
                value = make()
                self._keep(key, value)
                return value
        finally:
            with self._lock:
                self._making.pop(key, None)

    def _keep(self, key: Hashable, value: object) -> None:
        size = _size(value)
        if size > self.limit:
            return
        with self._lock:
            self._kept[key] = value
            self.size += size
            while self.size > self.limit:
                _, gone = self._kept.popitem(last=False)
                self.size -= _size(gone)


def _size(value: object) -> int:
    return int(getattr(value, "nbytes", 0)) + 4096


def _stamp(path: Path) -> int:
    """When a record was finished: one captured anew under the same name is another."""
    try:
        return (path / "zarr.json").stat().st_mtime_ns
    except OSError as error:
        raise RecordError(f"{path.name}: it is gone") from error
