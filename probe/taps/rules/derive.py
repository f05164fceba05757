"""From the arguments of an attention call to its `ScoreSpec`, proven against the mask that the backend got.

Where a mask arrived, a rule counts only if it reproduces every entry over the valid queries; where a bias arrived, every entry
that counts. Where no mask arrived, the rule is what the backend does without one: eager attends to everything, sdpa and flash
follow the causal flag.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.interface import Observed
from probe.taps.rules.backends import backend_of, flash_padding, in_pieces, without_mask
from probe.taps.rules.biases import BiasMismatch, distance_table
from probe.taps.rules.candidates import simple, structured
from probe.taps.rules.masks import (
    AdditiveMaskError,
    Mismatch,
    Reader,
    adder,
    first_mismatch,
    reader,
    row_blocks,
)

__all__ = ["Rules", "backend_of", "describe", "refuse"]

_KNOWN = {
    "module",
    "query",
    "key",
    "value",
    "attention_mask",
    "scaling",
    "dropout",
    "softcap",
    "sliding_window",
    "s_aux",
}
_KNOWN |= {"is_causal", "query_states", "key_states", "value_states", "kwargs", "args", "position_bias"}
#: The fields of a spec that are proven against a mask.
_PLACES = ("origin", "groups", "documents")
_PROVEN = ("causal", "offset", "window", "chunk", *_PLACES)
_PADDING = ("query_valid", "key_valid")


@dataclass(frozen=True, eq=False)
class _Proof:
    """What was proven of some masks and biases, as long as they are the same and unchanged."""

    sources: tuple[weakref.ref[Any], ...]
    versions: tuple[int, ...]
    rule: ScoreSpec
    adds: bool

    def holds(self, sources: Sequence[Any], spec: ScoreSpec, under: Sequence[str] = _PADDING) -> bool:
        """Whether it was of these, and under the same padding (or other fields of the spec)."""
        same = all(ref() is x for ref, x in zip(self.sources, sources, strict=True))
        if not same or self.versions != tuple(_version(x) for x in sources):
            return False
        return all(_same(getattr(self.rule, n), getattr(spec, n)) for n in under)


class Rules:
    """Derives the rules of calls; remembers which masks are proven, since layers share them."""

    def __init__(self) -> None:
        self._proven: dict[tuple[object, ...], _Proof] = {}

    def derive(
        self,
        seen: Observed,
        name: str,
        *,
        query_valid: Tensor | None,
        key_valid: Tensor | None,
        lengths: tuple[int, ...] | None = None,
        cross: bool = False,
    ) -> ScoreSpec:
        """The rules of one call.

        Args:
            seen: the call.
            name: the module's name, for messages.
            query_valid: False where a query is padding, [B, Nq]; None without padding.
            key_valid: False where a key is padding, or a cache not filled yet, [B, Nk]; None if all count.
            lengths: of the consecutive pieces that the backend attended to one by one; None if it took all at once.
            cross: whether the keys are positions of another group than the queries.

        Raises:
            ModelError: a rule that cannot be expressed, a mask or a bias that follows no known rule, NaN or Inf in q or k.
        """
        refuse(seen, name)
        q, k, arguments = seen.arguments["query"], seen.arguments["key"], seen.arguments
        if q.shape[2] > k.shape[2] and not cross:
            raise ModelError(
                f"{name}: {q.shape[2]} queries and only {k.shape[2]} keys, which are no positions of the queries' own group; "
                "expected a key for every query (layers=…)"
            )
        sink = arguments.get("s_aux")
        softcap = arguments.get("softcap")
        scale = arguments.get("scaling")
        spec = ScoreSpec(
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
            softcap=None if softcap is None else float(softcap),
            sink=None if sink is None else sink.detach().float().flatten(),
        )
        spec = _padded(spec, q, k, query_valid, key_valid, name)
        mask = arguments.get("attention_mask")
        bias = arguments.get("position_bias")
        sources = [bias] if isinstance(bias, Tensor) else []
        if lengths is not None:
            rule = in_pieces(seen, spec, lengths, name)
        elif mask is None:
            rule = without_mask(seen, spec, name, cross=cross)
        elif backend_of(seen) == "flash" and isinstance(mask, Tensor) and mask.ndim == 2:
            rule = flash_padding(mask, seen, spec, name)
        else:
            rule, adds = self._from_mask(mask, seen, spec, name, cross=cross)
            sources += [mask] if adds else []
        if sources:
            rule = self._with_bias(sources, seen, rule, name)
        _refuse_not_finite(q, rule.query_valid, name, "queries")
        _refuse_not_finite(k, rule.key_valid, name, "keys")
        return rule

    def _from_mask(
        self, mask: Any, seen: Observed, spec: ScoreSpec, name: str, *, cross: bool
    ) -> tuple[ScoreSpec, bool]:
        """The proven rule of a mask, and whether the mask adds something besides hiding keys."""
        q, n_keys = seen.arguments["query"], seen.arguments["key"].shape[2]
        read = reader(mask, q.shape[2], n_keys, q.dtype, biased=True)
        if read is None:
            form = f"{tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ModelError(
                f"{name}: cannot read a mask of form {form} for {backend_of(seen)} attention; expected [B, 1, Nq, Nk]"
            )
        tries = simple(seen, spec, read, cross=cross)
        shape = (q.shape[0], q.shape[2], n_keys)
        key = (id(mask), *shape, tuple((describe(rule), rule.offset) for rule in tries))
        known = self._proven.get(key)
        if known is None or not known.holds([mask], spec):
            rule = _prove(read, tries, shape, q.device, name)
            known = self._remember(key, [mask], rule, adds=_adds(mask, shape, q.dtype))
        return replace(spec, **{field: getattr(known.rule, field) for field in _PROVEN}), known.adds

    def _with_bias(self, sources: list[Tensor], seen: Observed, rule: ScoreSpec, name: str) -> ScoreSpec:
        """The rule with what `position_bias` and an additive mask add to the scores."""
        q, n_keys = seen.arguments["query"], seen.arguments["key"].shape[2]
        key = ("bias", *(id(x) for x in sources), *q.shape[:3], n_keys, describe(rule), rule.offset)
        known = self._proven.get(key)
        if known is None or not known.holds(sources, rule, (*_PADDING, *_PLACES)):
            table = _prove_bias(sources, q, n_keys, rule, name)
            known = self._remember(key, sources, replace(rule, distance_bias=table), adds=True)
        return replace(rule, distance_bias=known.rule.distance_bias)

    def _remember(
        self, key: tuple[object, ...], sources: Sequence[Any], rule: ScoreSpec, *, adds: bool
    ) -> _Proof:
        """Keep a proof as long as its sources are there; tensors of inference mode do not count their changes."""
        proof = _Proof(
            tuple(weakref.ref(x) for x in sources), tuple(_version(x) for x in sources), rule, adds
        )
        self._proven = {k: p for k, p in self._proven.items() if all(ref() is not None for ref in p.sources)}
        if all(_counts_changes(x) for x in sources):
            self._proven[key] = proof
        return proof


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.device == b.device and bool(torch.equal(a, b))


def _counts_changes(mask: Any) -> bool:
    return not (isinstance(mask, Tensor) and mask.is_inference())


def _version(mask: Any) -> int:
    return int(mask._version) if isinstance(mask, Tensor) and _counts_changes(mask) else 0


def _padded(
    spec: ScoreSpec, q: Tensor, k: Tensor, query_valid: Tensor | None, key_valid: Tensor | None, name: str
) -> ScoreSpec:
    for what, flags, x in (("queries", query_valid, q), ("keys", key_valid, k)):
        if flags is not None and flags.shape != (x.shape[0], x.shape[2]):
            raise ModelError(
                f"{name}: {x.shape[2]} {what} (batch {x.shape[0]}) do not fit their padding mask {list(flags.shape)}; "
                "expected one flag for each"
            )
    padded = [
        None if v is None or bool(v.all()) else v.to(q.device, torch.bool) for v in (query_valid, key_valid)
    ]
    return replace(spec, query_valid=padded[0], key_valid=padded[1])


def describe(spec: ScoreSpec) -> str:
    """The visibility rule in words, for messages and attributes."""
    parts = ["causal" if spec.causal else "full"]
    parts += [f"window {spec.window}"] if spec.window is not None else []
    parts += [f"chunks of {spec.chunk}"] if spec.chunk is not None else []
    parts += ["groups"] if spec.groups is not None else []
    parts += ["documents"] if spec.documents is not None else []
    parts += ["bias"] if spec.distance_bias is not None or spec.slopes is not None else []
    return " ".join(parts)


def _prove(
    read: Reader, tries: list[ScoreSpec], shape: tuple[int, int, int], device: torch.device, name: str
) -> ScoreSpec:
    """The first rule that reproduces every entry of the mask."""
    first: Mismatch | None = None
    for rule in tries:
        mismatch = first_mismatch(read, rule, *shape)
        if mismatch is None:
            return rule
        first = first or mismatch
    more = list(structured(tries, read, shape, device))
    for rule in more:
        if first_mismatch(read, rule, *shape) is None:
            return rule
    tried = ", ".join(dict.fromkeys(describe(rule) for rule in [*tries, *more]))
    raise ModelError(
        f"{name}: the mask follows none of the rules tried ({tried}); {describe(tries[0])!r} differs first "
        f"at {first}; other custom masks are not supported"
    )


def _adds(mask: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    """Whether a mask adds something besides hiding keys."""
    batch, n_queries, n_keys = shape
    strict = None if adder(mask, n_queries, n_keys) is None else reader(mask, n_queries, n_keys, dtype)
    if strict is None:
        return False
    try:
        for sample in range(min(batch, mask.shape[0])):
            for rows in row_blocks(n_queries, n_keys):
                strict(sample, rows)
    except AdditiveMaskError:
        return True
    return False


def _prove_bias(sources: list[Tensor], q: Tensor, n_keys: int, rule: ScoreSpec, name: str) -> Tensor | None:
    """The table of what `sources` add to the scores that count."""
    adders = [adder(x, q.shape[2], n_keys) for x in sources]
    known = [read for read in adders if read is not None]
    if len(known) < len(adders):
        shapes = ", ".join(str(list(x.shape)) for x in sources)
        raise ModelError(f"{name}: cannot read a bias of shape {shapes}; expected [B, H, Nq, Nk]")
    double = torch.float64 in (q.dtype, *(x.dtype for x in sources))
    dtype = torch.float64 if double else torch.float32
    try:
        return distance_table(known, rule, (*q.shape[:3], n_keys), dtype, q.device)
    except BiasMismatch as found:
        raise ModelError(
            f"{name}: its scores have a bias that is no function of the distance from query to key ({found}); two-dimensional "
            "and other relative positions cannot be expressed (the slow route takes such maps as the model writes them out)"
        ) from None


def refuse(seen: Observed, name: str) -> None:
    """Refuse by name what changes the attention map and cannot be expressed.

    Raises:
        ModelError: says what was found.
    """
    arguments = seen.arguments
    found = None
    if seen.module.training and arguments.get("dropout"):
        found = f"dropout {arguments['dropout']} is active; call model.eval() first"
    elif arguments.get("position_bias") is not None and backend_of(seen) == "flash":
        found = "its scores have a bias (position_bias), which flash attention leaves out; use eager or sdpa"
    elif arguments.get("cache") is not None:
        found = "it works on a paged cache; give the whole sequence without a cache"
    elif backend_of(seen) == "sdpa" and arguments.get("s_aux") is not None:
        found = "it has attention sinks (s_aux), which sdpa leaves out; use eager, flash or flex attention"
    code = getattr(seen.eager, "__code__", None)
    if found is None and code is not None:
        own = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        odd = [n for n in own if n not in _KNOWN and arguments.get(n) is not None]
        if odd:
            found = f"its attention takes {', '.join(odd)}, whose effect on the scores is unknown here"
        elif "sinks" in code.co_names and arguments.get("s_aux") is None:
            found = "its eager attention reads module.sinks, but no s_aux was passed"
    if found is not None:
        raise ModelError(f"{name} ({type(seen.module).__name__}): {found}")


def _refuse_not_finite(x: Tensor, valid: Tensor | None, name: str, what: str) -> None:
    finite = torch.linalg.vector_norm(x, ord=torch.inf, dim=(1, 3)).isfinite()  # no copy of x is made
    bad = ~finite if valid is None else ~finite & valid
    if bad.any():
        sample, position = (int(i) for i in bad.nonzero()[0])
        raise ModelError(
            f"{name}: NaN or infinity in the {what} of sample {sample}, position {position}; "
            "check the model's weights (and its dtype: float16 overflows)"
        )
