"""The map of a layer as an operator, or written out where it is small."""

from typing import TYPE_CHECKING

import numpy as np

from probe.errors import InputError
from probe.explainers.layers import Layer
from probe.explainers.reading import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from probe.explainers._rank.matrix_free import Operator

#: Rows or columns up to which a map is written out where it is asked for, and where nothing is asked.
EXACT_LIMIT, EXACT_AUTO = 4096, 512


def operator_of(layer: Layer, sample: int) -> "Operator":
    """One sample's maps of all heads by their products; padded rows and columns are zero, which no measure sees."""
    import torch

    from probe.explainers._rank.matrix_free import Operator
    from probe.kernels.column_pass import apply_transposed
    from probe.kernels.row_pass import row_stats

    one = sample_of(layer, sample)
    q, k, spec = one.q, one.k, one.spec
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    stats = row_stats(q, k, spec, ("lse", "second_moment"))
    queries, keys = one.valid(0)

    def forward(x: "Tensor") -> "Tensor":
        found = row_stats(q, k, spec, (), x=x[None].to(dtype).contiguous())["applied"][0]
        return found.double().masked_fill(~queries[None, :, None], 0)

    def backward(y: "Tensor") -> "Tensor":
        found = apply_transposed(q, k, spec, stats["lse"], y[None].to(dtype).contiguous())[0]
        return found.double().masked_fill(~keys[None, :, None], 0)

    energy = stats["second_moment"][0].double().masked_fill(~queries, 0).sum(-1)
    return Operator(q.shape[2], k.shape[2], forward, backward, energy)


def map_of(layer: Layer, sample: int, place: int) -> Floats:
    """One head's map written out, valid rows and columns only, [rows, columns] float64.

    Raises:
        InputError: it is too large to be written out.
    """
    from probe.kernels.tile import tile

    one = sample_of(layer, sample).head(place)
    queries, keys = (flags.nonzero()[:, 0] for flags in one.valid(0))
    if max(len(queries), len(keys)) > EXACT_LIMIT:
        raise InputError(
            f"method: got 'exact' for a map of {len(queries)} × {len(keys)}, expected at most {EXACT_LIMIT} a side; "
            "use method='free' (stable, effective, nuclear, participation, with errors)"
        )
    return np.asarray(tile(one.q, one.k, one.spec, one.lse, queries, keys)[0, 0].cpu(), dtype=np.float64)


def sample_of(layer: Layer, sample: int) -> Layer:
    """One sample of a layer, as a batch of one."""
    from dataclasses import replace

    names = ("origin", "groups", "documents", "key_valid", "query_valid")
    rules = {n: getattr(layer.spec, n) for n in names}
    cut = {n: x[sample : sample + 1] for n, x in rules.items() if x is not None}
    tensors = {n: getattr(layer, n)[sample : sample + 1] for n in ("q", "k", "v")}
    return replace(layer, spec=replace(layer.spec, **cut), **tensors)
