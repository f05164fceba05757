"""Entropy of attention on keys of one role alone, such as image tokens."""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._rank.operator import sample_of
from probe.explainers.layers import Layer, each_layer
from probe.explainers.reading import Floats
from probe.explainers.spec import Text, explainer
from probe.explainers.tables import LayerTable

__all__ = ["role_entropy"]


@explainer(
    title="Entropy on keys of one role",
    shape="runs",
    kind="head_table",
    references=(
        "Clark et al., What Does BERT Look At?, BlackboxNLP 2019 (arXiv 1906.04341), §3.2",
        "Ge et al., Focusing by Contrastive Attention (CARVE), 2025 (arXiv 2509.06461)",
    ),
)
def role_entropy(
    source: Any,
    inputs: Any = None,
    *,
    keys: Annotated[str, Text("role of the keys, such as text, special or image")] = "text",
    queries: Annotated[str | None, Text("role of the queries; all without it")] = None,
    layers: Annotated[str | None, Text("numbers joined by commas")] = None,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """How widely each head spreads what it gives to the keys of one role, and how much that is.

    The row is renormalised over these keys: H = −Σ_j p_j ln p_j with p_j = a_ij / Σ_{j in role} a_ij, computed by a
    sweep over them alone.

    Args:
        source: a record that kept q, k and v, or a model.
        inputs: of the model.
        keys: which keys.
        queries: which rows count.
        layers: which layers; all without it.
        tower: which tower.

    Returns:
        head_table, means over rows that see two or more such keys, then over samples: normalized, H / ln(number of them
        that the row sees); entropy [nat]; effective_keys, exp(H); mass, the share of the row's attention on them.

    Raises:
        InputError: a role that the positions do not have, or whose keys no row sees two of.
        RecordError: the record kept no q and k.
    """
    table = LayerTable()

    def take(layer: Layer) -> None:
        table.add(layer, [_sample(layer, s, keys, queries) for s in range(len(layer.q))])

    origin = each_layer(source, inputs, tower, take, layers=layers)
    result = table.dataset()
    result.attrs = {**origin, "unit": "1", "value": "normalized", "keys": keys, "queries": queries or "all"}
    result.attrs["averaging"] = "mean over the rows of a sample, then over samples with equal weight"
    return result


def _sample(layer: Layer, sample: int, keys: str, queries: str | None) -> dict[str, Floats]:
    import torch

    from probe.kernels.row_pass import row_stats
    from probe.kernels.visible import visible_counts

    of_keys = _of_role("keys", layer.keys, keys, sample)
    of_rows = np.ones(layer.q.shape[2], bool)
    if queries is not None:
        of_rows = _of_role("queries", layer.queries, queries, sample)
    one = sample_of(layer, sample)
    member = torch.from_numpy(of_keys).to(one.q.device)
    valid = member & one.valid(0)[1]
    spec = replace(one.spec, key_valid=valid[None], sink=None)
    entropy = row_stats(one.q, one.k, spec, ("entropy",))["entropy"][0].double().cpu().numpy()
    sets = valid[None, None, :, None]
    mass = row_stats(one.q, one.k, one.spec, (), key_sets=sets)["set_mass"][0, ..., 0].double().cpu().numpy()
    seen = visible_counts(spec, 1, one.q.shape[2], one.k.shape[2], one.q.device)[0][0].cpu().numpy()
    rows = of_rows & (seen > 1)
    if not rows.any():
        raise InputError(f"keys: no row sees two or more keys of the role {keys!r}, so there is no entropy")
    chosen = entropy[:, rows]
    return {
        "normalized": (chosen / np.log(seen[rows])).mean(1),
        "entropy": chosen.mean(1),
        "effective_keys": np.exp(chosen).mean(1),
        "mass": mass[:, rows].mean(1),
    }


def _of_role(name: str, places: xr.Dataset | None, role: str, sample: int) -> "np.ndarray[Any, Any]":
    roles = np.array([]) if places is None else np.array([str(r) for r in places["role"].values[sample]])
    if not (roles == role).any():
        there = ", ".join(sorted(set(roles.tolist()) - {"pad"})) or "none"
        raise InputError(f"{name}: got {role!r}, expected a role of the positions, which have: {there}")
    return np.asarray(roles == role)
