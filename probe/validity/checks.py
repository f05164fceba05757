"""Checks that exact maps obey whatever they were computed from; those of maps that the model itself wrote out."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from probe.call import MapCall
from probe.record import Check
from probe.stats import STATS

Array = np.ndarray[Any, Any]
EPS = float(torch.finfo(torch.float32).eps)
#: Weights that are looked at together.
_BLOCK = 1 << 22


def padding(layer: int, values: Mapping[str, Array], queries: Array, keys: Array) -> Check:
    """Statistics are absent at padded positions and nowhere else.

    Args:
        layer: number of the layer.
        values: statistics [B, H, Nq], or [B, H, Nk] where the table of statistics says so.
        queries: False where a query is padding, [B, Nq].
        keys: False where a key is padding, [B, Nk].
    """
    wrong = 0
    for name, x in values.items():
        along = STATS[name].along
        if along != "map":
            valid = keys if along == "key" else queries
            absent = x < 0 if x.dtype.kind == "i" else np.isnan(x)
            wrong += int((absent != ~valid[:, None, :]).sum())
    return Check(
        "padding", layer, float(wrong), 0.0, "statistics that are absent at tokens, or there at padding"
    )


def given_by_rows(keys_seen: Array, queries: Array) -> Array:
    """The mass that all valid queries give to keys, 1 each if they see any: [B, 1]."""
    given: Array = ((keys_seen > 0) & queries).sum(1)[:, None].astype(np.float64)
    return given


def outside(layer: int, entropy: Array, upper: Array, tolerance: Array) -> Check:
    """How far entropies [B, H, Nq] lie outside [0, upper], upper [B, Nq]."""
    over = np.maximum(-entropy, entropy - upper[:, None, :])
    worst = np.nanmax(np.maximum(over, 0), axis=2, initial=0.0)
    return worst_of("entropy bounds", layer, worst, tolerance, "entropy outside [0, ln of the keys seen]")


def worst_of(name: str, layer: int, errors: Array, tolerances: Array, meaning: str) -> Check:
    """The error that is largest beside its own tolerance."""
    tiny = np.finfo(np.float64).tiny
    ratio = np.where(np.isnan(errors), np.inf, errors) / np.maximum(tolerances, tiny)
    at = np.unravel_index(int(ratio.argmax()), ratio.shape)
    return Check(
        name, layer, float(errors[at]), float(np.broadcast_to(tolerances, errors.shape)[at]), meaning
    )


def map_checks(call: MapCall, values: Mapping[str, Array], keys_seen: Array) -> list[Check]:
    """The checks of a map that the model wrote out.

    A weight is off by half a digit of its dtype, a sum of n by (√n + 8)·ε of float32 more.

    Args:
        call: the call.
        values: statistics of the map, [B, H, Nq] or [B, H, Nk].
        keys_seen: visible keys per query, [B, Nq].
    """
    batch, _, n_queries, n_keys = call.weights.shape
    queries, keys = (
        np.ones((batch, n), dtype=bool) if flags is None else flags.cpu().numpy()
        for flags, n in ((call.query_valid, n_queries), (call.key_valid, n_keys))
    )
    digits = float(torch.finfo(call.weights.dtype).eps)
    error = digits + (math.sqrt(n_keys) + 8) * EPS
    sums, odd, leaked = _looked_at(call, keys)
    counted = np.broadcast_to((queries & (keys_seen > 0))[:, None], sums.shape)
    found = [
        worst_of(
            "row sums",
            call.layer,
            np.where(counted, np.abs(sums - 1), 0.0).max(2, initial=0.0),
            np.full(1, error),
            "|Σ_k weights - 1| of queries that are no padding, as the model wrote them out",
        ),
        Check(
            "weights",
            call.layer,
            odd,
            0.0,
            "weights below 0, above 1 or not finite, of queries that are no padding",
        ),
        Check("weights at padding", call.layer, leaked, 0.0, "largest weight that a query gives to padding"),
    ]
    if "received" in values:
        total = np.nansum(values["received"], axis=2, dtype=np.float64)
        given = np.where(queries[:, None], sums, 0.0).sum(2)
        tolerance = np.maximum(given, 1) * ((math.sqrt(max(n_queries, n_keys)) + 8) * EPS)
        meaning = "|Σ_k received - Σ_q mass given to keys|, per head"
        found.append(worst_of("column sums", call.layer, np.abs(total - given), tolerance, meaning))
    if "entropy" in values:
        upper = np.log(np.maximum(keys_seen, 1).astype(np.float64))
        found.append(
            outside(call.layer, values["entropy"], upper, np.full(1, 2 * error * (1 + math.log(n_keys))))
        )
    return found


def _looked_at(call: MapCall, keys: Array) -> tuple[Array, float, float]:
    """Row sums [B, H, Nq], how many weights are no probabilities, and the largest at a padded key; some rows at a time."""
    batch, heads, n_queries, n_keys = call.weights.shape
    device = call.weights.device
    there = torch.ones(batch, n_queries, dtype=torch.bool, device=device)
    there = there if call.query_valid is None else call.query_valid.to(device)
    hidden = ~torch.from_numpy(keys).to(device)
    sums = np.zeros((batch, heads, n_queries))
    odd, leaked = 0, 0.0
    step = max(1, _BLOCK // (heads * n_keys))
    most = 1 + float(torch.finfo(call.weights.dtype).eps)
    for sample in range(batch):
        for first in range(0, n_queries, step):
            rows = slice(first, first + step)
            p = call.weights[sample, :, rows].to(torch.float32)
            mine = there[sample, rows]
            sums[sample, :, rows] = p.sum(-1).double().cpu().numpy()
            odd += int((~((p >= 0) & (p <= most)) & mine[None, :, None]).sum())
            at_padding = p.masked_fill(~(hidden[sample] & mine[:, None]), 0)
            leaked = max(leaked, float(at_padding.abs().amax()) if at_padding.numel() else 0.0)
    return sums, float(odd), leaked


def ratio(check: Check) -> float:
    """The worst error of a check, in tolerances."""
    return check.worst / max(check.tolerance, float(np.finfo(np.float64).tiny))
