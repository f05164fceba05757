"""What a model does to its input, operation by operation: a dispatch mode that watches and computes nothing itself.

It stands below autograd and sees every operation of a forward pass, also those that no module stands for; each is carried
out as it was asked for, so outputs are bit-identical.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from probe.taps.hooks import Hooks


@dataclass(frozen=True, eq=False)
class Step:
    """One finished operation: its name ("convolution", "relu_"), its arguments by name with all defaults, its result."""

    name: str
    arguments: dict[str, Any]
    result: Any
    pointwise: bool


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument or a result: itself, or those of a list or tuple."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


class Watch(TorchDispatchMode):
    """Tells `listener` of each operation, after it ran."""

    def __init__(self, listener: Callable[[Step], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listener = listener

    def __enter__(self) -> "Watch":
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry the operation out, then tell of it."""
        given = kwargs or {}
        result = func(*args, **given)
        schema = func._schema.arguments
        named = {a.name: a.default_value for a in schema if a.has_default_value()}
        named |= {a.name: value for a, value in zip(schema, args, strict=False)} | given
        pointwise = torch.Tag.pointwise in func.tags
        self._listener(Step(func.overloadpacket.__name__, named, result, pointwise))
        return result


class Marks:
    """Facts about tensors, for as long as the tensors live."""

    def __init__(self) -> None:
        self._facts: Any = WeakIdKeyDictionary()

    def get(self, tensor: Tensor) -> Any:
        """What was said of this tensor, or None."""
        return self._facts.get(tensor)

    def put(self, tensor: Tensor, fact: Any) -> None:
        """Remember `fact`, or forget what was known (None)."""
        if fact is None:
            self._facts.pop(tensor, None)
        else:
            self._facts[tensor] = fact


class Stack:
    """Which modules of a model are running: hooks on its modules while the context is open.

    Inside a `TransformerEncoderLayer` there are none, because torch leaves its fused path when it sees a hook.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._running: list[str] = []

    @property
    def innermost(self) -> str:
        """Name of the module that is running now; "" for the model itself."""
        return self._running[-1] if self._running else ""

    def __enter__(self) -> "Stack":
        with Hooks() as hooks:
            for name, module in unfused(self._model):
                hooks.before(module, self._begin(name))
                hooks.after(module, self._end, always=True)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()
        self._running = []

    def _begin(self, name: str) -> Callable[..., None]:
        def begin(_module: torch.nn.Module, _args: Any) -> None:
            self._running.append(name)

        return begin

    def _end(self, _module: torch.nn.Module, _args: Any, _output: Any) -> None:
        self._running.pop()


def unfused(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The named modules of a model on which a hook changes nothing."""
    fused: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer)):
            fused.append(name)
        if not any(f in ("", name) or name.startswith(f"{f}.") for f in fused):
            yield name, module
