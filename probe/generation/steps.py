"""One pass of a generation as a call like any other: keys up to the last that is filled, queries that count here first."""

from dataclasses import replace
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from probe.call import AttentionCall
from probe.errors import ModelError
from probe.taps.interface import Observed
from probe.taps.rules.derive import backend_of
from probe.taps.rules.masks import Reader, reader


def filled(seen: Observed, total: int, name: str, cuts: dict[object, Any]) -> Observed:
    """A call without the room that a static cache keeps for what is still to come.

    Args:
        seen: the call.
        total: positions fed so far.
        name: the module's name, for messages.
        cuts: masks of this pass and what was cut of them; layers share them.

    Raises:
        ModelError: that room is not hidden by the mask.
    """
    arguments = seen.arguments
    n_keys, n_queries = arguments["key"].shape[2], arguments["query"].shape[2]
    if n_keys <= total:
        return seen
    cut = {n: arguments[n][:, :, :total] for n in ("key", "value")}
    bias = arguments.get("position_bias")
    if isinstance(bias, Tensor) and bias.shape[-1] == n_keys:
        cut["position_bias"] = bias[..., :total]
    mask = arguments.get("attention_mask")
    if mask is None and _begins(seen, total):
        return replace(seen, arguments=arguments | cut)
    if ("mask", id(mask)) not in cuts:
        rest = _rest(mask, seen, total)
        if (
            mask is None
            or rest is None
            or any(bool(rest(b, range(n_queries)).any()) for b in range(mask.shape[0]))
        ):
            raise ModelError(
                f"{name}: {n_keys} keys for {total} positions, and no mask that hides the rest; expected a static cache of "
                "transformers, and eager or sdpa attention"
            )
        cuts["mask", id(mask)] = mask, mask[..., :total]
    return replace(seen, arguments=arguments | cut | {"attention_mask": cuts["mask", id(mask)][1]})


def _rest(mask: Any, seen: Observed, total: int) -> Reader | None:
    """How to read what a mask says of the keys that are not filled."""
    q, n_keys = seen.arguments["query"], seen.arguments["key"].shape[2]
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[3] != n_keys:
        return None
    return reader(mask[..., total:], q.shape[2], n_keys - total, q.dtype)


def _begins(seen: Observed, total: int) -> bool:
    """Whether causal sdpa without a mask, which counts queries from key 0 on, sees nothing but what is filled."""
    flag = seen.arguments.get("is_causal")
    causal = bool(getattr(seen.module, "is_causal", True) if flag is None else flag)
    return backend_of(seen) == "sdpa" and causal and seen.arguments["query"].shape[2] == total > 1


def latest(call: AttentionCall, new: int, ended: Bool[Tensor, "B"]) -> AttentionCall:
    """The call's last `new` queries alone, without the samples that have ended."""
    n_queries, n_keys = call.q.shape[2], call.k.shape[2]
    old, spec = n_queries - new, call.spec
    bound = spec.causal or any(
        x is not None for x in (spec.window, spec.chunk, spec.groups, spec.slopes, spec.distance_bias)
    )
    if bound and spec.offset != n_keys - n_queries:
        raise ModelError(
            f"{call.name}: {n_queries} queries from key {spec.offset} of {n_keys} on, expected the last ones"
        )
    valid = spec.query_valid
    if valid is not None:
        valid = valid[:, old:]
    if bool(ended.any()):
        going = ~ended.to(call.q.device)[:, None]
        valid = going.expand(-1, new) if valid is None else valid & going
    spec = replace(spec, offset=n_keys - new, query_valid=valid)
    arguments = {
        n: _rows_from(x, old, n_queries) if n == "position_bias" else x for n, x in call.arguments.items()
    }
    mask = _rows_from(call.mask, old, n_queries)
    return replace(
        call, q=call.q[:, :, old:], output=call.output[:, old:], spec=spec, mask=mask, arguments=arguments
    )


def _rows_from(x: Any, first: int, n_queries: int) -> Any:
    """The rows of a mask or a bias from one on; what has no rows stays."""
    rows = first > 0 and isinstance(x, Tensor) and x.ndim == 4 and x.shape[2] == n_queries
    return x[:, :, first:] if rows else x
