"""What attention backends do where no dense mask reaches them: no mask, pieces, flash's lists of padding and packing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.errors import ModelError
from probe.kernels.score import ScoreSpec, documents_of
from probe.kernels.visible import visible_counts
from probe.taps.interface import Observed
from probe.taps.rules.candidates import causal_flag


def backend_of(seen: Observed) -> str:
    """Which backend computed the call: "eager", "sdpa", "flash", "flex", or its name in the registry."""
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    known = {sdpa_attention_forward: "sdpa", flash_attention_forward: "flash", flex_attention_forward: "flex"}
    if seen.function is seen.eager:
        return "eager"
    return known.get(seen.function, str(seen.implementation))


def without_mask(seen: Observed, spec: ScoreSpec, name: str, *, cross: bool) -> ScoreSpec:
    """What a backend does that got no mask.

    Raises:
        ModelError: it is not known, it attends to padding, or it cannot be expressed.
    """
    backend = backend_of(seen)
    n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
    if backend not in ("eager", "flex", "sdpa", "flash"):
        raise ModelError(
            f"{name}: the attention function {backend!r} got no mask, and what it does then is unknown; "
            "expected eager, sdpa, flash or flex attention (model.set_attn_implementation)"
        )
    end = replace(spec, offset=0 if cross else n_keys - n_queries)
    if backend in ("eager", "flex") or not causal_flag(seen):
        rule = end
    elif backend == "flash":
        rule = _causal(spec, n_keys - n_queries, n_queries, n_keys, name)
    elif n_queries == 1:  # sdpa drops causality for a single query
        rule = end if cross else replace(end, causal=True)
    else:  # sdpa aligns query 0 with key 0
        rule = _causal(spec, 0, n_queries, n_keys, name)
    if backend == "flash":
        rule = _flash_documents(_flash_window(rule, seen), seen, name)
    if _sees_padding(rule, seen):
        raise ModelError(
            f"{name}: the input is padded, but the {backend} backend got no mask and attends to padding; "
            "give one text at a time"
        )
    return rule


def _causal(spec: ScoreSpec, offset: int, n_queries: int, n_keys: int, name: str) -> ScoreSpec:
    if not 0 <= offset <= n_keys - n_queries:
        raise ModelError(
            f"{name}: causal attention of {n_queries} queries to {n_keys} keys leaves queries without a key of their own; "
            "expected at least as many keys as queries"
        )
    return replace(spec, causal=True, offset=offset)


def _sees_padding(rule: ScoreSpec, seen: Observed) -> bool:
    """Whether a query that is no padding would see a padded key if padding were not hidden."""
    if rule.key_valid is None:
        return False
    q, n_keys = seen.arguments["query"], seen.arguments["key"].shape[2]
    counts = [
        visible_counts(spec, q.shape[0], q.shape[2], n_keys, q.device)[0]
        for spec in (rule, replace(rule, key_valid=None))
    ]
    return not torch.equal(*counts)


def in_pieces(seen: Observed, spec: ScoreSpec, lengths: tuple[int, ...], name: str) -> ScoreSpec:
    """The rule of pieces that were attended to one by one, without a mask: a document each.

    Raises:
        ModelError: the pieces do not make up the call; there is a mask; padding is among them.
    """
    n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
    batch = seen.arguments["query"].shape[0]
    if seen.arguments.get("attention_mask") is not None or n_queries != n_keys or sum(lengths) != n_keys:
        raise ModelError(
            f"{name}: pieces of {sum(lengths)} positions for {n_queries} queries and {n_keys} keys"
            f"{' with a mask' if seen.arguments.get('attention_mask') is not None else ''}; "
            "expected pieces that make up the queries and the keys, and no mask"
        )
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    documents = numbers.to(seen.arguments["query"].device).expand(batch, -1).contiguous()
    rule = without_mask(seen, replace(spec, key_valid=None), name, cross=False)
    rule = replace(rule, key_valid=spec.key_valid, documents=documents)
    if _sees_padding(rule, seen):
        raise ModelError(f"{name}: padding inside the pieces that are attended to; expected pieces without")
    return rule


def _flash_window(spec: ScoreSpec, seen: Observed) -> ScoreSpec:
    window = seen.arguments.get("sliding_window")
    return spec if window is None else replace(spec, window=int(window))


def _flash_documents(spec: ScoreSpec, seen: Observed, name: str) -> ScoreSpec:
    """What flash attention takes for packed texts: cumulative lengths, else positions that begin again (one row only)."""
    arguments, q = seen.arguments, seen.arguments["query"]
    n_keys = arguments["key"].shape[2]
    packed = _packed_lengths(arguments)
    if packed is not None:
        try:
            if q.shape[0] != 1 or q.shape[2] != n_keys or not torch.equal(*packed):
                raise ValueError(
                    f"{q.shape[0]} rows of {q.shape[2]} queries and {n_keys} keys, or lengths that differ"
                )
            return replace(spec, documents=documents_of(packed[0].long().to(q.device), n_keys))
        except ValueError as error:
            raise ModelError(
                f"{name}: its input is packed (cu_seq_lens): {error}; expected one row, and the same lengths for both"
            ) from None
    positions = arguments.get("position_ids")
    if not isinstance(positions, Tensor) or positions.ndim != 2 or q.shape[0] != 1 or positions.shape[1] == 1:
        return spec
    line = torch.arange(positions.shape[1], device=positions.device) + positions.min()
    if torch.equal(line.expand_as(positions), positions):
        return spec
    if positions.shape[1] != n_keys or q.shape[2] != n_keys or int(positions[0, 0]) != 0:
        raise ModelError(
            f"{name}: position_ids that jump, of {positions.shape[1]} positions for {q.shape[2]} queries and {n_keys} keys, "
            "say to flash attention where packed texts begin; expected one per key, from 0"
        )
    return replace(spec, documents=((positions[:1] == 0).long().cumsum(1) - 1).to(q.device))


def _packed_lengths(arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The cumulative lengths of queries and keys, where flash attention was given all that it needs to use them."""
    queries, keys = arguments.get("cu_seq_lens_q"), arguments.get("cu_seq_lens_k")
    longest = (arguments.get("max_length_q"), arguments.get("max_length_k"))
    if not isinstance(queries, Tensor) or not isinstance(keys, Tensor) or None in longest:
        return None
    return queries.flatten(), keys.flatten()


def flash_padding(mask: Tensor, seen: Observed, spec: ScoreSpec, name: str) -> ScoreSpec:
    """The rule of flash attention with a padding mask [B, Nk].

    Raises:
        ModelError: the padding is not that of the input.
    """
    n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
    valid = torch.ones_like(mask, dtype=torch.bool) if spec.key_valid is None else spec.key_valid
    if mask.shape != valid.shape or not torch.equal(mask.bool(), valid):
        raise ModelError(
            f"{name}: flash attention got a padding mask that differs from the input's attention_mask"
        )
    rule = _causal(spec, n_keys - n_queries, n_queries, n_keys, name) if causal_flag(seen) else spec
    return _flash_window(rule, seen)
