"""Column mass in plain torch, chunk by chunk, from a given log-sum-exp."""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import chunks, compute_dtype
from probe.kernels.sweep import absent


def column_mass(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    weights: Float[Tensor, "B H Nq"] | None,
) -> Float[Tensor, "B H Nk"]:
    """See `probe.kernels.column_pass.column_mass`."""
    mass = torch.zeros(*q.shape[:2], k.shape[2], dtype=compute_dtype(q), device=q.device)
    for chunk in chunks(q, k, spec):
        place = (chunk.sample, chunk.heads, chunk.rows)
        normaliser = lse[place].to(mass.dtype)
        counts = normaliser.isfinite()
        p = (chunk.scores - torch.where(counts, normaliser, 0.0)[..., None]).exp_()
        weight = counts.to(mass.dtype)
        if weights is not None:
            weight = weight * weights[place].to(mass.dtype)
        if spec.query_valid is not None:
            weight = weight * spec.query_valid[place[0], place[2]]
        mass[chunk.sample, chunk.heads, chunk.keys] += torch.bmm(weight[:, None, :], p)[:, 0]
    return absent({"received": mass}, spec)["received"]
