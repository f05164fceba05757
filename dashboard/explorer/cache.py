"""A cache with a stated size: the least recently used goes first. Safe under threads; one maker at a time for each key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Values by key, up to a number of bytes.

    Args:
        limit: bytes that all values may take together; what is larger by itself is given out and not held.
        size: bytes of a value.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit, self.held = limit, 0
        self._size = size
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()
        self._making: dict[Hashable, tuple[Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key; made if it is not there, by one thread while the others that want it wait."""
        found = self._find(key)
        if found is not None:
            return found[0]
        with self._lock:
            lock, waiting = self._making.get(key, (Lock(), 0))
            self._making[key] = lock, waiting + 1
        try:
            with lock:
                found = self._find(key)
                return found[0] if found is not None else self._put(key, make())
        finally:
            with self._lock:
                lock, waiting = self._making.pop(key)
                if waiting > 1:
                    self._making[key] = lock, waiting - 1

    def _find(self, key: Hashable) -> tuple[Value, int] | None:
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
            return found

    def _put(self, key: Hashable, value: Value) -> Value:
        size = self._size(value)
        with self._lock:
            if size <= self.limit:
                self._values[key] = value, size
                self.held += size
                while self.held > self.limit:
                    _, (_, gone) = self._values.popitem(last=False)
                    self.held -= gone
        return value
