"""From the arguments of an attention call to its `ScoreSpec`, proven against the mask that the backend got.

Where a mask arrived, a rule counts only if it reproduces every entry over the valid queries. Where none
arrived, the rule
is what the backend does without a mask: eager attends to everything, sdpa and flash follow the causal flag.
"""

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps._switch import Observed
from probe.taps.masks import AdditiveMaskError, Mismatch, Reader, first_mismatch, reader

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


def backend_of(seen: Observed) -> str:
    """Which backend computed the call: "eager", "sdpa", "flash", "flex", or its name in the registry."""
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    known = {sdpa_attention_forward: "sdpa", flash_attention_forward: "flash", flex_attention_forward: "flex"}
    if seen.function is seen.eager:
        return "eager"
    return known.get(seen.function, str(seen.implementation))


class Rules:
    """Derives the rules of calls; remembers which masks are proven, since layers share them."""

    def __init__(self) -> None:
        self._proven: dict[tuple[object, ...], tuple[weakref.ref[Any], int, ScoreSpec]] = {}

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
            key_valid: False where a key is padding, [B, Nk]; None without padding.
            lengths: of the consecutive pieces that the backend attended to one by one; None if it took all at once.
            cross: whether the keys are positions of another group than the queries.

        Raises:
            ModelError: a rule that cannot be expressed, a mask that follows no known rule, NaN or Inf in q or
                k.
        """
        refuse(seen, name)
        q, k, arguments = seen.arguments["query"], seen.arguments["key"], seen.arguments
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
        rule = (
            self._without_mask(seen, spec, name) if mask is None else self._from_mask(mask, seen, spec, name)
        )
        _refuse_not_finite(q, rule.query_valid, name, "queries")
        _refuse_not_finite(k, rule.key_valid, name, "keys")
        return rule

    def _without_mask(self, seen: Observed, spec: ScoreSpec, name: str) -> ScoreSpec:
        backend = backend_of(seen)
        n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
        if spec.key_valid is not None:
            raise ModelError(
                f"{name}: the input is padded, but the {backend} backend got no mask and attends to padding; "
                "give one text at a time"
            )
        if backend in ("eager", "flex"):
            return spec
        if backend not in ("sdpa", "flash"):
            raise ModelError(
                f"{name}: the attention function {backend!r} got no mask, and what it does then is unknown; "
                "expected eager, sdpa, flash or flex attention (model.set_attn_implementation)"
            )
        if not _causal_flag(seen) or (backend == "sdpa" and n_queries == 1):
            return spec if backend == "sdpa" else _flash_window(spec, seen)
        if n_queries != n_keys and backend == "sdpa":
            raise ModelError(
                f"{name}: causal sdpa without a mask for {n_queries} queries, {n_keys} keys leaves keys out; "
                "give the whole sequence without a cache"
            )
        causal = replace(spec, causal=True, offset=n_keys - n_queries)
        return causal if backend == "sdpa" else _flash_window(causal, seen)

    def _from_mask(self, mask: Any, seen: Observed, spec: ScoreSpec, name: str) -> ScoreSpec:
        q, n_keys = seen.arguments["query"], seen.arguments["key"].shape[2]
        backend = backend_of(seen)
        if backend == "flash" and isinstance(mask, Tensor) and mask.ndim == 2:
            return _flash_padding(mask, seen, spec, name)
        tries = candidates(seen, spec)
        key = (id(mask), n_keys, tuple(describe(rule) for rule in tries))
        known = self._proven.get(key)
        if known is not None and known[0]() is mask and known[1] == _version(mask):
            rule = known[2]
            return replace(
                spec,
                causal=rule.causal,
                offset=rule.offset,
                window=rule.window,
                chunk=rule.chunk,
                origin=rule.origin,
            )
        read = reader(mask, q.shape[2], n_keys, q.dtype)
        if read is None:
            form = f"{tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ModelError(
                f"{name}: cannot read a mask of form {form} for {backend} attention; expected [B, 1, Nq, Nk]"
            )
        rule = _prove(read, tries, q.shape[0], q.shape[2], n_keys, name)
        if not (isinstance(mask, Tensor) and mask.is_inference()):  # such tensors do not count their changes
            self._proven[key] = (weakref.ref(mask), _version(mask), rule)
        return rule


def _padded(
    spec: ScoreSpec, q: Tensor, k: Tensor, query_valid: Tensor | None, key_valid: Tensor | None, name: str
) -> ScoreSpec:
    for what, flags, x in (("queries", query_valid, q), ("keys", key_valid, k)):
        if flags is not None and flags.shape != (x.shape[0], x.shape[2]):
            raise ModelError(
                f"{name}: {x.shape[2]} {what} (batch {x.shape[0]}) do not fit their padding mask {list(flags.shape)}; "
                "expected one flag for each"
            )
    padded = [None if v is None or bool(v.all()) else v.to(q.device, torch.bool) for v in (query_valid, key_valid)]
    return replace(spec, query_valid=padded[0], key_valid=padded[1])


def _version(mask: Any) -> int:
    return int(mask._version) if isinstance(mask, Tensor) else 0


def _causal_flag(seen: Observed) -> bool:
    flag = seen.arguments.get("is_causal")
    return bool(getattr(seen.module, "is_causal", True) if flag is None else flag)


def candidates(seen: Observed, spec: ScoreSpec) -> list[ScoreSpec]:
    """The rules worth trying for a mask, the likeliest first.

    transformers counts a bidirectional window inclusively (|i - j| ≤ w) but some models pass it exclusively;
    both are tried.
    """
    q, n_keys = seen.arguments["query"], seen.arguments["key"].shape[2]
    config = getattr(seen.module, "config", None)
    windows = [seen.arguments.get("sliding_window"), getattr(config, "sliding_window", None)]
    sizes = list(dict.fromkeys(int(w) for w in windows if isinstance(w, int) and w > 0))
    chunk = getattr(config, "attention_chunk_size", None)
    full = spec
    causal = replace(spec, causal=True, offset=n_keys - q.shape[2]) if q.shape[2] <= n_keys else None
    one_way = [] if causal is None else [replace(causal, window=w) for w in sizes] + [causal]
    if causal is not None and isinstance(chunk, int) and chunk > 0:
        origin = None if spec.key_valid is None else spec.key_valid.int().argmax(-1)
        one_way.append(replace(causal, chunk=chunk, origin=origin))
    both_ways = [full] + [replace(full, window=w + extra) for w in sizes for extra in (1, 0)]
    return one_way + both_ways if _causal_flag(seen) else both_ways + one_way


def describe(spec: ScoreSpec) -> str:
    """The visibility rule in words, for messages and attributes."""
    parts = ["causal" if spec.causal else "full"]
    parts += [f"window {spec.window}"] if spec.window is not None else []
    parts += [f"chunks of {spec.chunk}"] if spec.chunk is not None else []
    return " ".join(parts)


def _prove(
    read: Reader, tries: list[ScoreSpec], batch: int, n_queries: int, n_keys: int, name: str
) -> ScoreSpec:
    first: Mismatch | None = None
    for rule in tries:
        try:
            mismatch = first_mismatch(read, rule, batch, n_queries, n_keys)
        except AdditiveMaskError as bias:
            raise ModelError(
                f"{name}: the mask is a bias, not a rule of visibility: {bias}; not supported yet"
            ) from None
        if mismatch is None:
            return rule
        first = first or mismatch
    tried = ", ".join(dict.fromkeys(describe(rule) for rule in tries))
    raise ModelError(
        f"{name}: the mask follows none of the rules tried ({tried}); {describe(tries[0])!r} differs first "
        f"at {first}; packed, block and other custom masks are not supported yet"
    )


def _flash_window(spec: ScoreSpec, seen: Observed) -> ScoreSpec:
    window = seen.arguments.get("sliding_window")
    return spec if window is None else replace(spec, window=int(window))


def _flash_padding(mask: Tensor, seen: Observed, spec: ScoreSpec, name: str) -> ScoreSpec:
    n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
    same = (
        spec.key_valid is not None
        and mask.shape == spec.key_valid.shape
        and bool((mask.bool() == spec.key_valid).all())
    )
    if not same:
        raise ModelError(
            f"{name}: flash attention got a padding mask that differs from the input's attention_mask"
        )
    rule = replace(spec, causal=True, offset=n_keys - n_queries) if _causal_flag(seen) else spec
    return _flash_window(rule, seen)


def refuse(seen: Observed, name: str) -> None:
    """Refuse by name what changes the attention map and cannot be expressed.

    Raises:
        ModelError: says what was found.
    """
    arguments = seen.arguments
    found = None
    if seen.module.training and arguments.get("dropout"):
        found = f"dropout {arguments['dropout']} is active; call model.eval() first"
    elif arguments.get("position_bias") is not None:
        found = "its scores have a learned position bias (position_bias); not supported yet"
    elif arguments.get("cache") is not None:
        found = "it works on a paged cache; give the whole sequence without a cache"
    elif any(arguments.get(n) is not None for n in ("cu_seq_lens_q", "cu_seqlens", "cu_seq_lens_k")):
        found = "its input is packed (cu_seq_lens); give the texts as a padded batch"
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
