"""The tap for Hugging Face transformers: all modules that route attention through `ALL_ATTENTION_FUNCTIONS`.

The model, its config, its masks and its backend stay untouched (see `_switch`); outputs are those of the
user's backend. Where a verified architecture would make a dense mask for a long input, it gets the same mask row by
row (see `_mask_switch`).
"""

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from probe import placement
from probe.call import AttentionCall
from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.interface import Observed, listen, unlisten, wrapped
from probe.taps.longmask.switch import lend, owner_of, take_back
from probe.taps.plan import Plan
from probe.taps.rules.derive import Rules, backend_of
from probe.taps.rules.masks import seen_keys
from probe.taps.streams import Stream

#: False where a position of a group ("tokens", "source", …) is padding, [B, N]; None where nothing is known to be.
Validity = Callable[[str], Tensor | None]


@dataclass(frozen=True, eq=False)
class Site:
    """A module whose attention can be listened to."""

    name: str
    module: torch.nn.Module
    interface: Any

    @property
    def packs(self) -> bool:
        """Whether the module takes several sequences behind each other, and may attend to one after the other."""
        return "cu_seqlens" in inspect.signature(type(self.module).forward).parameters


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
        valid: False where the input's tokens are padding, [B, N], or a function that tells it of each group of positions
            (`probe.taps.streams`) at the time of a call: of all positions so far, those in a cache included.
        layers: numbers of layers, or patterns of module names (`"model.layers.1?.*"`); None for all.
        towers: names of towers; None for all.
        passes: several forward passes may come (generation): a module that is called again begins the next one.

    A module that is called for one piece of its input after the other (a window, an image) gives one call, with `lengths`.
    On a clean exit, a module that should have been called and was not raises a ModelError.

    Raises:
        ModelError: the model routes nothing through the interface, or is compiled.
        InputError: `layers` or `towers` names nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        receive: Callable[[AttentionCall], None],
        *,
        valid: Tensor | Validity | None = None,
        layers: Sequence[int | str] | None = None,
        towers: Sequence[str] | None = None,
        passes: bool = False,
    ) -> None:
        placement.refuse(model)
        self.sites = sites(model)
        if not self.sites:
            raise ModelError(
                f"{type(model).__name__}: no module routes its attention through transformers' interface; "
                "supported are the transformers models that do (Llama, Qwen, Mistral, Gemma, GPT-2, BERT, …)"
            )
        self.plan = Plan(model, [(site.name, site.module) for site in self.sites], layers, towers)
        self._by_id = {id(site.module): site for site in self.sites}
        self._receive = receive
        self._rules = Rules()
        self._valid: Validity = _of_tokens(valid) if valid is None or isinstance(valid, Tensor) else valid
        self._passes = passes
        self._owner = owner_of(model, [site.module for site in self.sites])
        self._restart()

    def _restart(self) -> None:
        self.step = 0
        self._calls: list[str] = []  # of this pass
        self._called: set[str] = set()
        self._recorded: set[int] = set()
        self._heard = 0
        self._pieces: list[Observed] = []
        self._thread = threading.get_ident()

    @property
    def expected(self) -> int:
        """How many layers a forward pass should give; more if modules without a number are called again."""
        return self.plan.expected

    @property
    def unused(self) -> list[str]:
        """Towers of which nothing was heard: the input had nothing for them."""
        return self.plan.unused(self._called)

    def __enter__(self) -> "HFTap":
        self._restart()
        opened: list[Any] = []
        lazy = self._owner is not None and all(_plain_sdpa(site.interface) for site in self.sites)
        for interface in {id(s.interface): s.interface for s in self.sites}.values():
            self._attach(interface)
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
            self._detach(interface)
        if kind is None:
            self._end_of_pieces()
            self.plan.require(self._called, self._recorded, self._heard)

    def _attach(self, interface: Any) -> None:
        listen(interface, self._hear)

    def _detach(self, interface: Any) -> None:
        unlisten(interface, self._hear)

    def _hear(self, seen: Observed) -> None:
        site = self._by_id.get(id(seen.module))
        if site is None or threading.get_ident() != self._thread:
            return
        if self._pieces and self._pieces[0].module is not seen.module:
            self._end_of_pieces()
        if site.packs:
            self._pieces.append(seen)
        else:
            self._take(site, seen, None)

    def _end_of_pieces(self) -> None:
        """Hand on what one module computed piece by piece, as one call."""
        pieces, self._pieces = self._pieces, []
        if not pieces:
            return
        site = self._by_id[id(pieces[0].module)]
        if len(pieces) == 1:
            self._take(site, pieces[0], None)
            return
        if any(piece.arguments.get("attention_mask") is not None for piece in pieces):
            raise ModelError(f"{site.name}: attention in pieces with masks; not supported")
        joined = {n: torch.cat([p.arguments[n] for p in pieces], 2) for n in ("query", "key", "value")}
        output = torch.cat([piece.output for piece in pieces], 1)
        lengths = tuple(piece.arguments["query"].shape[2] for piece in pieces)
        whole = replace(pieces[0], arguments=pieces[0].arguments | joined, output=output)
        self._take(site, whole, lengths)

    def _take(self, site: Site, seen: Observed, lengths: tuple[int, ...] | None) -> None:
        stream = self.plan.streams[site.name]
        if site.name in self._calls and self.plan.numbered(site.name):
            if not self._passes:
                raise ModelError(
                    f"{site.name}: called twice in one forward pass; expected one call per layer"
                )
            self.step += 1
            self._calls = []
        before = sum(self.plan.streams[name].name == stream.name for name in self._calls)
        layer = self.plan.number(site.name, before)
        self._calls.append(site.name)
        self._called.add(site.name)
        self._heard += 1
        if not self.plan.wanted(site.name, layer):
            return
        self._recorded.add(layer)
        with torch.no_grad():
            queries, keys = self._validity(seen, stream, site.name)
            spec = self._rules.derive(
                seen,
                site.name,
                query_valid=queries,
                key_valid=keys,
                lengths=lengths,
                cross=stream.cross,
            )
            self._receive(self._call(site, seen, spec, stream, layer, lengths))

    def _call(
        self,
        site: Site,
        seen: Observed,
        spec: ScoreSpec,
        stream: Stream,
        layer: int,
        lengths: tuple[int, ...] | None,
    ) -> AttentionCall:
        own = ("query", "key", "value", "attention_mask")
        return AttentionCall(
            name=site.name,
            module=site.module,
            layer=layer,
            q=seen.arguments["query"],
            k=seen.arguments["key"],
            v=seen.arguments["value"],
            output=seen.output,
            spec=spec,
            mask=seen.arguments.get("attention_mask"),
            arguments={n: a for n, a in seen.arguments.items() if n not in own},
            backend=backend_of(seen),
            eager=seen.eager,
            stream=stream.name,
            queries=stream.queries,
            keys=stream.keys,
            lengths=lengths,
            step=self.step,
        )

    def _validity(self, seen: Observed, stream: Stream, name: str) -> tuple[Tensor | None, Tensor | None]:
        """What of a call's queries and keys is no padding; the queries are the last positions of theirs.

        Of pictures and sounds the input does not say which positions are padding: those that the mask hides from all.
        """
        q, k = seen.arguments["query"], seen.arguments["key"]
        queries, keys = self._valid(stream.queries), self._valid(stream.keys)
        if keys is None and stream.keys != "tokens":
            keys = seen_keys(seen.arguments.get("attention_mask"), q, k)
            queries = queries if stream.cross else keys
        if (
            not self._passes
        ):  # nothing is cached: a tower that shortens its sequence has other positions than the input
            for flags, x, group in ((queries, q, stream.queries), (keys, k, stream.keys)):
                if flags is not None and flags.shape[1] != x.shape[2]:
                    raise ModelError(
                        f"{name}: attention of {x.shape[2]} {group}, but the input has {flags.shape[1]}; give the whole "
                        "sequence without a cache, or choose other layers (layers=…)"
                    )
        mine = None if queries is None else _last(queries, q, name, stream.queries)
        if stream.cross:
            return mine, None if keys is None else _last(keys, k, name, stream.keys)
        if keys is None:
            return mine, None
        spare = k.shape[2] - keys.shape[1]
        if spare > 0:  # a static cache has room for what is still to come
            return mine, torch.nn.functional.pad(keys, (0, spare))
        return mine, _last(keys, k, name, stream.keys)


def _of_tokens(valid: Tensor | None) -> Validity:
    known = None if valid is None or bool(valid.all()) else valid
    return lambda group: known if group == "tokens" else None


def _last(valid: Tensor, x: Tensor, name: str, group: str) -> Tensor:
    if valid.shape[0] != x.shape[0] or valid.shape[1] < x.shape[2]:
        raise ModelError(
            f"{name}: attention of {x.shape[2]} positions (batch {x.shape[0]}) does not fit the {valid.shape[1]} "
            f"{group} (batch {valid.shape[0]}) of the input; choose other layers (layers=…)"
        )
    return valid[:, valid.shape[1] - x.shape[2] :].to(x.device)


def _plain_sdpa(interface: Any) -> bool:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return interface.get("sdpa") is sdpa_attention_forward and not wrapped(interface)
