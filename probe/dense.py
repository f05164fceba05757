"""Statistics of a map that is written out: the slow route, where a model gives its weights and not its queries and keys."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["DENSE_STATISTICS", "dense_statistics"]

#: Weights that are looked at together.
_BLOCK = 1 << 22

#: What can be read off a written-out map.
DENSE_STATISTICS = (
    "entropy",
    "effective_keys",
    "max_prob",
    "max_key",
    "distance",
    "second_moment",
    "key_mass",
    "received",
)


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
    keys = torch.arange(n_keys, device=device)
    step = max(1, _BLOCK // (heads * n_keys))
    for sample in range(batch):
        for first in range(0, n_queries, step):
            place = slice(first, min(first + step, n_queries))
            p = weights[sample, :, place].to(exact)
            if query_valid is not None:
                p = p.masked_fill(~query_valid[sample, None, place, None].to(device), 0)
            away = (torch.arange(place.start, place.stop, device=device)[:, None] + offset - keys).abs()
            for name, values in _row_statistics(p, away, tuple(out)).items():
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


def _row_statistics(
    p: Float[Tensor, "H rows Nk"], away: Int[Tensor, "rows Nk"], names: tuple[str, ...]
) -> dict[str, Float[Tensor, "H rows"]]:
    """Statistics of rows; of a row that is empty all are 0, and its largest key -1, as the kernels say it."""
    seen = (p != 0).any(-1)
    rows: dict[str, Tensor] = {}
    if "entropy" in names or "effective_keys" in names:
        entropy = -torch.special.xlogy(p, p).sum(-1)
        rows |= {"entropy": entropy, "effective_keys": torch.where(seen, entropy.exp(), 0)}
    if "max_prob" in names or "max_key" in names:
        most, best = p.max(-1)
        rows |= {"max_prob": most, "max_key": torch.where(seen, best, -1)}
    if "distance" in names:
        rows["distance"] = (p * away).sum(-1)
    if "second_moment" in names:
        rows["second_moment"] = p.square().sum(-1)
    if "key_mass" in names:
        rows["key_mass"] = p.sum(-1)
    return {name: rows[name] for name in names}


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
