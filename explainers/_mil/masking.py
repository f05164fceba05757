"""STKIM: in training, some of the strongest instances of each branch are hidden, so that others are learnt from."""

from typing import Literal

import torch
from torch import Tensor

from probe.errors import InputError

Reading = Literal["exact", "independent"]
READINGS = ("exact", "independent")


def stkim(
    scores: Tensor,
    top_k: int,
    drop: float,
    *,
    reading: Reading = "exact",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Which instances to hide from the softmax of each branch, among the strongest of one bag.

    Zhang et al. (ECCV 2024, arXiv 2311.07125, §3.3) hide each of the top K with probability p; their released code hides
    exactly ⌊K·p⌋ of them, drawn without replacement. Both readings are here. A bag of fewer than K instances has its whole
    bag as its top, and at least one instance of a bag always survives: a softmax over nothing would be silently uniform.

    Args:
        scores: attention scores of one bag before the softmax, [N, M] (instances, branches).
        top_k: K, how many of the strongest instances of a branch are candidates.
        drop: p, the share of them (or the probability of each) to be hidden, 0 to 1.
        reading: "exact" hides ⌊min(K, N)·p⌋, "independent" each with probability p.
        generator: source of randomness on the device of the scores; None is torch's own.

    Returns:
        [N, M] bool, True where the score is to become −∞.

    Raises:
        InputError: scores of another shape, K below 1, p outside 0 to 1, or an unknown reading.
    """
    if scores.ndim != 2 or scores.shape[0] == 0:
        raise InputError(
            f"scores: got {list(scores.shape)}, expected [instances, branches], at least 1 instance"
        )
    if top_k < 1 or not 0 <= drop <= 1 or reading not in READINGS:
        raise InputError(
            f"STKIM: got top_k={top_k}, drop={drop}, reading={reading!r}; expected top_k >= 1, 0 <= drop <= 1, "
            f"a reading of {READINGS}"
        )
    instances, branches = scores.shape
    k = min(top_k, instances)
    strongest = scores.detach().topk(k, dim=0).indices
    luck = torch.rand(k, branches, generator=generator, device=scores.device)
    if reading == "exact":
        count = int(k * drop + 1e-9)  # 100 * 0.29 is 28.999…, and 29 is meant
        hidden = luck.argsort(0).argsort(0) < count
    else:
        hidden = luck < drop
    if k == instances:
        hidden &= ~(hidden.all(0) & (luck == luck.amax(0)))
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, strongest, hidden)
