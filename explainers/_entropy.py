"""Attention entropy: how widely each head spreads its attention."""

from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError, RecordError
from probe.explainers.layers import pieces
from probe.explainers.reading import Floats, Ints, origin_of, tower_of
from probe.explainers.spec import Choice, Interval, Text, explainer
from probe.record import strings

__all__ = ["entropy", "entropy_depth"]


Flags = NDArray[np.bool_]


@explainer(
    title="Attention entropy",
    shape="reads",
    kind="head_table",
    references=(
        "Shannon, A Mathematical Theory of Communication, 1948",
        "Clark et al., What Does BERT Look At?, BlackboxNLP 2019 (arXiv 1906.04341), §3.2",
        "Zhai et al., Preventing Attention Entropy Collapse, ICML 2023 (arXiv 2303.06296)",
    ),
)
def entropy(
    trace: xr.DataTree,
    *,
    unit: Annotated[str, Choice("nats", "bits", help="unit of the entropy")] = "nats",
    role: Annotated[
        str | None, Text("only the rows of tokens of this role, such as text or image; all without it")
    ] = None,
    tower: Annotated[str, Text("which tower of the record")] = "text",
) -> xr.Dataset:
    """How widely each head spreads its attention: entropy of its rows, normalised, and as a number of keys.

    H_i = −Σ_j a_ij ln a_ij over the keys that query i sees; H_i / ln(keys_seen_i) lies in [0, 1] and is
    undefined, hence left out, for rows with one visible key; exp(H_i) is the number of keys among which an
    even spread would have the same entropy. In models whose sink logits take part of the mass, rows sum to
    less than 1 and H_i is that of the part that is left, not renormalised.

    Args:
        trace: a record with the statistic "entropy".
        unit: "nats" or "bits", for the variable `entropy` alone.
        role: of the queries whose rows count.
        tower: group of the record.

    Returns:
        head_table, means over the rows of a sample, then over samples with equal weight: entropy [unit],
        normalized [1], effective_keys [keys]; and `samples`, how many samples entered `normalized`. Padded
        rows and rows that see no key are left out; a head without any row of two or more visible keys has NaN
        in `normalized`. Where the record knows roles, also by_role (layer, head, role): the mean normalised entropy of
        the rows of each role, over all samples' rows of it.

    Raises:
        RecordError: no "entropy" in the record, or a sample without any valid row.
        InputError: a role that no sample, or not every sample, has.
    """
    data = tower_of(trace, tower, "entropy", "keys_seen")
    roles = _roles(trace, data)
    chosen = _chosen(roles, role)
    layers = [_layer(data.isel(layer=layer), chosen) for layer in range(data.sizes["layer"])]
    table = {name: (("layer", "head"), np.stack([layer[name] for layer in layers])) for name in layers[0]}
    result = xr.Dataset(table, coords={c: data[c] for c in ("layer", "head", "module") if c in data.coords})
    if roles is not None:
        names = sorted({str(r) for r in roles.flat} - {"", "pad"})
        parts = [[_of_role(data.isel(layer=at), roles == r) for r in names] for at in range(len(layers))]
        result = result.assign_coords(role=strings(names))
        result["by_role"] = (("layer", "head", "role"), np.array(parts).transpose(0, 2, 1))
    if unit == "bits":
        result["entropy"] = result["entropy"] / np.log(2)
    result.attrs = {**origin_of(trace), "unit": unit.removesuffix("s"), "value": "entropy"}
    result.attrs["averaging"] = "mean over the rows of a sample, then over samples with equal weight"
    return result


@explainer(
    title="Attention entropy over depth",
    shape="reads",
    kind="map2d",
    references=("Clark et al., What Does BERT Look At?, BlackboxNLP 2019 (arXiv 1906.04341), §3.2",),
)
def entropy_depth(
    trace: xr.DataTree,
    *,
    sample: Annotated[int, Interval(0, 1_000_000, "index of the sample")] = 0,
    tower: Annotated[str, Text("which tower of the record")] = "text",
) -> xr.Dataset:
    """How widely each token of one text looks, in every layer: the entropy of its row over the highest possible.

    Args:
        trace: a record with the statistic "entropy".
        sample: which text.
        tower: group of the record.

    Returns:
        map2d, rows the layers, columns the tokens: normalized, H_i / ln(keys_seen_i), mean over heads, without tokens
        that see one key. Over rows: layer_mean, over the tokens that have one.

    Raises:
        RecordError: no "entropy" in the record.
        InputError: a sample that is not there, or a text whose tokens see one key each.
    """
    data = tower_of(trace, tower, "entropy", "keys_seen")
    if sample >= data.sizes["sample"]:
        raise InputError(f"sample: got {sample}, expected 0 to {data.sizes['sample'] - 1}")
    one = data.isel(sample=sample)
    seen = one["keys_seen"].transpose("layer", "query").values.astype(np.float64)
    mean = one["entropy"].transpose("layer", "head", "query").values.astype(np.float64).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = np.where(seen > 1, mean / np.log(seen), np.nan)
    valid = np.flatnonzero(seen[0] > 0)
    valid = valid[np.isfinite(normal[:, valid]).any(0)]
    normal = normal[:, valid]
    if not valid.size or not np.isfinite(normal).any(1).all():
        raise InputError(
            "sample: no token sees two keys, so no entropy has a highest value to be compared with"
        )
    group = str(data.attrs.get("queries", "tokens"))
    places = trace[group].to_dataset() if group in trace.children else None
    texts = pieces(places, sample, seen.shape[1])
    result = xr.Dataset(
        {
            "normalized": (("row", "column"), normal),
            "layer_mean": ("row", np.nanmean(normal, axis=1)),
        },
        coords={
            "row": data["layer"].values,
            "column": valid,
            "text": ("column", strings([texts[i] for i in valid])),
        },
    )
    result.attrs = {**origin_of(trace), "unit": "1", "value": "normalized", "sample": sample}
    result.attrs |= {"row_title": "layer", "column_title": "token", "margin": "layer_mean"}
    return result


def _roles(trace: xr.DataTree, data: xr.Dataset) -> NDArray[Any] | None:
    """Role of every query, [sample, query]; None where the record does not say."""
    group = str(data.attrs.get("queries", "tokens"))
    if group not in trace.children or "role" not in trace[group].to_dataset():
        return None
    return np.asarray(trace[group].to_dataset()["role"].values.astype(object))


def _chosen(roles: NDArray[Any] | None, role: str | None) -> Flags | None:
    if role is None:
        return None
    if roles is None or not (roles == role).any(1).all():
        there = "none" if roles is None else ", ".join(sorted({str(r) for r in roles.flat} - {"", "pad"}))
        raise InputError(
            f"role: got {role!r}, expected a role that every sample has; the record has: {there}"
        )
    return np.asarray(roles == role)


def _of_role(layer: xr.Dataset, chosen: Flags) -> Floats:
    """Mean normalised entropy of every head over the rows of one role; NaN where none sees two keys."""
    values = layer["entropy"].transpose("head", "sample", "query").values.astype(np.float64)
    seen = layer["keys_seen"].transpose("sample", "query").values
    there = chosen & (seen > 1)
    if not there.any():
        return np.full(len(values), np.nan)
    return np.asarray((values[:, there] / np.log(seen[there])).mean(1))


def _layer(layer: xr.Dataset, chosen: Flags | None) -> dict[str, Floats]:
    values = layer["entropy"].transpose("sample", "head", "query").values.astype(np.float64)
    seen = layer["keys_seen"].transpose("sample", "query").values.astype(np.int64)
    if chosen is not None:
        seen = np.where(chosen, seen, 0)
    samples = [_sample(values[s], seen[s]) for s in range(len(values))]
    found = {name: np.mean([s[name] for s in samples], axis=0) for name in ("entropy", "effective_keys")}
    normal = np.stack([s["normalized"] for s in samples])
    count = np.isfinite(normal).sum(axis=0)
    total = np.where(np.isfinite(normal), normal, 0.0).sum(axis=0)
    found["normalized"] = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    found["samples"] = count.astype(np.float64)
    return found


def _sample(values: Floats, seen: Ints) -> dict[str, Floats]:
    valid = seen > 0
    if not valid.any() or not np.isfinite(values[:, valid]).all():
        raise RecordError("'entropy' of a sample has no valid row, or no finite number at one")
    rows, several = values[:, valid], valid & (seen > 1)
    normal = values[:, several] / np.log(seen[several])
    return {
        "entropy": rows.mean(axis=1),
        "effective_keys": np.exp(rows).mean(axis=1),
        "normalized": normal.mean(axis=1) if several.any() else np.full(len(values), np.nan),
    }
