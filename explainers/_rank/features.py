"""Rank of what attention makes: KV buffer and outputs, softmax beside linear attention, on a model's own q, k and v."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr

from probe.explainers._rank.operator import sample_of
from probe.explainers._rank.spectrum import EPS, MEASURES, measures_of, singular_values
from probe.explainers.layers import Layer, each_layer
from probe.explainers.reading import Floats
from probe.explainers.spec import Choice, Flag, Interval, Text, explainer
from probe.explainers.tables import LayerTable

if TYPE_CHECKING:
    from torch import Tensor


@explainer(
    title="Rank of the head's output: softmax beside linear attention",
    shape="runs",
    kind="head_table",
    references=(
        "Fan et al., Breaking the Low-Rank Dilemma of Linear Attention (RALA), CVPR 2025 (arXiv 2411.07635)",
        "Katharopoulos et al., Transformers are RNNs, ICML 2020 (arXiv 2006.16236)",
    ),
)
def feature_rank(
    source: Any,
    inputs: Any = None,
    *,
    measure: Annotated[str, Choice(*MEASURES, help="measure of rank that is compared")] = "effective_rank",
    full: Annotated[
        bool, Flag("linear attention reads every token, whatever the model's own mask says")
    ] = False,
    data_dtype: Annotated[
        str, Choice("auto", *EPS, help="coarsest type that q, k, v went through; auto: their own")
    ] = "auto",
    energy: Annotated[float, Interval(0.01, 1, "share of Σ s² that the energy rank holds")] = 0.99,
    layers: Annotated[str | None, Text("numbers joined by commas")] = None,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """How many dimensions a head's output fills: as the model computes it, and if its attention were linear.

    The model's own q, k and v (positions already in them) go through softmax attention, through linear attention with
    κ = ELU + 1, and through linear attention whose tokens RALA's α weighs. No theorem says that α raises the rank: a positive
    diagonal leaves the generic rank as it is, so it is measured.

    Args:
        source: a record that kept q, k and v, or a model.
        inputs: of the model.
        measure: of rank. The numerical rank of all three is mostly full: it does not tell them apart.
        full: without it, linear attention is causal where the model is, and the weighted output is left out there (no causal
            form of α is published). KV buffers are of all tokens in any case.
        data_dtype: of the numerical rank.
        energy: of the energy rank.
        layers: which layers; all without it.
        tower: which tower.

    Returns:
        head_table, means over samples: softmax_output, linear_output, weighted_output, kv_buffer, weighted_kv_buffer, and
        linear_map (the d × d shortcut; where every token reads all); weight_effective_tokens, exp of the entropy of α / N.
        Over layers: softmax_concatenated and linear_concatenated, of all heads' outputs side by side.

    Raises:
        InputError: a layer that is not there, or a model without inputs.
        RecordError: the record kept no q, k and v.
    """
    table = LayerTable()
    causal: set[bool] = set()

    def take(layer: Layer) -> None:
        kind = data_dtype if data_dtype != "auto" else str(layer.q.dtype).removeprefix("torch.")
        causal.add(_is_causal(layer))

        def rank_of(matrix: "Tensor | Floats", longest: int | None = None) -> float:
            values = np.asarray(matrix, dtype=np.float64)
            s = singular_values(values) if values.ndim == 2 else values
            return measures_of(s, longest or max(values.shape), kind, energy)[measure]

        table.add(layer, [_sample(sample_of(layer, s), full, rank_of) for s in range(len(layer.q))])

    origin = each_layer(source, inputs, tower, take, layers=layers)
    result = table.dataset()
    result.attrs = {**origin, "unit": "1", "value": "softmax_output", "measure": measure}
    result.attrs["averaging"] = "mean over samples, equal weight"
    if True in causal and not full:
        result.attrs["note"] = (
            "The model is causal, and so is linear attention here; full=True lets it read every token and adds RALA's weights."
        )
    return result


def _is_causal(layer: Layer) -> bool:
    return layer.spec.causal and layer.q.shape[2] == layer.k.shape[2]


def _sample(layer: Layer, full: bool, rank_of: Any) -> dict[str, Any]:
    """All ranks of one sample, by name."""
    import torch

    from probe.explainers._rank.linear import (
        feature_map,
        kv_buffer,
        linear_output,
        linear_spectrum,
        token_weights,
    )
    from probe.kernels.row_pass import apply

    queries, keys = layer.valid(0)
    softmax = apply(layer.q, layer.k, layer.spec, layer.v)[0][:, queries].cpu().double()
    group, causal = layer.q.shape[1] // layer.k.shape[1], _is_causal(layer) and not full
    rows: list[dict[str, float]] = []
    linear: list[Tensor] = []
    for head in range(layer.q.shape[1]):
        q = layer.q[0, head, queries].cpu()
        k, v = (x[0, head // group, keys].cpu() for x in (layer.k, layer.v))
        fq, fk = feature_map(q), feature_map(k)
        alpha = token_weights(fq, fk)
        linear.append(linear_output(fq, fk, v, causal=causal))
        row = {"softmax_output": rank_of(softmax[head]), "linear_output": rank_of(linear[-1])}
        weighted = fk * alpha[:, None]
        row |= {"kv_buffer": rank_of(kv_buffer(fk, v)), "weighted_kv_buffer": rank_of(kv_buffer(weighted, v))}
        if not causal:
            row["weighted_output"] = rank_of(linear_output(fq, weighted, v))
            row["linear_map"] = rank_of(linear_spectrum(fq, fk), max(len(fq), len(fk)))
        row["weight_effective_tokens"] = float(torch.special.entr(alpha / alpha.sum()).sum().exp())
        rows.append(row)
    found: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    found["softmax_concatenated"] = np.float64(rank_of(softmax.transpose(0, 1).flatten(1)))
    stacked = [output.numpy() for output in linear]
    found["linear_concatenated"] = np.float64(rank_of(np.concatenate(stacked, 1)))
    return found
