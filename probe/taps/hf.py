"""The tap for Hugging Face transformers: all modules that route attention through `ALL_ATTENTION_FUNCTIONS`.

The model, its config, its masks and its backend stay untouched (see `_switch`); outputs are those of the
user's backend. Where a verified architecture would make a dense mask for a long input, it gets the same mask row by
row (see `_mask_switch`).
"""

import fnmatch
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from probe.call import AttentionCall
from probe.errors import InputError, ModelError
from probe.taps._mask_switch import lend, owner_of, take_back
from probe.taps._switch import Observed, listen, unlisten, wrapped
from probe.taps.rules import Rules, backend_of


@dataclass(frozen=True, eq=False)
class Site:
    """A module whose attention can be listened to."""

    name: str
    module: torch.nn.Module
    interface: Any


def sites(model: torch.nn.Module) -> list[Site]:
    """The modules of `model` that route attention through transformers' interface, in the model's order."""
    found = []
    for name, module in model.named_modules():
        forward = inspect.unwrap(type(module).forward)
        names = getattr(getattr(forward, "__code__", None), "co_names", ())
        if "ALL_ATTENTION_FUNCTIONS" in names and "get_interface" in names:
            interface = forward.__globals__["ALL_ATTENTION_FUNCTIONS"]
            found.append(Site(name or type(module).__name__, module, interface))
    return found


def unrouted(model: torch.nn.Module) -> list[str]:
    """Names of modules that look like attention but are out of reach: none routed inside or around them."""
    routed = [site.name for site in sites(model)]
    found: list[str] = []
    for name, module in model.named_modules():
        if "attention" not in type(module).__name__.lower():
            continue
        related = any(r == name or r.startswith(f"{name}.") or name.startswith(f"{r}.") for r in routed)
        if not related and not any(name.startswith(f"{f}.") for f in found):
            found.append(name)
    return found


class HFTap:
    """Listens to the attention of one model, for the calls made in this thread while the context is open.

    Args:
        model: any transformers model, or a module that holds one.
        receive: called with each `AttentionCall`, right after the backend computed it.
        valid: False where the input is padding, [B, N]; None without padding.
        layers: numbers of layers, or patterns of module names (`"model.layers.1?.*"`); None for all.

    On a clean exit, a module that should have been called and was not raises a ModelError.

    Raises:
        ModelError: the model routes nothing through the interface, or is compiled.
        InputError: `layers` names nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        receive: Callable[[AttentionCall], None],
        *,
        valid: Tensor | None = None,
        layers: Sequence[int | str] | None = None,
    ) -> None:
        _refuse_compiled(model)
        self.sites = sites(model)
        if not self.sites:
            raise ModelError(
                f"{type(model).__name__}: no module routes its attention through transformers' interface; "
                "supported are the transformers models that do (Llama, Qwen, Mistral, Gemma, GPT-2, BERT, …)"
            )
        numbers = [getattr(site.module, "layer_idx", None) for site in self.sites]
        whole = all(isinstance(n, int) for n in numbers) and len(set(numbers)) == len(numbers)
        #: Layer number of each module, or None where modules are numbered as they are called.
        self.numbers: dict[int, int] | None = None
        if whole:
            self.numbers = {
                id(s.module): int(n) for s, n in zip(self.sites, numbers, strict=True) if n is not None
            }
        self._by_id = {id(site.module): site for site in self.sites}
        self._receive = receive
        self._rules = Rules(valid)
        self._layers, self._patterns = self._selection(layers)
        self._owner = owner_of(model, [site.module for site in self.sites])
        self._calls: list[tuple[str, int]] = []
        self._recorded: set[int] = set()
        self._thread = 0

    def _selection(self, layers: Sequence[int | str] | None) -> tuple[set[int] | None, list[str]]:
        if layers is None:
            return None, []
        numbers = {n for n in layers if isinstance(n, int)}
        patterns = [p for p in layers if isinstance(p, str)]
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(site.name, pattern) for site in self.sites):
                raise InputError(
                    f"layers: no attention module is called {pattern!r}; there are {self._names()}"
                )
        missing = (
            numbers - set(self.numbers.values())
            if self.numbers is not None
            else {n for n in numbers if n < 0}
        )
        if missing or not (numbers or patterns):
            have = (
                sorted(self.numbers.values()) if self.numbers is not None else f"0 to {len(self.sites) - 1}"
            )
            raise InputError(f"layers: got {list(layers)}, expected some of {have}")
        return numbers, patterns

    def _names(self) -> str:
        names = [site.name for site in self.sites]
        return ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])

    def _wanted(self, site: Site, layer: int) -> bool:
        if self._layers is None:
            return True
        return layer in self._layers or any(fnmatch.fnmatchcase(site.name, p) for p in self._patterns)

    @property
    def expected(self) -> int:
        """How many layers a forward pass should give; more if modules without a number are called again."""
        if self.numbers is None:
            return (
                len(self.sites) if self._layers is None else max(1, len(self._layers) + len(self._patterns))
            )
        return sum(self._wanted(site, self.numbers[id(site.module)]) for site in self.sites)

    def __enter__(self) -> "HFTap":
        self._calls, self._recorded = [], set()
        self._thread = threading.get_ident()
        opened: list[Any] = []
        lazy = self._owner is not None and all(_plain_sdpa(site.interface) for site in self.sites)
        for interface in {id(s.interface): s.interface for s in self.sites}.values():
            listen(interface, self._hear)
            opened.append(interface)
        self._opened = opened
        self._loan = lend(self._owner) if lazy and self._owner is not None else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loan is not None:
            take_back(self._loan)
        for interface in self._opened:
            unlisten(interface, self._hear)
        if kind is None:
            self._require_calls()

    def _hear(self, seen: Observed) -> None:
        site = self._by_id.get(id(seen.module))
        if site is None or threading.get_ident() != self._thread:
            return
        layer = len(self._calls) if self.numbers is None else self.numbers[id(site.module)]
        if self.numbers is not None and (site.name, layer) in self._calls:
            raise ModelError(f"{site.name}: called twice in one forward pass; expected one call per layer")
        self._calls.append((site.name, layer))
        if not self._wanted(site, layer):
            return
        self._recorded.add(layer)
        with torch.no_grad():
            spec = self._rules.derive(seen, site.name)
            call = AttentionCall(
                name=site.name,
                module=site.module,
                layer=layer,
                q=seen.arguments["query"],
                k=seen.arguments["key"],
                v=seen.arguments["value"],
                output=seen.output,
                spec=spec,
                mask=seen.arguments.get("attention_mask"),
                arguments={
                    n: a
                    for n, a in seen.arguments.items()
                    if n not in ("query", "key", "value", "attention_mask")
                },
                backend=backend_of(seen),
                eager=seen.eager,
            )
            self._receive(call)

    def _must_be_called(self, site: Site) -> bool:
        if self._layers is None:
            return True
        if self.numbers is not None:
            return self._wanted(site, self.numbers[id(site.module)])
        return any(fnmatch.fnmatchcase(site.name, p) for p in self._patterns)

    def _require_calls(self) -> None:
        called = {name for name, _ in self._calls}
        missing = [site.name for site in self.sites if site.name not in called and self._must_be_called(site)]
        if missing:
            raise ModelError(
                f"{missing[0]}: its attention was never called in the forward pass ({len(missing)} of "
                f"{len(self.sites)} modules); choose the layers to record (layers=…)"
            )
        unreached = set() if self._layers is None else self._layers - self._recorded
        if unreached:
            raise InputError(
                f"layers: {sorted(unreached)} never came; the model called {len(self._calls)} layers"
            )


def _plain_sdpa(interface: Any) -> bool:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return interface.get("sdpa") is sdpa_attention_forward and not wrapped(interface)


def _refuse_compiled(model: torch.nn.Module) -> None:
    if (
        getattr(model, "_orig_mod", None) is not None
        or getattr(model, "_compiled_call_impl", None) is not None
    ):
        raise ModelError(
            f"{type(model).__name__}: the model is compiled and cannot be heard; give the uncompiled module"
        )
