"""The tap for attention-MIL: the weights that a module of the user's model gives to the instances of a bag.

The module is read by a forward hook, the softmax off the operations that follow it (see `_lineage`): what is recorded is
what the model itself normalised, after any temperature or mask, along the dimension that it normalised.
"""

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from probe import placement
from probe.errors import InputError, ModelError
from probe.taps.hooks import Hooks
from probe.taps.lineage import Marks, Step, Watch, tensors, unfused


class MilTap:
    """Reads the attention of one forward pass over bags of one size while the context is open.

    Args:
        model: any attention-MIL model.
        attention: name of the module whose output is the attention: scores before the softmax, or weights after it. Of a
            tuple, its first tensor.
        bags: how many bags there are, B.
        instances: how many instances each has, N.
        features: name of the module whose output is the instances' features, or None.

    Raises:
        InputError: no module is called so.
        ModelError: the model cannot be heard (see `placement.refuse`).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        attention: str,
        *,
        bags: int,
        instances: int,
        features: str | None = None,
    ) -> None:
        placement.refuse(model)
        modules = dict(unfused(model))
        for option, name in (("attention", attention), ("features", features)):
            if name is not None and (name not in modules or not name):
                names = [n for n in modules if n]
                raise InputError(f"{option}: no module is called {name!r}; there are {', '.join(names)}")
        self._attention, self._features = attention, features
        self._bags, self._instances = bags, instances
        self._modules = modules
        self._from_tapped = Marks()
        self._tapped: list[Tensor] = []
        self._featured: list[Any] = []
        self._normalised: tuple[Tensor, Tensor, int] | None = None

    def __enter__(self) -> "MilTap":
        with Hooks() as hooks:
            hooks.after(self._modules[self._attention], self._hear)
            if self._features is not None:
                module = self._modules[self._features]
                hooks.after(module, lambda _m, _a, out: self._featured.append(_first(out)))
            hooks.enter_context(Watch(self._follow))
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _hear(self, _module: torch.nn.Module, _args: Any, output: Any) -> None:
        tensor = _first(output)
        if tensor is None or not tensor.is_floating_point():
            raise InputError(
                f"{self._attention}: its output is {type(output).__name__}, expected scores or weights of instances"
            )
        self._tapped.append(tensor.detach().clone())
        self._from_tapped.put(tensor, True)

    def _follow(self, step: Step) -> None:
        parts = [t for t in tensors(list(step.arguments.values())) if self._from_tapped.get(t)]
        if not parts:
            return
        for result in tensors(step.result):
            self._from_tapped.put(result, True)
        if step.name != "_softmax" or self._normalised is not None:
            return
        scores, weights, dim = step.arguments["self"], step.result, int(step.arguments["dim"])
        if weights.numel() == self._tapped[-1].numel() and weights.shape[dim] == self._instances:
            self._normalised = (scores.detach().clone(), weights.detach().clone(), dim % weights.ndim)

    def weights(self) -> tuple[Tensor, Tensor | None, str]:
        """What each branch gives to each instance.

        Returns:
            Weights [B, K, N] that sum to one over N; the scores that the model's softmax turned into them, [B, K, N] (None
            if the tapped module gives weights); and how the weights were got, in words.

        Raises:
            InputError: the module was not called once for the whole bag, or gave something else.
            ModelError: NaN, or a softmax whose weights do not sum to one.
        """
        if len(self._tapped) != 1:
            raise InputError(
                f"{self._attention}: called {len(self._tapped)} times, expected one call for the whole bag; name another module"
            )
        tapped = self._tapped[0]
        if bool(tapped.isnan().any()):
            raise ModelError(
                f"{self._attention}: NaN in its output; check the bag's features and the model's weights"
            )
        dim = self._sums_to_one(tapped)
        if dim is not None:
            words = f"{self._attention} gives weights that sum to one over the instances"
            return self._branches(tapped, dim), None, words
        if self._normalised is None:
            raise InputError(
                f"{self._attention}: its output {list(tapped.shape)} neither sums to one over the {self._instances} instances "
                "nor goes through a softmax over them; name the module of the scores, or the one that gives the weights"
            )
        scores, weights, dim = self._normalised
        if self._sums_to_one(weights) is None:
            raise ModelError(
                f"{self._attention}: the weights of the model's softmax do not sum to one (every instance is masked?)"
            )
        words = f"the model's own softmax over the scores of {self._attention}"
        return self._branches(weights, dim), self._branches(scores, dim), words

    def _sums_to_one(self, x: Tensor) -> int | None:
        """The dimension of the instances along which all values sum to one, if there is one."""
        if not bool((x >= 0).all()):
            return None
        for dim in reversed(range(x.ndim)):
            if x.shape[dim] == self._instances:
                off = (x.double().sum(dim) - 1).abs()
                if bool((off <= tolerance(x.dtype, self._instances)).all()):
                    return dim
        return None

    def _branches(self, x: Tensor, dim: int) -> Tensor:
        """[B, K, N], from any order of dimensions with the bags first."""
        last = x.movedim(dim, -1)
        if self._bags > 1 and (last.ndim < 2 or last.shape[0] != self._bags):
            raise InputError(
                f"{self._attention}: its output {list(x.shape)} does not begin with the {self._bags} bags; "
                "give one bag at a time"
            )
        return last.reshape(self._bags, -1, self._instances)

    def features(self) -> Tensor | None:
        """The instances' features, [B, N, F], if they were asked for.

        Raises:
            InputError: the module gave something else.
        """
        if self._features is None:
            return None
        found = self._featured[0] if len(self._featured) == 1 else None
        places = self._bags * self._instances
        shapes = ((self._bags, self._instances), (places,))
        if found is None or not any(
            tuple(found.shape[: len(s)]) == s and found.ndim > len(s) for s in shapes
        ):
            got = f"{len(self._featured)} outputs" if found is None else f"{list(found.shape)}"
            raise InputError(
                f"{self._features}: gave {got}, expected features of {self._instances} instances, [N, F]"
            )
        kept: Tensor = found.detach().reshape(self._bags, self._instances, -1).clone()
        return kept


def tolerance(dtype: torch.dtype, instances: int) -> float:
    """How far from one a sum of so many weights may be: each is rounded once to its dtype, their sizes add up to one."""
    return float(torch.finfo(dtype).eps) * (4 + math.sqrt(instances))


def _first(output: Any) -> Tensor | None:
    return next(iter(tensors(output)), None)
