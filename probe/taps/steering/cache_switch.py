"""Hearing how transformers' caches move samples about: beam search, and the selection and repetition of samples.

While at least one listener is there, three methods of the class `Cache` have a stand-in that does what they do, and then
tells of it. Caches themselves are not touched, so that copies of them are what they would have been.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Told of a cache, and of what its samples became: applied to anything whose first dimension are the samples.
Told = Callable[[Any, Callable[[Tensor], Tensor]], None]


def _chosen(indices: Any) -> Callable[[Tensor], Tensor]:
    at = torch.as_tensor(indices)
    return lambda x: x.index_select(0, at.to(x.device).long().flatten())


def _repeated(times: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.repeat_interleave(int(times), 0)


_MOVES: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "reorder_cache": _chosen,
    "batch_select_indices": _chosen,
    "batch_repeat_interleave": _repeated,
}


class _Switch:
    """The stand-ins on the class, shared by all listeners."""

    def __init__(self) -> None:
        from transformers.cache_utils import Cache

        self.owner: Any = Cache
        self.listeners: list[Told] = []
        self.before = {name: self.owner.__dict__[name] for name in _MOVES if name in self.owner.__dict__}
        self.mine = {name: self._stand_in(name, method) for name, method in self.before.items()}
        for name, method in self.mine.items():
            setattr(self.owner, name, method)

    def _stand_in(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def moved(cache: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(cache, *args, **kwargs)
            become = _MOVES[name](*args, **kwargs) if args else _MOVES[name](*kwargs.values())
            for listener in tuple(self.listeners):
                listener(cache, become)
            return result

        return moved

    def remove(self) -> None:
        for name, method in self.mine.items():
            if (
                self.owner.__dict__.get(name) is method
            ):  # else someone wrapped it meanwhile; alone it only passes calls on
                setattr(self.owner, name, self.before[name])


_switches: list[_Switch] = []
_lock = threading.RLock()


def listen(told: Told) -> None:
    """Have `told` called whenever a cache has moved its samples."""
    with _lock:
        if not _switches:
            _switches.append(_Switch())
        _switches[0].listeners.append(told)


def unlisten(told: Told) -> None:
    """Stop calling `told`; with the last listener the class is as it was."""
    with _lock:
        _switches[0].listeners.remove(told)
        if not _switches[0].listeners:
            _switches[0].remove()
            _switches.clear()
