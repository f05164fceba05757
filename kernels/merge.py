"""Statistics of one map from its pieces: chunks of keys (pages of a cache, shards) and chunks of queries.

Over a chunk of keys every row has a log-sum-exp of its own, l_c. The whole row has l = ln(Σ_c exp(l_c) [+ exp(sink)]), and the
chunk's weights count w_c = exp(l_c - l) there. With that every statistic of the parts becomes one of the whole::

    Σ_j A_ij x_j = Σ_c w_c (Σ_j A_ij x_j)_c               key_mass, set_mass, distance, applied
    Σ_j A_ij²    = Σ_c w_c² (Σ_j A_ij²)_c                 second_moment
    H            = Σ_c w_c H_c - m_c w_c ln w_c           entropy; m_c is the chunk's key_mass
    max, top L   = those of the w_c-weighted candidates   max_prob, max_key, top_links

Columns of disjoint chunks of queries simply add. A merged part is a part again: merging is associative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.top_links import TopLinks

#: Statistics that the weight of a chunk scales; "applied" is A·X.
_LINEAR = ("key_mass", "distance", "applied", "set_mass")
_ROWS = (
    "lse", "entropy", "effective_keys", "max_prob", "max_key", "second_moment", "top_links", *_LINEAR
)  # fmt: skip
_COLUMNS = ("received", "transposed", "pooled")

Part = Mapping[str, Any]


def for_keys(spec: ScoreSpec, start: int, stop: int) -> ScoreSpec:
    """The rules for keys `start` to `stop` alone, as `k[:, :, start:stop]`; all queries take part.

    A sink logit is left out: it belongs to the whole row and is counted once, by `merge_keys`.

    Raises:
        ValueError: the slice is empty or starts before the first key.
    """
    if not 0 <= start < stop:
        raise ValueError(f"start, stop: got {start} and {stop}, expected 0 ≤ start < stop")
    valid = spec.key_valid
    return replace(
        spec,
        offset=spec.offset - start,
        before=(spec.before or 0) + start,
        key_valid=None if valid is None else valid[:, start:stop],
        sink=None,
    )


def chunk_weights(part_lse: Float[Tensor, "*rows"], lse: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """What weights that were normalised with a chunk's own log-sum-exp count in the whole row: exp(part_lse - lse).

    Give it as `weights` to `column_mass` where the columns of a chunk of keys are computed from the chunk's own `lse`; or
    multiply with it the rows of anything that is linear in the weights. 0 where the chunk shows a row nothing, NaN where a row
    is padding.
    """
    nothing = part_lse == -torch.inf
    return torch.where(nothing, 0.0, torch.exp(part_lse.double() - lse.double())).to(lse.dtype)


def merge_keys(
    parts: Sequence[Part], sink: Float[Tensor, "H"] | None = None, starts: Sequence[int] | None = None
) -> dict[str, Any]:
    """Row statistics of the whole map from those of disjoint chunks of its keys.

    A cache in pages, for example::

        parts, starts = [], range(0, n_keys, page)
        for a in starts:
            b = min(a + page, n_keys)
            chunk = q, k[:, :, a:b], for_keys(spec, a, b)
            part = row_stats(*chunk, ("lse", "entropy", "max_prob", "max_key"))
            parts.append({**part, "top_links": top_links(*chunk, lse=part["lse"])})
        whole = merge_keys(parts, spec.sink, starts)

    Columns of a chunk of keys need no merging: compute them with `whole["lse"]` and lay them side by side.

    Args:
        parts: for each chunk the statistics under the names that `row_stats` gives them, and `top_links`; all hold the same
            names, "lse" among them. Computed without the sink logit, as `for_keys` leaves it out; a part that counts it must
            hold "key_mass", as merged parts do. An empty dict stands for a chunk without keys.
        sink: the extra logit of each head, if no part counts it yet.
        starts: number of the first key of each part, needed where key numbers are merged; 0 for a part that is merged already.

    Returns:
        The same statistics of the whole rows, and always "lse" and "key_mass", so that the result is a part again. Where the
        weights of two keys differ by rounding only, either may come first.

    Raises:
        ValueError: nothing to merge; names that are unknown, differ between parts, or lack what they need.
    """
    given, offsets = _given(parts, starts)
    names = tuple(dict.fromkeys((*given[0], "lse", "key_mass")))
    local = torch.stack([part["lse"].double() for part in given])
    everything = local
    if sink is not None:
        logit = sink.to(local)[None, None, :, None].expand(1, *local.shape[1:])
        everything = torch.cat([local, logit])
    lse = torch.logsumexp(everything, 0)
    share = torch.where(local == -torch.inf, 0.0, (local - lse).exp())
    masses = [part.get("key_mass", (x > -torch.inf).double()) for part, x in zip(given, local, strict=True)]
    out: dict[str, Any] = {"lse": lse, "key_mass": _scaled(masses, share)}
    for name in names:
        if name in ("entropy", "effective_keys"):
            out[name] = _entropy([part[name] for part in given], share, masses, name == "effective_keys")
        elif name == "second_moment":
            out[name] = _scaled([part[name] for part in given], share.square())
        elif name in _LINEAR and name not in out:
            out[name] = _scaled([part[name] for part in given], share)
    out = {name: values.to(given[0].get(name, given[0]["lse"]).dtype) for name, values in out.items()}
    if "max_prob" in names:
        nameless = torch.zeros_like(given[0]["lse"], dtype=torch.int64)
        best = [(part.get("max_key", nameless)[..., None], part["max_prob"][..., None]) for part in given]
        keys, probs = _strongest(best, share, offsets)
        out["max_key"], out["max_prob"] = keys[..., 0], probs[..., 0]
    if "top_links" in names:
        out["top_links"] = _strongest([part["top_links"] for part in given], share, offsets)
    return {name: out[name] for name in names}


def merge_queries(parts: Sequence[Part]) -> dict[str, Any]:
    """Column statistics of the whole map from those of disjoint chunks of its queries.

    "received" and "transposed" (Aᵀ·Y) of `column_stats`, and its "pooled" sums where all parts use the cells of one grid. Rows
    of chunks of queries need no merging: lay them one after the other.

    Args:
        parts: for each chunk its statistics, all the same names, computed with the log-sum-exp of the whole rows; an empty dict
            stands for a chunk without queries.

    Returns:
        Their sums, float32 (float64 for float64 parts); NaN where a key is padding.

    Raises:
        ValueError: nothing to merge; names that are unknown or differ between parts.
    """
    given = _same_names(parts, _COLUMNS)
    return {
        name: sum((part[name].double() for part in given[1:]), given[0][name].double()).to(
            given[0][name].dtype
        )
        for name in given[0]
    }


def _scaled(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Σ_c w_c x_c; the weights [P, B, H, Nq] lack the last dimension of vectors x_c [B, H, Nq, C]."""
    terms = (x * (w if x.ndim == w.ndim else w[..., None]) for x, w in zip(values, weights, strict=True))
    return sum(terms, torch.zeros((), dtype=weights.dtype, device=weights.device))


def _entropy(values: Sequence[Tensor], share: Tensor, masses: Sequence[Tensor], effective: bool) -> Tensor:
    """Entropy of the whole rows, or its exponential, which is 0 where a row sees no key."""
    nothing = torch.stack([x == 0 for x in values]).all(0)
    if effective:
        values = [torch.where(x == 0, 0.0, x.double().log()) for x in values]
    spread = _scaled(masses, torch.special.entr(share))
    entropy = _scaled(values, share) + spread
    return torch.where(nothing, 0.0, entropy.exp()) if effective else entropy


def _strongest(links: Sequence[tuple[Tensor, Tensor]], share: Tensor, offsets: Sequence[int]) -> TopLinks:
    """The L strongest of the parts' links, falling, equal weights by key number; absent ones (-1) last."""
    absent = torch.iinfo(torch.int64).max
    keys = torch.cat(
        [torch.where(at < 0, absent, at + start) for (at, _), start in zip(links, offsets, strict=True)], -1
    )
    probs = torch.cat([p * w[..., None] for (_, p), w in zip(links, share, strict=True)], -1)
    keys, order = keys.sort(-1)
    probs, second = probs.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    kept = links[0][0].shape[-1]
    keys = keys.gather(-1, second)[..., :kept]
    return TopLinks(torch.where(keys == absent, -1, keys), probs[..., :kept].to(links[0][1].dtype))


def _given(parts: Sequence[Part], starts: Sequence[int] | None) -> tuple[list[Part], list[int]]:
    """The parts that hold something, and the number of their first keys."""
    given = _same_names(parts, _ROWS)
    names = given[0]
    for name, need in (*((name, "lse") for name in names), ("max_key", "max_prob")):
        if name in names and need not in names:
            raise ValueError(f"parts: got {name!r} without {need!r}, expected both")
    if starts is None:
        if "max_key" in names or "top_links" in names:
            raise ValueError(
                "starts: got None with key numbers to merge, expected the number of the first key of each part (0 for a part "
                "that is merged already)"
            )
        starts = [0] * len(parts)
    if len(starts) != len(parts):
        raise ValueError(f"starts: got {len(starts)} numbers for {len(parts)} parts, expected one for each")
    if "top_links" in names and len({part["top_links"].keys.shape[-1] for part in given}) > 1:
        raise ValueError(
            "parts: got top_links of different lengths, expected the same number of links in all"
        )
    return given, [start for part, start in zip(parts, starts, strict=True) if part]


def _same_names(parts: Sequence[Part], known: Sequence[str]) -> list[Part]:
    given = [part for part in parts if part]
    if not given:
        raise ValueError(f"parts: got {len(parts)} parts and none that holds anything, expected at least one")
    for part in given:
        if set(part) != set(given[0]) or not set(part) <= set(known):
            raise ValueError(
                f"parts: got {sorted(part)} beside {sorted(given[0])}, expected the same of {', '.join(known)} in every part"
            )
    return given
