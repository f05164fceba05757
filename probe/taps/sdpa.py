"""The tap for models that call `torch.nn.functional.scaled_dot_product_attention` themselves (timm and many others).

While such a module computes, a torch function mode sees its calls, whatever the way the function was imported. The mode stands
only around these modules: with one around the whole model, `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` would leave
their fast path, and the outputs would move.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probe.call import AttentionCall
from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.hf import sites as routed
from probe.taps.ledger import Face, Ledger, StandIns, Validity, called
from probe.taps.rules.proof import Proofs, attend, read_mask, refuse_not_finite

_NAME = "scaled_dot_product_attention"
_FUNCTION = functional.scaled_dot_product_attention
#: How deep helper functions and methods are followed from a module's `forward`.
_DEPTH = 4
_FAST = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer)


@dataclass(frozen=True)
class Heard:
    """One call of the function: its arguments by name, and its result."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


class Ear(TorchFunctionMode):
    """Carries every function out as it was called, and tells of those that are attention."""

    def __init__(self, tell: Callable[[Heard, Tensor], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`; the mode is off meanwhile."""
        result = func(*args, **(kwargs or {}))
        if func is _FUNCTION:
            self._tell(Heard(*args, **(kwargs or {})), result)
        return result


class SdpaTap(Face):
    """Listens to the attention that a model's own modules compute with PyTorch's function, in this thread, while it is open.

    Args:
        model: the model.
        receive: called with each `AttentionCall`, right after it was computed.
        query_valid: False where a position is padding, [B, N], or a function that tells it of each group of positions; None
            without padding.
        layers: numbers of calls in their order, or patterns of module names; None for all.
        towers: names of towers; None for all.
        stream: tower of the record for the modules of the main tower; None for what `probe.taps.streams` says.

    Calls are numbered as they come; a second call of one module in a pass is the next layer, named `module#2`. On a clean exit,
    a module that should have been called and was not raises a ModelError.

    Raises:
        ModelError: no module calls the function, or a part is compiled.
        InputError: `layers` or `towers` names nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        receive: Callable[[AttentionCall], None],
        *,
        query_valid: Tensor | Validity | None = None,
        layers: Sequence[int | str] | None = None,
        towers: Sequence[str] | None = None,
        stream: str | None = None,
    ) -> None:
        self._model = model
        self._sites = _sites(model)
        if not self._sites:
            raise ModelError(
                f"{type(model).__name__}: no module calls torch.nn.functional.{_NAME}; expected a model that does (timm, …)"
            )
        for name, module in self._sites:
            inner = [type(m).__name__ for m in module.modules() if isinstance(m, _FAST)]
            if inner:
                raise ModelError(
                    f"{name}: calls {_NAME} and holds a {inner[0]}, whose outputs would move while it is listened to; "
                    "not supported"
                )
        self._ledger = Ledger(model, self._sites, layers, query_valid, stream, towers)
        self._receive = receive
        self._proofs = Proofs()
        self._inside: list[tuple[str, torch.nn.Module]] = []

    @classmethod
    def finds(cls, model: torch.nn.Module) -> list[str]:
        """Names of the modules that this tap could hear; none if the model is not its business."""
        return [name for name, _ in _sites(model)]

    def __enter__(self) -> "SdpaTap":
        self._ledger.restart()
        self._inside = []
        self._stand_ins = StandIns()
        for name, module in self._sites:
            self._stand_ins.place(module, self._around(name, module))
        self._stand_ins.place(self._model, self._whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stand_ins.remove()
        if kind is None:
            self._ledger.finish()

    def _whole(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._ledger.next_pass()
        return original(*args, **kwargs)

    def _around(self, name: str, module: torch.nn.Module) -> Callable[..., Any]:
        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._inside.append((name, module))
            try:
                if len(self._inside) > 1:  # one mode is enough; two would hear each call twice
                    return original(*args, **kwargs)
                with Ear(self._hear):
                    return original(*args, **kwargs)
            finally:
                self._inside.pop()

        return around

    def _hear(self, heard: Heard, output: Tensor) -> None:
        site, module = self._inside[-1]
        taken = self._ledger.take(site)
        if taken is None:
            return
        layer, name = taken
        with torch.no_grad():
            spec, visible = self._rules(heard, site, name)
            self._receive(
                AttentionCall(
                    name=name,
                    module=module,
                    layer=layer,
                    q=heard.query,
                    k=heard.key,
                    v=heard.value,
                    output=output.transpose(1, 2),
                    spec=spec,
                    mask=visible,
                    arguments={"scaling": spec.scale, "dropout": 0.0, "is_causal": bool(heard.is_causal)},
                    backend="sdpa",
                    eager=attend,
                    **self._ledger.place(site),
                )
            )

    def _rules(self, heard: Heard, site: str, name: str) -> tuple[ScoreSpec, Tensor | None]:
        q, k = heard.query, heard.key
        _refuse(heard, name)
        n_queries, n_keys = q.shape[2], k.shape[2]
        scale = q.shape[3] ** -0.5 if heard.scale is None else float(heard.scale)
        queries, keys = self._ledger.padding(site, (q.shape[0], n_queries, n_keys))
        queries, keys = (None if x is None else x.to(q.device) for x in (queries, keys))
        spec = ScoreSpec(scale=scale, query_valid=queries, key_valid=keys)
        refuse_not_finite(q, queries, name, "queries")
        refuse_not_finite(k, keys, name, "keys")
        if heard.attn_mask is not None:
            visible = read_mask(heard.attn_mask, q, k, scale, name)
            return self._proofs.derive(spec, visible, name, heard.attn_mask), visible
        if keys is not None:
            raise ModelError(
                f"{name}: the input is padded, but {_NAME} got no mask and attends to padding; give one sample at a time"
            )
        if heard.is_causal and n_queries > n_keys:
            raise ModelError(
                f"{name}: causal attention of {n_queries} queries to {n_keys} keys; not supported"
            )
        if heard.is_causal:  # PyTorch counts from the first key, whatever the number of keys
            return ScoreSpec(scale=scale, causal=True, query_valid=queries), None
        return spec, None


def _refuse(heard: Heard, name: str) -> None:
    q, k, v = heard.query, heard.key, heard.value
    found = None
    if any(x.is_nested for x in (q, k, v)):
        found = "nested tensors; give a padded batch and its mask"
    elif q.ndim != 4:
        found = f"queries of shape {list(q.shape)}, expected [batch, heads, positions, size]"
    elif k.shape[:2] != v.shape[:2] or k.shape[0] != q.shape[0] or q.shape[1] % k.shape[1]:
        found = (
            f"keys {list(k.shape)} and values {list(v.shape)} that are broadcast to queries {list(q.shape)}"
        )
    elif heard.dropout_p:
        found = f"dropout {heard.dropout_p} is active; call model.eval() first"
    if found is not None:
        raise ModelError(f"{name}: {_NAME} got {found}")


def _sites(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Modules whose own code calls the function, but for those that other taps hear."""
    elsewhere = {id(site.module) for site in routed(model)}
    found = []
    for name, module in model.named_modules():
        home = type(module).__module__
        if id(module) in elsewhere or home == "torch" or home.startswith("torch."):
            continue
        config = getattr(module, "config", None)
        backend = getattr(config, "_attn_implementation", "sdpa")
        if getattr(config, "alibi", False):  # its mask is a bias: a matter for the slow route
            continue
        forward = inspect.unwrap(type(module).forward)
        if backend == "sdpa" and isinstance(forward, FunctionType) and _calls(forward, type(module), _DEPTH):
            found.append((called(name, model), module))
    return found


def _calls(function: FunctionType, owner: type, depth: int) -> bool:
    """Whether a function's code, or a helper or method that it names, names attention."""
    names = set(_names(function.__code__))
    given = function.__globals__
    if _NAME in names or any(given.get(name) is _FUNCTION for name in names):
        return True
    if depth == 0:
        return False
    for name in names - {"forward"}:
        named: Any = getattr(owner, name, None) or given.get(name)
        helper = inspect.unwrap(named)
        if not isinstance(helper, FunctionType) or helper is function:
            continue
        if not str(helper.__module__).startswith("torch") and _calls(helper, owner, depth - 1):
            return True
    return False


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
