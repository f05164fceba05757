"""Massive activations: the few huge numbers in the residual stream that come with attention sinks."""

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

__all__ = ["massive_activations"]


@explainer(
    title="Massive activations",
    shape="runs",
    kind="map2d",
    references=("Sun et al., Massive Activations in Large Language Models, COLM 2024 (arXiv 2402.17762)",),
)
def massive_activations(
    model: Any,
    inputs: Any = None,
    *,
    magnitude: Annotated[float, Interval(0, 1e9, "a massive activation is larger than this")] = 100.0,
    ratio: Annotated[float, Interval(1, 1e9, "and this many times the layer's median")] = 1000.0,
    sample: Annotated[int, Interval(0, 1_000_000, "index of the sample")] = 0,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """Which tokens carry huge numbers in the residual stream, and in which layers: the tokens on which sinks rest.

    Args:
        model: whose residual stream is looked at.
        inputs: of the model.
        magnitude: least |x| of a massive activation (Sun et al.: 100).
        ratio: least ratio to the median |x| of the layer (Sun et al.: about 1,000).
        sample: which one of the inputs.
        tower: which tower.

    Returns:
        map2d, rows 0 (before the first block) to the number of blocks, columns the tokens: largest, the greatest |x| of
        the token's
        vector. Over rows: times_median, the greatest of all over the median |x|; massive_tokens, how many tokens have one.

    Raises:
        ModelError: a model without blocks that pass a residual stream on.
    """

    def look(x: "Tensor", valid: "Tensor") -> tuple[Any, float]:
        if sample >= len(valid):
            raise InputError(f"sample: got {sample}, expected 0 to {len(valid) - 1}")
        sizes = x[sample][valid[sample]].float().abs()
        return sizes.amax(1).cpu().double().numpy(), float(sizes.median())

    rows, blocks, places, valid, origin = residual_stream(model, inputs, tower, look)
    columns = np.flatnonzero(valid[sample].cpu().numpy())
    texts = pieces(places, sample, valid.shape[1])
    largest, median = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
    massive = (largest > magnitude) & (largest > ratio * median[:, None])
    over = largest.max(1) / np.where(median > 0, median, np.nan)
    result = xr.Dataset(
        {
            "largest": (("row", "column"), largest),
            "times_median": ("row", over),
            "massive_tokens": ("row", massive.sum(1).astype(np.float64)),
        },
        coords={
            "row": np.arange(len(rows)),
            "column": columns,
            "text": ("column", strings([texts[i] for i in columns])),
            "module": ("row", strings(["", *blocks])),
        },
    )
    result.attrs = {**origin, "unit": "1", "value": "largest", "sample": sample, "log": True}
    result.attrs |= {"row_title": "blocks passed", "column_title": "token", "margin": "massive_tokens"}
    return result
