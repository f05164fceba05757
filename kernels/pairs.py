"""Weights of chosen pairs of one query and one key each: what the heads give to the token before, to a copy, and so on.

A rectangle costs rows × keys; a list of pairs costs its own length, whatever the length of the text. It is a gather and a
product of two vectors a pair, so plain torch runs at the speed of memory on every device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.score import ScoreSpec, check
from probe.kernels.score_block import compute_dtype, shaped
from probe.kernels.visible import visible_pairs

#: Numbers of q (and of k) that are gathered at once.
GATHERED = 1 << 23


def pair_weights(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    rows: Int[Tensor, "P"],
    keys: Int[Tensor, "P"],
    sample: int = 0,
) -> Float[Tensor, "H P"]:
    """Compute A_ij = exp(score_ij - lse_i) for pairs (i, j) = (rows[p], keys[p]) of one sample, exactly.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        lse: log-sum-exp of every row, from `row_stats` under the same rules.
        rows: numbers of query rows.
        keys: numbers of keys, as many.
        sample: index in the batch.

    Returns:
        [H, P] float32 (float64 for float64 input). 0 where the row does not see the key or sees none; NaN where the query is
        padding.

    Raises:
        ValueError: a shape does not fit, or a row or key does not exist.
    """
    check(q, k, spec)
    if lse.shape != q.shape[:3]:
        raise ValueError(f"lse: got shape {tuple(lse.shape)}, expected {tuple(q.shape[:3])} as the rows of q")
    if rows.ndim != 1 or rows.shape != keys.shape:
        raise ValueError(
            f"keys: got shape {tuple(keys.shape)} with rows {tuple(rows.shape)}, expected two lists of one length"
        )
    for name, at, n in (("rows", rows, q.shape[2]), ("keys", keys, k.shape[2])):
        if at.numel() and not (int(at.min()) >= 0 and int(at.max()) < n):
            raise ValueError(
                f"{name}: got numbers from {int(at.min())} to {int(at.max())}, expected 0 to {n - 1}"
            )
    rows, keys, dtype = rows.to(q.device), keys.to(q.device), compute_dtype(q)
    out = torch.empty(q.shape[1], len(rows), dtype=dtype, device=q.device)
    step = max(1, GATHERED // (q.shape[1] * q.shape[3]))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        out[:, part] = _weights(q[sample], k[sample], spec, lse[sample], rows[part], keys[part], sample)
    return out


def _weights(
    q: Float[Tensor, "H Nq D"],
    k: Float[Tensor, "Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "H Nq"],
    rows: Int[Tensor, "P"],
    keys: Int[Tensor, "P"],
    sample: int,
) -> Float[Tensor, "H P"]:
    dtype, group = compute_dtype(q), q.shape[0] // k.shape[0]
    one = q[:, rows].to(dtype).unflatten(0, (k.shape[0], group))
    scores = (one * k[:, None, keys].to(dtype)).sum(-1).flatten(0, 1) * spec.scale
    scores = shaped(scores, spec, slice(0, q.shape[0]), keys - rows - spec.offset)
    of_rows = lse[:, rows].to(dtype)
    weights = (scores - of_rows).exp()
    weights.masked_fill_(~visible_pairs(spec, sample, rows, keys) | ~of_rows.isfinite(), 0)
    if spec.query_valid is not None:
        weights.masked_fill_(~spec.query_valid[sample][rows], float("nan"))
    return weights
