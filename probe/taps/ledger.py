"""What the taps beside transformers' interface share: stand-ins for `forward`, the numbering of calls, what is padding.

A stand-in is an attribute of the instance, not a hook: PyTorch's encoder layers compute differently once a hook is registered.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from probe import placement
from probe.errors import ModelError
from probe.taps.plan import Plan
from probe.taps.streams import Stream, main_stream

#: What is no padding, by group of positions (`probe.taps.streams`), asked at the time of a call; None without padding.
Validity = Callable[[str], Tensor | None]
#: Given a module's own `forward` and the arguments of a call: makes the call, and gives its result back.
Around = Callable[..., Any]

_GROUPS = {"vision": "patches", "audio": "frames"}


class StandIns:
    """Functions in front of the `forward` of modules, in this thread only, until `remove`."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._placed: list[tuple[torch.nn.Module, Any, Any]] = []

    def place(self, module: torch.nn.Module, around: Around) -> None:
        """Have `around(original, *args, **kwargs)` called in place of the module's `forward`."""
        before = module.__dict__.get("forward")
        original = module.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return original(*args, **kwargs)
            return around(original, *args, **kwargs)

        module.__dict__["forward"] = forward
        self._placed.append((module, before, forward))

    def remove(self) -> None:
        """Put everything back; what someone else put in front meanwhile stays there, and reaches the original."""
        for module, before, mine in reversed(self._placed):
            if module.__dict__.get("forward") is not mine:
                continue
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before
        self._placed = []


class Ledger:
    """The calls of a model's attention modules: their layer numbers, their towers, their padding.

    Args:
        model: the model.
        modules: its attention modules and their names, in the model's order.
        layers: numbers of layers, or patterns of module names; None for all.
        valid: what is no padding: of the positions of the main tower, [B, N], or by group; None without padding.
        stream: tower of the modules that belong to the model's main tower; None for what `stream_of` says.
        towers: names of towers, as `stream_of` says; None for all.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        modules: Sequence[tuple[str, torch.nn.Module]],
        layers: Sequence[int | str] | None,
        valid: Tensor | Validity | None,
        stream: str | None,
        towers: Sequence[str] | None = None,
    ) -> None:
        placement.refuse(model)
        self.plan = Plan(model, modules, layers, towers)
        self._stream = stream
        self._main = _GROUPS.get(stream or "", main_stream(model).queries)
        self._valid = _by_group(valid, self._main)
        self.restart()

    def restart(self) -> None:
        """Forget all calls."""
        self.step = -1
        self._calls: list[str] = []  # of this pass
        self._called: set[str] = set()
        self._recorded: set[int] = set()
        self._heard = 0

    def say(self, valid: Tensor) -> None:
        """What is no padding of the positions of the main tower from now on, [B, N]."""
        self.listen_to(_by_group(valid, self._main))

    def listen_to(self, valid: Validity) -> None:
        """What is no padding from now on, by group of positions."""
        self._valid = valid

    def next_pass(self) -> None:
        """A forward pass of the whole model begins."""
        self.step += 1
        self._calls = []

    def take(self, name: str) -> tuple[int, str] | None:
        """Enter a call.

        Returns:
            The layer's number, and a name for the call (a second call of a module in one pass is `name#2`); None for a layer
            that is not wanted.

        Raises:
            ModelError: a module that has a layer number of its own is called a second time in one pass.
        """
        tower = self.plan.streams[name].name
        again = self._calls.count(name)
        if again and self.plan.numbered(name):
            raise ModelError(f"{name}: called twice in one forward pass; expected one call per layer")
        before = sum(self.plan.streams[other].name == tower for other in self._calls)
        layer = self.plan.number(name, before)
        self._calls.append(name)
        self._called.add(name)
        self._heard += 1
        if not self.plan.wanted(name, layer):
            return None
        self._recorded.add(layer)
        return layer, f"{name}#{again + 1}" if again else name

    def stream(self, name: str) -> Stream:
        """The tower of a module."""
        own = self.plan.streams[name]
        if self._stream is None or own.cross or own.name != "text":
            return own
        group = _GROUPS.get(self._stream, "tokens")
        return Stream(self._stream, group, group)

    def place(self, name: str) -> dict[str, Any]:
        """Tower, positions and pass of a module's call, as `AttentionCall` and `MapCall` name them."""
        stream = self.stream(name)
        return {
            "stream": stream.name,
            "queries": stream.queries,
            "keys": stream.keys,
            "step": max(0, self.step),
        }

    def padding(
        self, name: str, shape: tuple[int, int, int], cross: bool | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """What of a call's queries and keys is no padding, as far as the user said.

        Args:
            name: the module's name.
            shape: batch, queries, keys.
            cross: whether queries and keys are different positions; None for what the module's tower says.

        Raises:
            ModelError: the flags do not fit the call.
        """
        stream = self.stream(name)
        batch, n_queries, n_keys = shape
        queries = _last(self._valid(stream.queries), batch, n_queries, name, stream.queries)
        if cross and stream.keys == stream.queries:
            return queries, None
        keys = self._valid(stream.keys)
        if keys is not None and keys.shape[1] != n_keys:
            raise ModelError(_misfit(keys, batch, n_keys, name, stream.keys))
        return queries, _last(keys, batch, n_keys, name, stream.keys)

    @property
    def unused(self) -> list[str]:
        """Towers that were wanted, and of which nothing was heard."""
        return self.plan.unused(self._called)

    def finish(self) -> None:
        """Check that all was called that had to be.

        Raises:
            ModelError: a module was never called.
            InputError: a layer number never came.
        """
        self.plan.require(self._called, self._recorded, self._heard)


class Face:
    """What all these taps say of themselves."""

    _sites: list[tuple[str, torch.nn.Module]]
    _ledger: Ledger

    @property
    def sites(self) -> list[str]:
        """Names of the modules that are listened to."""
        return [name for name, _ in self._sites]

    @property
    def expected(self) -> int:
        """How many layers a forward pass should give; more if modules are called several times."""
        return self._ledger.plan.expected

    @property
    def unused(self) -> list[str]:
        """Towers of which nothing was heard: the input had nothing for them."""
        return self._ledger.unused


def called(name: str, model: torch.nn.Module) -> str:
    """The name of a module in messages and records; the model itself has none."""
    return name or type(model).__name__


def _by_group(valid: Tensor | Validity | None, main: str) -> Validity:
    if isinstance(valid, Tensor):
        flags = valid.bool()
        return lambda group: flags if group == main else None
    return _unpadded if valid is None else valid


def _unpadded(group: str) -> None:  # noqa: ARG001
    return None


def _last(valid: Tensor | None, batch: int, length: int, name: str, group: str) -> Tensor | None:
    """The flags of the last `length` positions: with a cache, queries are the last of all positions so far."""
    if valid is None or bool(valid.all()):
        return None
    if valid.shape[0] != batch or valid.shape[1] < length:
        raise ModelError(_misfit(valid, batch, length, name, group))
    return valid[:, valid.shape[1] - length :].bool()


def _misfit(valid: Tensor, batch: int, length: int, name: str, group: str) -> str:
    return (
        f"{name}: attention of {length} positions (batch {batch}) does not fit the padding flags {list(valid.shape)} of the "
        f"{group}; give flags for these positions (by group: a function), or choose other layers (layers=…)"
    )
