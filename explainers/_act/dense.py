"""ACT on maps that a model writes out itself (TransformerLens): what keys received, and the map with its sinks shrunk."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def columns(
    weights: Float[Tensor, "B n Nq Nk"],
    visible: Bool[Tensor, "B Hv Nq Nk"],
    rows: Bool[Tensor, "B Nq"] | None,
    *,
    uniform: bool,
) -> tuple[Float[Tensor, "B n Nk"], Float[Tensor, "B Nk"], Float[Tensor, "B Nk"] | None]:
    """What each key receives from the rows that count, how many of these see it, and what a uniform map would give it."""
    seen = visible.any(1)
    if rows is not None:
        weights, seen = weights * rows[:, None, :, None], seen & rows[..., None]
    counts = seen.sum(1)
    if not uniform:
        return weights.sum(2), counts, None
    return weights.sum(2), counts, (seen / seen.sum(2, keepdim=True).clamp(min=1)).sum(1)


def shift(
    weights: Float[Tensor, "B n Nq Nk"],
    sinks: Bool[Tensor, "B n Nk"],
    kept: Bool[Tensor, "B Nk"],
    beta: float,
) -> tuple[Float[Tensor, "B n Nq Nk"], Float[Tensor, "B n Nq"], Float[Tensor, "B n Nq"]]:
    """The map with its sinks shrunk to `beta`, the mass that each row's sinks gave up, and the mass on its receivers.

    A row without sinks, or with nobody to pay, stays as it was and gives up nothing.
    """
    sink = (sinks & ~kept[:, None])[:, :, None]
    receiver = ~(sink | kept[:, None, None])
    mass, rest = (torch.where(which, weights, 0).sum(3) for which in (sink, receiver))
    pays = (mass > 0) & (rest > 0)
    freed = torch.where(pays, (1 - beta) * mass, 0)
    gain = 1 + freed / torch.where(pays, rest, 1)
    out = torch.where(sink, beta * weights, torch.where(receiver, weights * gain[..., None], weights))
    return torch.where(pays[..., None], out, weights), freed, rest
