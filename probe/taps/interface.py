"""Listening to a transformers `AttentionInterface` object; model, config and masks stay as they are.

All routed modeling files ask `ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)` for their attention
function. While at least one listener or editor is there, an instance attribute of that name stands in front of the
method; what it returns calls the function that would have been returned, with exactly the same arguments, and
gives its result back: untouched, unless an editor is there. Under a `LazyMask` it calls that function on blocks of query rows.

Order: listeners hear the function's own result first, all of them; then the editors change it, in the order in which they came.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probe.taps.longmask.lazy import LazyMask, attend

_ARGUMENTS = ("query", "key", "value", "attention_mask")


@dataclass(frozen=True, eq=False)
class Observed:
    """One finished call of an attention function: the module, the function, all arguments, the result."""

    module: torch.nn.Module
    implementation: str | None
    function: Callable[..., Any]
    eager: Callable[..., Any]
    arguments: dict[str, Any]
    output: Tensor


Listener = Callable[[Observed], None]
#: Gives the output that takes the place of the one it is told of, or None to leave it.
Editor = Callable[[Observed], Tensor | None]


class _Switch:
    """The stand-in on one interface object, shared by all taps that listen to it."""

    def __init__(self, interface: Any) -> None:
        self.interface = interface
        self.listeners: list[Listener] = []
        self.editors: list[Editor] = []
        self.before = interface.__dict__.get("get_interface")
        self.original = interface.get_interface
        interface.get_interface = self.get_interface
        self.mine = interface.__dict__["get_interface"]

    def get_interface(
        self, attn_implementation: str | None, default: Callable[..., Any]
    ) -> Callable[..., Any]:
        function = self.original(attn_implementation, default)

        def relay(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            arguments = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            if isinstance(arguments.get("attention_mask"), LazyMask):
                result: Any = attend(function, module, arguments, args[len(_ARGUMENTS) :])
            else:
                result = function(module, *args, **kwargs)
            seen = Observed(module, attn_implementation, function, default, arguments, result[0])
            for listener in tuple(self.listeners):
                listener(seen)
            for editor in tuple(self.editors):
                changed = editor(seen)
                if changed is not None:
                    seen, result = replace(seen, output=changed), (changed, *result[1:])
            return result

        return relay

    def remove(self) -> None:
        if self.interface.__dict__.get("get_interface") is not self.mine:
            return  # someone wrapped the stand-in meanwhile; alone it only passes calls on
        if self.before is None:
            del self.interface.get_interface
        else:
            self.interface.get_interface = self.before


_switches: dict[int, _Switch] = {}
_lock = threading.RLock()


def wrapped(interface: Any) -> bool:
    """Whether someone else stands in front of `interface`'s method."""
    with _lock:
        switch = _switches.get(id(interface))
        first = interface.__dict__.get("get_interface") if switch is None else switch.before
        return first is not None


def listen(interface: Any, listener: Listener) -> None:
    """Have `listener` told of every call that goes through `interface` from now on."""
    with _lock:
        _stand_in(interface).listeners.append(listener)


def unlisten(interface: Any, listener: Listener) -> None:
    """Stop telling `listener`; with the last listener or editor the interface object is as it was."""
    with _lock:
        _switches[id(interface)].listeners.remove(listener)
        _leave(interface)


def edit(interface: Any, editor: Editor) -> None:
    """Have `editor` asked for the output of every call that goes through `interface` from now on."""
    with _lock:
        _stand_in(interface).editors.append(editor)


def unedit(interface: Any, editor: Editor) -> None:
    """Stop asking `editor`; with the last listener or editor the interface object is as it was."""
    with _lock:
        _switches[id(interface)].editors.remove(editor)
        _leave(interface)


def _stand_in(interface: Any) -> _Switch:
    if id(interface) not in _switches:
        _switches[id(interface)] = _Switch(interface)
    return _switches[id(interface)]


def _leave(interface: Any) -> None:
    switch = _switches[id(interface)]
    if not (switch.listeners or switch.editors):
        switch.remove()
        del _switches[id(interface)]
