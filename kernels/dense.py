"""Statistics of a map that is written out, by their definitions: the slow route, where a model gives its weights and not its
queries and keys, and the truth that reports and benchmarks hold the kernels against.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["DEFINITIONS", "DENSE_STATISTICS", "dense_statistics", "row_definitions"]

#: Weights that are looked at together.
_BLOCK = 1 << 22


def _seen(p: Tensor) -> Tensor:
    return (p != 0).any(-1)


def _entropy(p: Tensor, _away: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)  # type: ignore[no-any-return]


#: Row statistics from weights p [..., rows, keys] and each key's distance from its row, |i - j| [rows, keys]. Of a row that is
#: empty all are 0, and its largest key -1, as the kernels say it.
DEFINITIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "entropy": _entropy,
        "effective_keys": lambda p, away: torch.where(_seen(p), _entropy(p, away).exp(), 0),
        "max_prob": lambda p, _: p.amax(-1),
        "max_key": lambda p, _: torch.where(_seen(p), p.argmax(-1), -1),
        "distance": lambda p, away: (p * away).sum(-1),
        "second_moment": lambda p, _: p.square().sum(-1),
        "key_mass": lambda p, _: p.sum(-1),
    }
)

#: What can be read off a written-out map.
DENSE_STATISTICS = (*DEFINITIONS, "received")


def row_definitions(
    p: Float[Tensor, "... rows keys"], at: Int[Tensor, "rows"], names: Sequence[str] = tuple(DEFINITIONS)
) -> dict[str, Float[Tensor, "... rows"]]:
    """Row statistics of a map that is there, in its own precision.

    Args:
        p: the weights.
        at: position of each row among the keys.
        names: some of `DEFINITIONS`.
    """
    away = (at[:, None] - torch.arange(p.shape[-1], device=p.device)).abs()
    return {name: DEFINITIONS[name](p, away) for name in names}


def dense_statistics(
    weights: Float[Tensor, "B H Nq Nk"],
    names: Sequence[str],
    query_valid: Bool[Tensor, "B Nq"] | None,
    key_valid: Bool[Tensor, "B Nk"] | None,
    *,
    offset: int | None = None,
) -> dict[str, Tensor]:
    """Compute the statistics in `names` of a map that is there, some rows at a time, in float64 where the device knows it.

    Args:
        weights: the map; what stands in the rows of padded queries does not matter.
        names: some of `DENSE_STATISTICS`, as `probe.stats` defines them.
        query_valid: False where a query is padding; None without padding.
        key_valid: False where a key is padding; None without padding.
        offset: the key at which query 0 stands, for "distance"; None: the queries stand at the last keys.

    Returns:
        Each statistic [B, H, Nq] ("received": [B, H, Nk]), float32 (float64 for float64 weights), "max_key" int64; NaN, or -1,
        where the position is padding.

    Raises:
        ValueError: no name, or one that needs the scores themselves or is no statistic; a shape that does not fit.
    """
    wanted = tuple(dict.fromkeys(names))
    odd = [name for name in wanted if name not in DENSE_STATISTICS]
    if odd or not wanted:
        why = " (lse and pooled need queries and keys)" if {"lse", "pooled"} & set(odd) else ""
        got = ", ".join(odd) if odd else "none"
        raise ValueError(
            f"names: got {got}, expected some of {', '.join(DENSE_STATISTICS)} for a map that is written out{why}"
        )
    batch, heads, n_queries, n_keys = _shape(weights, query_valid, key_valid)
    if offset is None:
        offset = max(0, n_keys - n_queries)
    exact = torch.float32 if weights.device.type == "mps" else torch.float64
    dtype = torch.float64 if weights.dtype == torch.float64 else torch.float32
    device = weights.device
    out = {
        name: torch.empty(
            batch, heads, n_queries, dtype=torch.int64 if name == "max_key" else dtype, device=device
        )
        for name in wanted
        if name != "received"
    }
    received = torch.zeros(batch, heads, n_keys, dtype=exact, device=device)
    step = max(1, _BLOCK // (heads * n_keys))
    for sample in range(batch):
        for first in range(0, n_queries, step):
            place = slice(first, min(first + step, n_queries))
            p = weights[sample, :, place].to(exact)
            if query_valid is not None:
                p = p.masked_fill(~query_valid[sample, None, place, None].to(device), 0)
            at = torch.arange(place.start, place.stop, device=device) + offset
            for name, values in row_definitions(p, at, tuple(out)).items():
                out[name][sample, :, place] = values.to(out[name].dtype)
            if "received" in wanted:
                received[sample] += p.sum(1)
    if "received" in wanted:
        out["received"] = received.to(dtype)
    for name, values in out.items():
        valid = key_valid if name == "received" else query_valid
        if valid is not None:
            absent = float("nan") if values.is_floating_point() else -1
            values.masked_fill_(~valid.to(device)[:, None], absent)
    return {name: out[name] for name in wanted}


def _shape(
    weights: Tensor, query_valid: Tensor | None, key_valid: Tensor | None
) -> tuple[int, int, int, int]:
    if weights.ndim != 4 or not weights.is_floating_point():
        raise ValueError(
            f"weights: got {weights.dtype} of shape {list(weights.shape)}, expected a float map [B, H, Nq, Nk]"
        )
    batch, heads, n_queries, n_keys = weights.shape
    for name, valid, n in (("query_valid", query_valid, n_queries), ("key_valid", key_valid, n_keys)):
        if valid is not None and (valid.shape != (batch, n) or valid.dtype != torch.bool):
            raise ValueError(
                f"{name}: got {valid.dtype} of shape {list(valid.shape)}, expected torch.bool [{batch}, {n}]"
            )
    return batch, heads, n_queries, n_keys
