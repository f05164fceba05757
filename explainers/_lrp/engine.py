"""The engine: while a model runs, every function that meets relevance-carrying tensors becomes a node with a rule.

It is a `TorchFunctionMode`: PyTorch hands it each function of this thread's forward pass. So the model itself gets no
hook, no patch and no copy; residual sums, functional activations and in-place operations are seen like layers; two
models, or two threads, do not meet. What has no rule is refused by name, before any relevance flows.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from probe.errors import ModelError
from probe.explainers._lrp.composites import Composite, Place
from probe.explainers._lrp.nodes import Affine, Constant, Layer, Proportional, Through, node
from probe.explainers._lrp.rules import Pass
from probe.explainers._lrp.structure import carries, nodes_between, only_copies

ALIASES = {
    "iadd": "add", "radd": "add", "isub": "sub", "subtract": "sub", "imul": "mul", "rmul": "mul", "multiply": "mul",
    "itruediv": "div", "truediv": "div", "true_divide": "div", "divide": "div", "mm": "matmul", "bmm": "matmul",
    "ipow": "pow", "clip": "clamp", "negative": "neg", "absolute": "abs",
}  # fmt: skip
Handler = Callable[["Engine", str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Engine(TorchFunctionMode):
    """One pass of one model. After it, `settle` gives every layer its rule, and autograd does the rest."""

    def __init__(
        self, model: nn.Module, composite: Composite, device: torch.device, ids: Tensor | None
    ) -> None:
        super().__init__()
        from probe.explainers._lrp.operations import HANDLERS

        self.composite = composite
        self.handlers: dict[str, Handler] = HANDLERS
        self.taken = torch.zeros(4, dtype=torch.float64, device=device, requires_grad=True)
        self.layers: list[Layer] = []
        self.ids = ids  # token ids whose first embedding is the input that relevance ends at
        self.leaf: Tensor | None = None
        self._names = {id(module): name for name, module in model.named_modules()}
        self._own = {id(value) for value in (*model.parameters(), *model.buffers())}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch in place of `func`."""
        del types
        kwargs = kwargs or {}
        raw = getattr(func, "__name__", str(func))
        name = raw.strip("_")
        if name == "set_grad_enabled":
            return func(*args, **kwargs)
        if not any(carries(value) for value in pytree.tree_leaves((args, kwargs))):
            with torch.no_grad():  # so that nothing but the input has a place in the graph
                found = func(*args, **kwargs)
            return self._start(found) if name == "embedding" and self._is_input(args, kwargs) else found
        with torch.enable_grad():
            base = ALIASES.get(name, name)
            handler = self.handlers.get(base, copies)
            if in_place(raw):
                self._check_own(args[0], name)
                if handler is not copies:
                    return self._in_place(handler, base, args, kwargs)
            return handler(self, base, func, args, kwargs)

    def _in_place(self, handler: Handler, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        target, *rest = args
        func = getattr(torch.Tensor, name, None) or getattr(nn.functional, name)
        return self.overwrite(target, handler(self, name, func, (target.clone(), *rest), kwargs))

    def overwrite(self, target: Tensor, found: Tensor) -> Tensor:
        """Give a tensor new values in place, as the model does it: all its aliases change with it."""
        return target.copy_(found)

    def constant(self, value: Tensor | float, like: Tensor | None = None) -> Tensor:
        """A constant of the model as an entry of the account."""
        if not isinstance(value, Tensor):
            value = (
                torch.tensor(value, dtype=like.dtype, device=like.device)
                if like is not None
                else torch.tensor(value)
            )
        return node(Constant, self.taken, value)

    def through(self, x: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
        """A node that leaves relevance where it is; in place where `value` works in place."""
        copy = x.detach().clone()
        with torch.no_grad():
            found = value(copy)
        result: Tensor = node(Through, x, [found])
        return self.overwrite(x, result) if found is copy else result

    def proportional(self, op: Callable[..., Tensor], *xs: Tensor) -> Tensor:
        """A node with the ε-split."""
        return node(Proportional, op, self.taken, self.composite.stabiliser, *xs)

    def affine(self, x: Tensor, value: Callable[[Tensor], Tensor], layer: Layer) -> Tensor:
        """A layer with weights, noted so that it gets its rule."""
        self.layers.append(layer)
        return node(Affine, x, self.taken, layer, value)

    def reads_input(self, x: Tensor) -> bool:
        """Whether nothing but copying and padding lies between the input and this tensor."""
        return all(
            only_copies(step) or getattr(type(step), "_forward_cls", None) is Constant
            for step in nodes_between([x.grad_fn], [])
        )

    def module(self) -> tuple[str, str]:
        """Name and class of the module that is running: the nearest one on the stack."""
        frame = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in self._names:
                return self._names[id(owner)], type(owner).__name__
            frame = frame.f_back  # type: ignore[assignment]
        return "", "model"

    def refuse(self, what: str, advice: str = "") -> ModelError:
        """The error for a function without a rule."""
        name, kind = self.module()
        where = f"{name} ({kind})" if name else kind
        advice = (
            advice
            or "explain this model by a gradient method, or write the layer with functions that have one"
        )
        return ModelError(f"LRP has no rule for {what}, met in {where}: {advice}")

    def settle(self) -> None:
        """Give every layer its rule.

        Raises:
            ModelError: Pass was chosen for a layer that changes the shape.
        """
        count = max((layer.index for layer in self.layers), default=0)
        for layer in self.layers:
            place = Place(layer.name, layer.kind, layer.index / max(count, 1), layer.reads_input)
            layer.rule = self.composite.rule(place)
            if isinstance(layer.rule, Pass) and not layer.same_shape:
                raise ModelError(f"the rule Pass was chosen for {layer.name}, whose output has another shape")

    def _check_own(self, target: Any, name: str) -> None:
        if id(target) in self._own:
            raise self.refuse(
                f"{name} into a parameter or buffer of the model", "it would keep the input's traces"
            )

    def _is_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        ids = args[0] if args else kwargs.get("input")
        return (
            self.ids is not None and self.leaf is None and isinstance(ids, Tensor)
            and ids.shape == self.ids.shape and torch.equal(ids, self.ids)
        )  # fmt: skip

    def _start(self, found: Tensor) -> Tensor:
        self.leaf = found.detach().requires_grad_()
        with torch.enable_grad():
            return self.leaf.clone()


IN_PLACE = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"})


def in_place(raw: str) -> bool:
    """Whether a function of this name changes its first argument."""
    return raw in IN_PLACE or (raw[-1] == "_" and raw[:2] != "__")


def copies(
    engine: Engine, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A function without a handler: taken as it is if it only copies, selects or rearranges, else refused."""
    flat, spec = pytree.tree_flatten((args, kwargs))
    before = [value.grad_fn for value in flat if carries(value)]
    for place, value in enumerate(flat):
        if isinstance(value, Tensor) and value.is_floating_point() and not carries(value):
            entered = engine.constant(value)
            changed = place == 0 and in_place(func.__name__)
            flat[place] = value.copy_(entered) if changed else entered
    args, kwargs = pytree.tree_unflatten(flat, spec)
    found = func(*args, **kwargs)
    made = [value.grad_fn for value in (*pytree.tree_leaves(found), args[0]) if carries(value)]
    for step in nodes_between(made, before):
        if not only_copies(step) and getattr(type(step), "_forward_cls", None) is not Constant:
            raise engine.refuse(name)
    return found
