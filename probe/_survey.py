"""What of a model's attention can be captured and what not, told in advance: by looking at the model, without running it.

A look tells how each module computes attention and which rules its settings promise; that the rules hold is proven at every
call of a capture. `attempt` makes that proof on one tiny input.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from probe import placement
from probe.call import AttentionCall
from probe.errors import ModelError
from probe.kernels.statistics import map_statistics
from probe.taps.hf import sites, unrouted
from probe.taps.streams import stream_of

#: Parts of class names of layers that mix places without a softmax over them.
_NO_SOFTMAX = re.compile(
    "mamba|bambamixer|deltanet|linearattention|lightningattention|rwkv|recurrentblock|rglru|shortconv|hyena|retention|"
    "fouriertransform|mlstm|slstm"
)
_LEARNED = "learned bias of places"
_SCORES = {"relative_attention_num_buckets": "bias by distance", "alibi": "bias by distance"}
_SCORES |= {"relative_position_bias_table": _LEARNED, "use_relative_position_bias": _LEARNED}
_SCORES |= {"use_shared_relative_position_bias": _LEARNED}


@dataclass(frozen=True)
class Row:
    """One attention module.

    Attributes:
        module: its name in the model.
        kind: its class.
        tower: of the record that it would belong to.
        mechanism: "interface" (transformers' AttentionInterface), "sdpa" (calls PyTorch's function itself),
            "MultiheadAttention", "TransformerLens", "written out" (only its own maps can be had), "no softmax", or "unknown".
        rules: what its settings promise: "causal", "window 4096", "sinks", "soft-cap 50", "cross", ….
        heads: query heads and key heads; None where they cannot be told.
        verdict: "exact", "slow", "refused" or "no map".
        why: how far the slow route goes, or what stands against it.
    """

    module: str
    kind: str
    tower: str
    mechanism: str
    rules: tuple[str, ...]
    heads: tuple[int, int] | None
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Survey:
    """What can be captured of one model.

    Attributes:
        model: its class.
        rows: its attention modules, in its own order.
        towers: names of the towers of a record.
        backend: which attention backend its config names, or "".
        lazy_masks: whether masks of long inputs are made row by row instead of N × N; None where it makes none.
        placement: where its parts are and in what form.
        quantisation: the method that its config names ("bitsandbytes", "gptq", …), or "".
        refused: what stands against any capture of it; "" if nothing does.
        tried: whether a tiny forward pass has proven the rows.
    """

    model: str
    rows: tuple[Row, ...]
    towers: tuple[str, ...]
    backend: str
    lazy_masks: bool | None
    placement: placement.Placement
    quantisation: str = ""
    refused: str = ""
    tried: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts, for JSON."""
        return asdict(self)


def survey(model: torch.nn.Module) -> Survey:
    """Look at a model; nothing is run, moved or changed. Weights are not needed: it may stand on the "meta" device.

    Args:
        model: any module.
    """
    rows: dict[str, Row] = {}
    for mechanism, tap, names in _taps(model):
        opened = _told(partial(tap, model, _ignore))
        for name in names:
            if name not in rows:
                rows[name] = _row(model, name, mechanism, opened)
    for name, module in model.named_modules():
        if _mixes_without_softmax(module) and not any(_related(name, known) for known in rows):
            why = "no softmax over places: it has no attention map"
            rows[name] = replace(
                _row(model, name, "no softmax", ""), verdict="no map", why=why, rules=(), heads=None
            )
    for name in unrouted(model):
        if not any(_related(name, known) for known in rows):
            why = "it computes attention in a way that nothing here hears"
            rows[name] = replace(_row(model, name, "unknown", ""), verdict="refused", why=why)
    order = {name or type(model).__name__: i for i, (name, _) in enumerate(model.named_modules())}
    found = sorted(rows.values(), key=lambda row: order.get(row.module, len(order)))
    refused = _told(lambda: placement.refuse(model))
    return Survey(
        model=type(model).__name__,
        rows=tuple(found),
        towers=tuple(dict.fromkeys(row.tower for row in found if row.verdict in ("exact", "slow"))),
        backend=str(getattr(getattr(model, "config", None), "_attn_implementation", None) or ""),
        lazy_masks=_lazy_masks(model),
        placement=placement.placement(model),
        quantisation=_quantisation(getattr(getattr(model, "config", None), "quantization_config", None)),
        refused=refused,
    )


def attempt(model: torch.nn.Module, inputs: Mapping[str, Any] | None = None) -> Survey:
    """Look at a model, then prove the rows on one tiny input: its rules are derived and held against its masks, as in a
    capture.

    The model runs once for each mechanism, and once more for each module that fails; it is as before afterwards.

    Args:
        model: a model with weights, in eval mode.
        inputs: keyword arguments of its forward; None for a few ids, or a picture of noise.

    Raises:
        InputError: no input can be made up for such a model.
    """
    from probe._made_up import made_up

    seen = survey(model)
    if seen.refused:
        return seen
    given = made_up(model) if inputs is None else inputs
    results: dict[str, str | None] = {}
    for mechanism, tap, _ in _taps(model):
        names = [r.module for r in seen.rows if r.mechanism == mechanism and r.verdict in ("exact", "slow")]
        results |= _proven(model, tap, names, given)
    rows = []
    for row in seen.rows:
        told = results.get(row.module, "")
        if told:
            row = replace(row, verdict="refused", why=told)
        elif told is None:
            row = replace(row, why=f"{row.why}; not reached by the input that was tried".removeprefix("; "))
        rows.append(row)
    towers = tuple(dict.fromkeys(row.tower for row in rows if row.verdict in ("exact", "slow")))
    return replace(seen, rows=tuple(rows), towers=towers, tried=True)


def _proven(
    model: torch.nn.Module, tap: Any, names: list[str], given: Mapping[str, Any]
) -> dict[str, str | None]:
    """What each module of one mechanism said: "" if it was captured, the reason if not, None if it was never called."""
    told: dict[str, str | None] = dict.fromkeys(names)
    heard: set[str] = set()

    def receive(call: Any) -> None:
        if isinstance(call, AttentionCall):
            map_statistics(call.q, call.k, call.spec, ["entropy"], "reference")
        heard.add(call.name.split("#")[0])

    left = list(names)
    while left:
        heard.clear()
        try:
            with tap(model, receive, layers=[_literal(name) for name in left]), torch.no_grad():
                model(**given)
        except (ModelError, ValueError) as error:
            culprit = next((n for n in sorted(left, key=len, reverse=True) if str(error).startswith(n)), None)
            if "was never called" not in str(error):  # else its tower was in use and this module was not
                told |= dict.fromkeys(left if culprit is None else [culprit], str(error))
            left = [] if culprit is None else [n for n in left if n != culprit]
            continue
        break
    return told | {name: "" for name in left if name in heard}


def _taps(model: torch.nn.Module) -> list[tuple[str, Any, list[str]]]:
    """The mechanisms that the model has, in the order in which they count: name, tap, modules."""
    from probe.taps.eager import EagerTap
    from probe.taps.hf import HFTap
    from probe.taps.lens import LensTap
    from probe.taps.mha import MhaTap
    from probe.taps.sdpa import SdpaTap

    known: list[tuple[str, Any, list[str]]] = [
        ("TransformerLens", LensTap, LensTap.finds(model)),
        ("interface", HFTap, [site.name for site in sites(model)]),
        ("MultiheadAttention", MhaTap, MhaTap.finds(model)),
        ("sdpa", SdpaTap, SdpaTap.finds(model)),
        ("written out", EagerTap, EagerTap.finds(model)),
    ]
    return [entry for entry in known if entry[2]]


def _ignore(_call: Any) -> None:
    """Nothing is captured here."""


def _told(act: Callable[[], Any]) -> str:
    try:
        act()
    except ModelError as error:
        return str(error)
    return ""


def _row(model: torch.nn.Module, name: str, mechanism: str, opened: str) -> Row:
    module = dict(model.named_modules()).get(name, model)
    stream = stream_of(model, name, module)
    verdict, why = ("refused", opened) if opened else ("exact", "")
    backend = str(getattr(getattr(module, "config", None), "_attn_implementation", None) or "")
    if mechanism == "written out" and not opened:
        verdict, why = "slow", _limit(model, module)
    elif mechanism == "interface" and not opened and hasattr(module, "sinks") and backend == "sdpa":
        verdict, why = (
            "refused",
            "sdpa leaves its attention sinks out; load it with attn_implementation='eager'",
        )
    rules = () if mechanism == "written out" else _rules(module, stream.cross)
    if mechanism == "interface" and verdict == "exact" and _LEARNED in rules:
        verdict, why = (
            "refused",
            "its mask carries a learned bias of places, which cannot be told from the rules",
        )
    return Row(name, type(module).__name__, stream.name, mechanism, rules, _heads(module), verdict, why)


def _limit(model: Any, module: Any) -> str:
    """How many tokens of one text the slow route takes: all maps of a pass together stay below its limit."""
    from probe.taps.eager import LIMIT, EagerTap

    heads = _heads(module)
    if heads is None:
        return "by its own maps"
    element = next((p.element_size() for p in model.parameters() if p.is_floating_point()), 4)
    tokens = math.isqrt(LIMIT * 2**20 // (len(EagerTap.finds(model)) * heads[0] * element))
    return f"by its own maps, one text of up to {tokens:,} tokens"


def _rules(module: Any, cross: bool) -> tuple[str, ...]:
    config = getattr(module, "config", None)
    layer = getattr(module, "layer_idx", None)
    types = getattr(config, "layer_types", None)
    own = types[layer] if types is not None and isinstance(layer, int) and layer < len(types) else ""
    found = ["cross"] if cross else []
    if not cross and getattr(module, "is_causal", None):
        found.append("causal")
    window = getattr(module, "sliding_window", None)
    if window is None and not hasattr(module, "sliding_window") and (not own or own == "sliding_attention"):
        window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and window > 0:
        found.append(f"window {window}")
    if own == "chunked_attention":
        found.append(f"chunks of {getattr(config, 'attention_chunk_size', None)}")
    found += ["sinks"] if hasattr(module, "sinks") else []
    cap = getattr(module, "attn_logit_softcapping", None) or getattr(config, "attn_logit_softcapping", None)
    found += [f"soft-cap {cap:g}"] if isinstance(cap, int | float) and cap else []
    if not cross:
        inside = {path.split(".")[-1] for path, _ in (*module.named_modules(), *module.named_parameters())}
        flags = (n for n in _SCORES if n in inside or getattr(config, n, None) is True or _number(module, n))
        found += dict.fromkeys(_SCORES[name] for name in flags)
    return tuple(found)


def _number(module: Any, name: str) -> bool:
    own = getattr(module, name, None)
    return isinstance(own, int) and own > 0


def _heads(module: Any) -> tuple[int, int] | None:
    config = getattr(module, "config", None)

    def first(owner: Any, names: tuple[str, ...]) -> int | None:
        values = (getattr(owner, name, None) for name in names)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)

    every = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead")
    queries = first(module, every) or first(config, every)
    if queries is None:
        return None
    groups = first(module, ("num_key_value_groups",))
    keys = first(module, ("num_key_value_heads", "num_kv_heads"))
    return queries, keys or (queries // groups if groups else queries)


def _mixes_without_softmax(module: torch.nn.Module) -> bool:
    kind = type(module).__name__.lower()
    whole = ("model", "lm", "layer", "config", "norm", "classification")
    return _NO_SOFTMAX.search(kind) is not None and not kind.endswith(whole)


def _related(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")


def _lazy_masks(model: torch.nn.Module) -> bool | None:
    from probe.taps.longmask.switch import owner_of

    routed = sites(model)
    if not routed:
        return None
    backend = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return backend == "sdpa" and owner_of(model, [site.module for site in routed]) is not None


def _quantisation(config: Any) -> str:
    method = (
        config.get("quant_method") if isinstance(config, Mapping) else getattr(config, "quant_method", None)
    )
    return str(getattr(method, "value", method) or "")


def _literal(name: str) -> str:
    """A pattern that means this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
