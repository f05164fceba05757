"""Rank collapse over depth: how far the tokens' vectors still differ from each other, layer by layer."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers.layers import pieces
from probe.explainers.spec import Interval, Text, explainer
from probe.explainers.stream import residual_stream
from probe.record import strings

if TYPE_CHECKING:
    from torch import Tensor


@explainer(
    title="Rank collapse over depth",
    shape="runs",
    kind="map2d",
    references=("Dong, Cordonnier and Loukas, Attention is Not All You Need, ICML 2021 (arXiv 2103.03404)",),
)
def rank_collapse(
    model: Any,
    inputs: Any = None,
    *,
    sample: Annotated[int, Interval(0, 1_000_000, "index of the sample")] = 0,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """Whether the residual stream collapses towards one vector: how much of each token's vector is its own.

    res(X) = X − 1x̄ with the mean x̄ of the tokens. A share of 0 means that all tokens have become one vector (rank
    one); attention without skip connections and MLPs gets there doubly exponentially with depth.

    Args:
        model: whose residual stream is looked at.
        inputs: of the model.
        sample: which one of them.
        tower: which tower.

    Returns:
        map2d, rows 0 (before the first block) to the number of blocks, columns the tokens: token_residual, ‖x_i − x̄‖ /
        ‖x_i‖. Over
        rows: residual ‖res(X)‖_F / ‖X‖_F, composite √(‖res‖₁‖res‖_∞) / √(‖X‖₁‖X‖_∞), cosine, the mean over pairs of tokens.

    Raises:
        ModelError: a model without blocks that pass a residual stream on.
    """

    def look(x: "Tensor", valid: "Tensor") -> dict[str, Any]:
        if sample >= len(valid):
            raise InputError(f"sample: got {sample}, expected 0 to {len(valid) - 1}")
        return _measures(x[sample][valid[sample]].cpu().double())

    rows, blocks, places, valid, origin = residual_stream(model, inputs, tower, look)
    there = valid[sample].cpu()
    columns = np.flatnonzero(there.numpy())
    texts = pieces(places, sample, len(there))
    result = xr.Dataset(
        {
            "token_residual": (("row", "column"), np.stack([row.pop("token") for row in rows])),
            **{name: ("row", np.array([float(row[name]) for row in rows])) for name in rows[0]},
        },
        coords={
            "row": np.arange(len(rows)),
            "column": columns,
            "text": ("column", strings([texts[i] for i in columns])),
            "module": ("row", strings(["", *blocks])),
        },
    )
    result.attrs = {**origin, "unit": "1", "value": "token_residual", "sample": sample}
    result.attrs |= {"row_title": "blocks passed", "column_title": "token", "margin": "residual"}
    return result


def _measures(x: "Tensor") -> dict[str, Any]:
    """All measures of one depth; x is [N, D], float64."""
    rest = x - x.mean(0)
    own = rest.norm(dim=1) / x.norm(dim=1).clamp(min=1e-300)
    unit = x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)
    n = len(x)
    cosine = float((unit.sum(0).square().sum() - n) / (n * (n - 1))) if n > 1 else float("nan")

    def composite(y: "Tensor") -> float:
        return float((y.abs().sum(0).max() * y.abs().sum(1).max()).sqrt())

    return {
        "token": own.numpy(),
        "residual": float(rest.norm() / x.norm()),
        "composite": composite(rest) / composite(x),
        "cosine": cosine,
    }
