"""Steering through transformers' attention interface: the outputs of chosen layers are changed, all others are never looked at.

What a call continues is told by its cache: the positions in it before the call, and how its samples were moved since. Padding
is read off the masks that the backend gets, so that any caller's passes will do. Rules are derived and proven as for a record.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from probe.edits import Edit, Place, Sequence
from probe.errors import InputError, ModelError
from probe.generation.steps import filled
from probe.taps.hf import HFTap, Site
from probe.taps.hooks import Hooks
from probe.taps.interface import Observed, edit, unedit
from probe.taps.rules.masks import reader, seen_keys
from probe.taps.steering import cache_switch
from probe.taps.streams import main_stream


class SteerTap(HFTap):
    """Has an edit change the outputs of its layers, for the calls made while the context is open, in any thread.

    Args:
        model: any transformers model, or a module that holds one.
        change: the edit.
        tower: whose layers it means; None for the model's own text.

    Raises:
        ModelError: the model routes nothing through the interface, is compiled, or attends in pieces or to another sequence.
        InputError: no such tower or layer.
    """

    def __init__(self, model: torch.nn.Module, change: Edit, tower: str | None = None) -> None:
        name = main_stream(model).name if tower is None else tower
        super().__init__(model, _nobody, layers=list(change.heads), towers=[name], passes=True)
        self._model, self._edit = model, change
        plan = self.plan
        mine = [site for site in self.sites if plan.streams[site.name].name == name]
        self._numbered = all(plan.numbered(site.name) for site in mine)
        self._steered = [s for s in mine if not self._numbered or plan.wanted(s.name, plan.number(s.name, 0))]
        self.anchor = id(mine[0].module)
        for site in self._steered:
            if plan.streams[site.name].cross:
                raise ModelError(
                    f"{site.name}: attends to another sequence; expected a tower of self-attention"
                )
            if site.packs:
                raise ModelError(
                    f"{site.name}: attends to its input in pieces (windows, images), each with a map of its own; steer another "
                    "tower (tower=…)"
                )

    def __enter__(self) -> "SteerTap":
        self._sequences: WeakKeyDictionary[Any, Sequence] = WeakKeyDictionary()
        self._loose = Sequence()
        self._fed: dict[int, tuple[Any, int]] = {}
        self._shared: dict[object, Any] = {}
        self._begun = False
        with Hooks() as hooks:
            for site in self._steered:
                hooks.before(site.module, self._before, keywords=True)
            hooks.before(self._model, self._begin)
            cache_switch.listen(self._moved)
            hooks.callback(cache_switch.unlisten, self._moved)
            hooks.callback(_forbid_compiling(self._model))
            super().__enter__()
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        super().__exit__(kind, error, trace)

    def _attach(self, interface: Any) -> None:
        edit(interface, self._change)

    def _detach(self, interface: Any) -> None:
        unedit(interface, self._change)

    def _begin(self, *_: Any) -> None:
        """A forward pass of the whole model begins."""
        self._begun = True
        self._calls = []
        self._shared = {}

    def _before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What the cache of a module holds before it is called."""
        cache = next((x for x in (*kwargs.values(), *args) if hasattr(x, "get_seq_length")), None)
        cache = getattr(cache, "self_attention_cache", cache)
        layer = getattr(module, "layer_idx", None)
        past = 0 if cache is None else int(cache.get_seq_length(0 if layer is None else layer))
        self._fed[id(module)] = cache, past

    def _moved(self, cache: Any, become: Callable[[Tensor], Tensor]) -> None:
        if cache in self._sequences:
            self._sequences[cache].follow(become)

    def _change(self, seen: Observed) -> Tensor | None:
        site = self._by_id.get(id(seen.module))
        if site is None:
            return None
        stream = self.plan.streams[site.name]
        before = sum(self.plan.streams[name].name == stream.name for name in self._calls)
        layer = self.plan.number(site.name, before)
        if not self._numbered and stream.name in self.plan.towers and not self._begun:
            raise ModelError(
                f"{site.name}: its layers are numbered by their order in a whole pass; call the model that was given"
            )
        if not self.plan.numbered(site.name):
            self._calls.append(site.name)
        self._called.add(site.name)
        self._heard += 1
        fed = self._fed.pop(id(seen.module), None)
        if not self.plan.wanted(site.name, layer):
            return None
        self._recorded.add(layer)
        if fed is None:
            raise ModelError(
                f"{site.name}: its forward was called past its hooks; call the module itself, so that its cache is seen"
            )
        if torch.is_grad_enabled() and seen.output.requires_grad:
            raise ModelError(
                f"{site.name}: a gradient is asked for, and none flows through a changed output; run under torch.no_grad()"
            )
        with torch.no_grad():
            return self._changed(site, seen, layer, *fed)

    def _changed(self, site: Site, seen: Observed, layer: int, cache: Any, past: int) -> Tensor | None:
        stream = self.plan.streams[site.name]
        key = (id(cache), past)
        if self._shared.get("of") != key:
            self._shared = {"of": key}
        total = past + seen.arguments["query"].shape[2]
        seen = filled(seen, total, site.name, self._shared)
        sequence = self._sequence(cache, layer, past, site.name)
        queries, keys = self._padding(seen, sequence, past, site.name)
        spec = self._rules.derive(seen, site.name, query_valid=queries, key_valid=keys)
        call = self._call(site, seen, spec, stream, layer, None)
        n_keys = call.k.shape[2]
        if n_keys > total or (past == 0 and n_keys != total):
            raise ModelError(
                f"{site.name}: {n_keys} keys for the {total} positions that its cache tells of; expected a dynamic, static or "
                "sliding cache of transformers"
            )
        bad = [head for head in self._edit.heads[layer] if not 0 <= head < call.q.shape[1]]
        if bad:
            raise InputError(
                f"heads: got {bad} of layer {layer}, expected some of 0 to {call.q.shape[1] - 1}"
            )
        changed = self._edit.change(call, Place(sequence, past, total - n_keys))
        sequence.lengths[layer] = total
        return changed

    def _sequence(self, cache: Any, layer: int, past: int, name: str) -> Sequence:
        """The sequence that a call continues, or a new one."""
        known = self._loose if cache is None else self._sequences.get(cache, None)
        if known is not None and known.lengths.get(layer, 0) == past:
            return known
        if past == 0:
            known = Sequence()
            if cache is None:
                self._loose = known
            else:
                self._sequences[cache] = known
            return known
        length = 0 if known is None else known.lengths.get(layer, 0)
        if known is None or length < past:
            raise ModelError(
                f"{name}: its cache holds {past} positions, of which {length} were fed while this context was open; open "
                "it around the whole generation (a copy of a cache counts as another one)"
            )
        return known

    def _padding(
        self, seen: Observed, sequence: Sequence, past: int, name: str
    ) -> tuple[Tensor | None, Tensor | None]:
        """What of a call's queries and keys is no padding, as the mask says; the sequence remembers it."""
        q, k = seen.arguments["query"], seen.arguments["key"]
        mask = seen.arguments.get("attention_mask")
        total, n_queries, n_keys = past + q.shape[2], q.shape[2], k.shape[2]
        if sequence.valid is not None and sequence.valid.shape[0] != q.shape[0]:
            raise ModelError(
                f"{name}: {q.shape[0]} samples, and {sequence.valid.shape[0]} in the pass before"
            )
        known = 0 if sequence.valid is None else sequence.valid.shape[1]
        if mask is not None and known != total:
            new = self._new(mask, q, k, past)
            if new is not None or sequence.valid is not None:
                new = (
                    torch.ones(q.shape[0], n_queries, dtype=torch.bool, device=q.device)
                    if new is None
                    else new
                )
                old = new.new_ones(q.shape[0], past) if sequence.valid is None else sequence.valid[:, :past]
                sequence.valid = torch.cat([old.to(new.device), new], 1)
        elif sequence.valid is not None and known < total:
            sequence.valid = torch.nn.functional.pad(sequence.valid, (0, total - known), value=True)
        if sequence.valid is None:
            return None, None
        valid = sequence.valid[:, :total].to(q.device)
        return valid[:, total - n_queries :], valid[:, total - n_keys :]

    def _new(self, mask: Any, q: Tensor, k: Tensor, past: int) -> Tensor | None:
        """False where a position of this pass is padding, [B, Nq]; None if none is."""
        if ("new", id(mask)) not in self._shared:
            self._shared["new", id(mask)] = mask, _not_padding(mask, q, k, past)
        found: Tensor | None = self._shared["new", id(mask)][1]
        return found


def _not_padding(mask: Any, q: Tensor, k: Tensor, past: int) -> Tensor | None:
    batch, _, n_queries, _ = q.shape
    n_keys = k.shape[2]
    if isinstance(mask, Tensor) and mask.ndim == 2:  # flash attention
        flags: Tensor | None = mask[:, -n_queries:].bool()
    elif past == 0:
        flags = seen_keys(mask, q, k)
    else:  # a token sees itself, padding does not
        read = reader(mask, n_queries, n_keys, q.dtype, biased=True)
        if read is None:
            return None
        own = slice(n_keys - n_queries, n_keys)
        rows = [read(b, range(n_queries))[..., own].any(0).diagonal() for b in range(batch)]
        flags = torch.stack([row.to(q.device) for row in rows])
    return None if flags is None or bool(flags.all()) else flags


def _forbid_compiling(model: Any) -> Callable[[], None]:
    """`generate` may compile its decoding loop, and compiled attention cannot be changed: refuse there, by name."""
    name = "_valid_auto_compile_criteria"
    method = getattr(model, name, None)
    if method is None:
        return lambda: None
    before = vars(model).get(name)

    def asked(*args: Any, **kwargs: Any) -> bool:
        if method(*args, **kwargs):
            raise InputError(
                f"generate: {type(model).__name__} would be compiled, and compiled attention cannot be changed; add "
                "disable_compile=True"
            )
        return False

    setattr(model, name, asked)

    def undo() -> None:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)

    return undo


def _nobody(_: Any) -> None:
    """A steered model is not recorded by this tap."""
