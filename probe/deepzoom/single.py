"""Single entries, rows and columns of a kept map: exact weights, computed from q, k and log-sum-exps when asked for."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.deepzoom.kept import rules_of, tensor
from probe.errors import InputError
from probe.kernels.heads import of_heads
from probe.kernels.score import ScoreSpec
from probe.kernels.tile import tile

Array = np.ndarray[Any, Any]
#: Rows that are computed at once.
_TOGETHER = 32


def alone(kept: xr.Dataset, head: int, sample: int) -> xr.Dataset:
    """One head of one sample as a kept layer of its own: q, k and log-sum-exps in memory, pooled maps as they lie, no values.

    Args:
        kept: a group `/qkv/<stream>/<layer>` of a record.
        head: number of the head.
        sample: index of the sample.

    Raises:
        InputError: a head or sample that was not kept.
    """
    heads = kept["head"].values.tolist()
    if head not in heads:
        raise InputError(f"head: got {head!r}, expected one of those that were kept: {heads}")
    if not 0 <= sample < kept.sizes["sample"]:
        raise InputError(f"sample: got {sample!r}, expected 0 to {kept.sizes['sample'] - 1}")
    place = heads.index(head)
    key_place = int(kept["key_head_of"].values[place])
    one = kept.drop_vars("v").isel(sample=[sample], head=[place], key_head=[key_place])
    one["key_head_of"] = ("head", np.zeros(1, dtype=np.int64))
    for name in map(str, list(one.data_vars)):
        if not name.startswith("pyramid_"):
            one[name] = one[name].load()
    return one


def entries(one: xr.Dataset, rows: range, keys: range, what: str = "prob") -> Array:
    """Exact values of a rectangle [len(rows), len(keys)], see `probe.kernels.tile.tile`.

    Args:
        one: a single head, from `alone`.
        rows: queries.
        keys: keys.
        what: "prob" for weights, "score" for scores before the softmax.

    Raises:
        InputError: rows or keys that there are not.
    """
    q, k, lse, spec = _operator(one)
    try:
        found = tile(q, k, spec, lse if what == "prob" else None, rows, keys, what)
    except ValueError as error:
        raise InputError(str(error)) from error
    values: Array = found[0, 0].cpu().numpy()
    return values


def strongest(
    one: xr.Dataset, links: int, *, query: int | None = None, key: int | None = None
) -> tuple[Array, Array]:
    """The strongest keys of a query, or the queries that attend most to a key: numbers and exact weights, strongest first.

    Args:
        one: a single head, from `alone`.
        links: how many.
        query: the query; or
        key: the key.

    Raises:
        InputError: a query or key that there is not, or not exactly one of them.
    """
    n_queries, n_keys = one.sizes["query"], one.sizes["key"]
    if (query is None) == (key is None):
        raise InputError("strongest: expected either a query or a key")
    if query is not None:
        weights = entries(one, range(query, query + 1), range(n_keys))[0]
    else:
        weights = entries(one, range(n_queries), range(key or 0, (key or 0) + 1))[:, 0]
    weights = np.nan_to_num(weights)
    order = np.argsort(-weights, kind="stable")[:links]
    order = order[weights[order] > 0]
    return order, weights[order]


def distances(one: xr.Dataset, most: int = 256) -> xr.Dataset:
    """How a head's attention is spread over distance: Σ A_ij over the pairs with |i - j| in a bin, mean over queries.

    Bins are 0, 1, 2, 3-4, 5-8, … positions. A map of up to `most` queries is taken whole; of a longer one every n-th query is,
    each exactly, and the spread between them gives the standard error.

    Args:
        one: a single head, from `alone`.
        most: the most queries.

    Returns:
        `mass` and `error` over `bin`, coordinates `first` and `last` distance of each bin. Attributes: `queries`, how many were
        taken, and `step`, from one to the next.
    """
    n_queries, n_keys = one.sizes["query"], one.sizes["key"]
    step = -(-n_queries // most)
    rows = range((n_queries - 1) % step, n_queries, step)  # the last query, which sees most, is among them
    spec = _operator(one)[3]
    last = 1
    edges = [0, 1]
    while last < max(n_queries + spec.offset, n_keys):
        edges.append(last + 1)
        last *= 2
    masses = []
    for at in range(0, len(rows), _TOGETHER):
        some = rows[at : at + _TOGETHER]
        for row, weights in zip(some, np.nan_to_num(entries(one, some, range(n_keys))), strict=True):
            distance = np.abs(np.arange(n_keys) - (row + spec.offset))
            bins = np.searchsorted(edges, distance, side="right") - 1
            masses.append(np.bincount(bins, weights.astype(np.float64), minlength=len(edges)))
    taken = np.stack(masses)
    error = taken.std(0, ddof=1) / np.sqrt(len(taken)) if step > 1 else np.zeros(len(edges))
    coords = {"first": ("bin", np.array(edges)), "last": ("bin", np.array([*edges[1:], last + 1]) - 1)}
    return xr.Dataset(
        {"mass": ("bin", taken.mean(0)), "error": ("bin", error)},
        coords,
        {"queries": len(taken), "step": step, "unit": "probability"},
    )


def _operator(one: xr.Dataset) -> tuple[Tensor, Tensor, Tensor, ScoreSpec]:
    q, k, lse = (tensor(one[name].variable) for name in ("q", "k", "lse"))
    return (
        q,
        k,
        lse.to(torch.float64 if q.dtype == torch.float64 else torch.float32),
        of_heads(rules_of(one), [0]),
    )
