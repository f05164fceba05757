"""What a model does to its input, operation by operation: a dispatch mode that watches and computes nothing itself.

It stands below autograd and sees every operation of the forward pass, also those that no module stands for; each is carried out as
it was asked for, so outputs are bit-identical.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

Listener = Callable[[str, tuple[Any, ...], Mapping[str, Any], Any, Any], None]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument or a result: itself, or those of a list or tuple."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


class Watch(TorchDispatchMode):
    """Tells `listener` of each operation, after it ran: (name, arguments, keyword arguments, result, the operation)."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry the operation out, then tell of it."""
        given = kwargs or {}
        result = func(*args, **given)
        self._listener(func.overloadpacket.__name__, args, given, result, func)
        return result


class Marks:
    """Facts about tensors that live as long as the tensors."""

    def __init__(self) -> None:
        self._facts: Any = WeakIdKeyDictionary()

    def __getitem__(self, tensor: Tensor) -> Any:
        return self._facts.get(tensor)

    def __setitem__(self, tensor: Tensor, fact: Any) -> None:
        self._facts[tensor] = fact

    def __contains__(self, tensor: object) -> bool:
        return isinstance(tensor, Tensor) and tensor in self._facts


class Stack:
    """Which modules of a model are running: hooks on all of them while the context is open."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._running: list[str] = []
        self._handles: list[Any] = []

    @property
    def innermost(self) -> str:
        """Name of the module that is running now; "" for the model itself."""
        return self._running[-1] if self._running else ""

    def __enter__(self) -> "Stack":
        try:
            for name, module in self._model.named_modules():
                self._handles.append(module.register_forward_pre_hook(self._begin(name)))
                self._handles.append(module.register_forward_hook(self._end))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._running = [], []

    def _begin(self, name: str) -> Callable[..., None]:
        def begin(_module: torch.nn.Module, _args: Any) -> None:
            self._running.append(name)

        return begin

    def _end(self, _module: torch.nn.Module, _args: Any, _output: Any) -> None:
        if self._running:
            self._running.pop()
