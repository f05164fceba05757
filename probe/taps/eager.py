"""The slow route for transformers models outside of all seams (BLOOM, MPT, GPT-Neo, DeBERTa, XLNet, …): the maps as they
write them out themselves, up to a stated size.

A model that runs eager attention, of a verified architecture, is asked for its maps in the user's own forward pass; its
computation does not change. Any other makes its own pass first, whose outputs the user gets, and a second one for the maps: in
eager, with the backend's name in its config changed for that time where it runs `sdpa`; no second copy of the weights is made.
(Asked for maps while it runs `sdpa`, Falcon adds its mask of truth values to its scores.)
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from probe.call import MapCall
from probe.errors import ModelError
from probe.taps.hf import sites as routed
from probe.taps.hf import unrouted
from probe.taps.ledger import Face, Ledger, StandIns, Validity
from probe.taps.streams import main_stream

#: Largest size of all maps of one forward pass together, in MiB.
LIMIT = 1024
#: Architectures that compute the same, bit by bit, when they are asked for their maps.
_SAME = {"bloom", "mpt", "falcon", "gptj", "codegen", "gpt_neo", "deberta-v2", "xlnet", "big_bird"}
_FIELDS = {"encoder_attentions": "encoder", "decoder_attentions": "decoder", "cross_attentions": "cross"}


class EagerTap(Face):
    """Takes the maps that a model writes out, in this thread, while it is open.

    Args:
        model: a transformers model of which no module routes attention through transformers' interface.
        receive: called with each `MapCall`, after the forward pass, in the order of the layers.
        query_valid: False where a position is padding, [B, N], or a function that tells it of each group of positions; None for
            the `attention_mask` (and `decoder_attention_mask`) that the model is called with.
        layers: numbers of layers, or patterns of module names; None for all. All layers are written out in any case.
        towers: names of towers; None for all.
        stream: tower of the record for the main tower; None for what `probe.taps.streams` says.
        limit: largest size of all maps of one forward pass together, in MiB.

    Raises:
        ModelError: the model is none of these, is compiled, or writes something else than maps.
        InputError: `layers` or `towers` names nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        receive: Callable[[MapCall], None],
        *,
        query_valid: Tensor | Validity | None = None,
        layers: Sequence[int | str] | None = None,
        towers: Sequence[str] | None = None,
        stream: str | None = None,
        limit: int = LIMIT,
    ) -> None:
        self._model: Any = model
        self._sites = _sites(model)
        if not self._sites:
            raise ModelError(
                f"{type(model).__name__}: the slow route is for transformers models with attention that is not routed through "
                "transformers' interface; expected one of these (BLOOM, MPT, GPT-Neo, …)"
            )
        _refuse(model)
        self._ledger = Ledger(model, self._sites, layers, query_valid, stream, towers)
        self._given = query_valid
        self._receive = receive
        self._limit = limit

    @classmethod
    def finds(cls, model: torch.nn.Module) -> list[str]:
        """Names of the modules that this tap could hear; none if the model is not its business."""
        return [name for name, _ in _sites(model)]

    def __enter__(self) -> "EagerTap":
        self._ledger.restart()
        self._stand_ins = StandIns()
        self._stand_ins.place(self._model, self._around)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stand_ins.remove()
        if kind is None:
            self._ledger.finish()

    def _around(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._model.training:
            raise ModelError(
                f"{type(self._model).__name__}: the model is in training mode; call model.eval() first"
            )
        given = _named(original, args, kwargs)
        self._past = _past(given)  # the pass itself makes a cache longer
        self._refuse_size(given)
        self._ledger.next_pass()
        config = self._model.config
        if config._attn_implementation != "eager" or config.model_type not in _SAME:
            result = original(*args, **kwargs)
            with torch.no_grad(), _in_eager(self._model):
                maps = original(**_second(original, given))
            if config._attn_implementation == "eager":
                _refuse_other(type(self._model).__name__, result, maps)
            self._hand_on(maps, given, "written out in a second pass, in eager")
            return result
        asked = given.get("output_attentions")
        asked = getattr(config, "output_attentions", False) if asked is None else asked
        as_dict = given.get("return_dict")
        as_dict = getattr(config, "return_dict", True) if as_dict is None else as_dict
        result = original(**(given | {"output_attentions": True, "return_dict": True}))
        with torch.no_grad():
            self._hand_on(result, given, "written out by the model, in eager")
        if not asked:
            result = type(result)(**{name: x for name, x in result.items() if "attentions" not in name})
        return result if as_dict else result.to_tuple()

    def _refuse_size(self, given: Mapping[str, Any]) -> None:
        """Refuse before anything is computed. The length of a cache counts with the keys."""
        shapes = [_length(given, names) for names in (("input_ids", "inputs_embeds"), ("decoder_input_ids",))]
        heads = getattr(self._model.config, "num_attention_heads", None)
        if shapes[0] is None or not isinstance(heads, int):
            raise ModelError(
                f"{type(self._model).__name__}: the size of its maps cannot be told in advance; expected input_ids, and a "
                "config with num_attention_heads"
            )
        batch, length = shapes[0]
        keys = max(length + self._past, *(s[1] for s in shapes if s is not None))
        element = next((p.element_size() for p in self._model.parameters() if p.is_floating_point()), 4)
        size = len(self._sites) * batch * heads * length * keys * element / 2**20
        if size > self._limit:
            raise ModelError(
                f"{type(self._model).__name__}: its attention can only be had written out: {len(self._sites)} maps of {batch} "
                f"× {heads} × {length} × {keys}, {size:,.0f} MiB; the limit is {self._limit} MiB (limit=…), give less text"
            )

    def _hand_on(self, result: Any, given: Mapping[str, Any], source: str) -> None:
        if self._given is None:
            self._ledger.listen_to(_of_masks(self._model, given))
        total = 0
        for field, tower in {"attentions": main_stream(self._model).name, **_FIELDS}.items():
            maps = result.get(field)
            total += len(maps or ())
            if maps:
                names = [name for name in self.sites if self._ledger.plan.streams[name].name == tower]
                if len(names) != len(maps):
                    raise ModelError(
                        f"{type(self._model).__name__}: gives {len(maps)} maps ({field}) for {len(names)} attention modules; "
                        "expected one of each"
                    )
                for name, weights in zip(names, maps, strict=True):
                    self._take(name, weights, given, source)
        if not total:
            raise ModelError(
                f"{type(self._model).__name__}: gives no attention maps when asked (output_attentions=True)"
            )

    def _take(self, name: str, weights: Any, given: Mapping[str, Any], source: str) -> None:
        taken = self._ledger.take(name)
        if taken is None:
            return
        layer, called = taken
        cross = self._ledger.stream(name).cross
        self._refuse_form(called, weights, given, cross)
        queries, keys = self._ledger.padding(name, (weights.shape[0], weights.shape[2], weights.shape[3]))
        queries, keys = (None if x is None else x.to(weights.device) for x in (queries, keys))
        _refuse_values(called, weights, queries, keys)
        module = dict(self._sites)[name]
        self._receive(
            MapCall(called, module, layer, weights, queries, keys, source, **self._ledger.place(name))
        )

    def _refuse_form(self, name: str, weights: Any, given: Mapping[str, Any], cross: bool) -> None:
        source, target = (_length(given, n) for n in (("input_ids", "inputs_embeds"), ("decoder_input_ids",)))
        decoder = target is not None and (
            cross or self._ledger.plan.streams[name.split("#")[0]].name == "decoder"
        )
        own = target if decoder else source
        if source is None or own is None:
            raise ModelError(f"{name}: the length of its input is not known; expected input_ids")
        keys = source[1] if cross else own[1] + self._past
        form = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        if not isinstance(weights, Tensor) or weights.ndim != 4 or form[2:] != [own[1], keys]:
            raise ModelError(
                f"{name}: gives {form} as its attention, expected [batch, heads, {own[1]}, {keys}]; such attention (banded, "
                "pooled, no softmax) is not supported"
            )


def _refuse(model: Any) -> None:
    config, name = model.config, type(model).__name__
    if getattr(config, "attention_window", None) is not None:
        raise ModelError(
            f"{name}: gives banded weights (attention_window), from which no map can be told; not supported"
        )
    if getattr(config, "attention_type", None) == "block_sparse":
        raise ModelError(
            f"{name}: attends to random blocks (attention_type='block_sparse'); load it with attention_type='original_full'"
        )
    if config._attn_implementation not in ("eager", "sdpa"):
        raise ModelError(
            f"{name}: runs {config._attn_implementation!r} attention, which writes no maps; load it with "
            "attn_implementation='eager' or 'sdpa'"
        )


def _refuse_other(name: str, result: Any, maps: Any) -> None:
    """Refuse maps of a pass that computed something else than the model's own did."""
    first = (
        result[0] if isinstance(result, tuple) else next(x for x in result.values() if isinstance(x, Tensor))
    )
    second = next(x for x in maps.values() if isinstance(x, Tensor))
    if not torch.equal(first, second):
        raise ModelError(
            f"{name}: computes something else when it is asked for its maps (output_attentions=True); not supported"
        )


def _refuse_values(name: str, weights: Tensor, queries: Tensor | None, keys: Tensor | None) -> None:
    """Refuse what is no map: rows of valid queries sum to 1, and give nothing to padding."""
    total = weights.sum(-1, dtype=torch.float32)
    eps, n = torch.finfo(weights.dtype).eps, weights.shape[3]
    off = (total - 1).abs().nan_to_num(torch.inf)
    lost = torch.zeros_like(off)
    if keys is not None:
        lost = (weights * ~keys[:, None, None, :]).sum(-1, dtype=torch.float32)
    if queries is not None:
        off, lost = (x.masked_fill(~queries[:, None], 0) for x in (off, lost))
    if float(lost.max()) > 0:
        raise ModelError(
            f"{name}: gives {float(lost.max()):.3g} of its attention to padding; give the model its attention_mask"
        )
    if float(off.max()) > 8 * eps + n * torch.finfo(torch.float32).eps:
        raise ModelError(
            f"{name}: rows of what it gives sum to 1 ± {float(off.max()):.3g}; these are no attention weights"
        )


@contextmanager
def _in_eager(model: torch.nn.Module) -> Iterator[None]:
    """The model's configs name eager attention; put back on every way out."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    key = "_attn_implementation_internal"
    before = [(config, config.__dict__[key]) for config in configs.values() if key in config.__dict__]
    try:
        for config, _ in before:
            config.__dict__[key] = "eager"
        yield
    finally:
        for config, name in before:
            config.__dict__[key] = name


def _named(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name."""
    bound = inspect.signature(original).bind(*args, **kwargs)
    parameters = bound.signature.parameters
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        given |= value if parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return given


def _second(original: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the second pass: no cache, maps, nothing else."""
    if given.get("past_key_values") is not None:
        raise ModelError(
            "a pass with a cache cannot be repeated to write maps out; load the model with attn_implementation='eager', or "
            "give the whole sequence at once"
        )
    known = inspect.signature(original).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    extra = {"output_attentions": True, "return_dict": True, "use_cache": False}
    extra = {name: value for name, value in extra.items() if free or name in known}
    return {**{n: x for n, x in given.items() if n != "labels"}, **extra}


def _length(given: Mapping[str, Any], names: Sequence[str]) -> tuple[int, int] | None:
    """Batch and length of an input."""
    for name in names:
        if isinstance(given.get(name), Tensor):
            shape = given[name].shape
            return int(shape[0]), int(shape[1])
    return None


def _past(given: Mapping[str, Any]) -> int:
    cache: Any = given.get("past_key_values")
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def _of_masks(model: torch.nn.Module, given: Mapping[str, Any]) -> Validity:
    """What the masks of a call say of each group of positions."""
    main = main_stream(model)
    masks = {"tokens": given.get("decoder_attention_mask"), "source": given.get("attention_mask")}
    if main.name != "decoder":
        masks = {main.queries: given.get("attention_mask")}

    def valid(group: str) -> Tensor | None:
        mask = masks.get(group)
        if isinstance(mask, Tensor) and mask.ndim != 2:
            raise ModelError(
                f"{type(model).__name__}: an attention_mask of shape {list(mask.shape)}, expected [batch, positions]; say "
                "what is padding (query_valid=…)"
            )
        return mask.bool() if isinstance(mask, Tensor) else None

    return valid


def _sites(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    if not hasattr(getattr(model, "config", None), "_attn_implementation") or routed(model):
        return []
    modules = dict(model.named_modules())
    return [(name, modules[name]) for name in unrouted(model)]
