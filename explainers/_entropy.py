"""Attention entropy: how widely each head spreads its attention."""

from typing import Annotated

import numpy as np
import xarray as xr

from probe.errors import RecordError
from probe.explainers.reading import Floats, Ints, origin_of, tower_of
from probe.explainers.spec import Choice, Text, explainer

__all__ = ["entropy"]


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
        tower: group of the record.

    Returns:
        head_table, means over the rows of a sample, then over samples with equal weight: entropy [unit],
        normalized [1], effective_keys [keys]; and `samples`, how many samples entered `normalized`. Padded
        rows and rows that see no key are left out; a head without any row of two or more visible keys has NaN
        in `normalized`.

    Raises:
        RecordError: no "entropy" in the record, or a sample without any valid row.
    """
    data = tower_of(trace, tower, "entropy", "keys_seen")
    layers = [_layer(data.isel(layer=layer)) for layer in range(data.sizes["layer"])]
    table = {name: (("layer", "head"), np.stack([layer[name] for layer in layers])) for name in layers[0]}
    result = xr.Dataset(table, coords={c: data[c] for c in ("layer", "head", "module") if c in data.coords})
    if unit == "bits":
        result["entropy"] = result["entropy"] / np.log(2)
    result.attrs = {**origin_of(trace), "unit": unit.removesuffix("s"), "value": "entropy"}
    result.attrs["averaging"] = "mean over the rows of a sample, then over samples with equal weight"
    return result


def _layer(layer: xr.Dataset) -> dict[str, Floats]:
    values = layer["entropy"].transpose("sample", "head", "query").values.astype(np.float64)
    seen = layer["keys_seen"].transpose("sample", "query").values.astype(np.int64)
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
