"""The losses of ACMIL as functions of plain tensors, for use in any framework (arXiv 2311.07125, eq. 5 to 8)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from probe.errors import InputError
from probe.explainers._mil.modules import MilOutput


def branch_loss(branch_logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """L_p: mean over the branches of the cross-entropy of each branch's own head.

    Args:
        branch_logits: [M, B, C].
        target: classes of the bags, [B].
        weight: of the classes, [C].

    Raises:
        InputError: no branch.
    """
    if branch_logits.ndim != 3 or branch_logits.shape[0] == 0:
        raise InputError(f"branch_logits: got {list(branch_logits.shape)}, expected [M, B, C], M at least 1")
    return torch.stack([F.cross_entropy(row, target, weight) for row in branch_logits]).mean()


def diversity_loss(attention: Tensor) -> Tensor:
    """L_d: mean cosine of the attention of all pairs of branches; 1 for equal branches, 0 where none shares an instance.

    Args:
        attention: weights of one bag, [N, M]. In ACMIL these are the masked weights of training.

    Returns:
        2/(M(M−1)) Σ_{i<j} cos(a_i, a_j); 0 for a single branch.
    """
    branches = attention.shape[1]
    if branches < 2:
        return attention.new_zeros(())
    unit = F.normalize(attention, dim=0)
    gram = unit.T @ unit
    return (gram.sum() - gram.diagonal().sum()) / (branches * (branches - 1))


def acmil_loss(
    output: MilOutput, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_b + L_p + L_d with weights of one; with a single branch L = L_b, as released.

    Args:
        output: of a forward pass in training mode.
        target: classes of the bags, [B].
        weight: of the classes, [C].

    Returns:
        The loss, and its parts by name ("bag", "branch", "diversity").
    """
    parts = {"bag": F.cross_entropy(output.logits, target, weight)}
    if len(output.branch_logits) > 1:
        parts["branch"] = branch_loss(output.branch_logits, target, weight)
        parts["diversity"] = _mean([diversity_loss(a) for a in output.attention])
    return torch.stack(list(parts.values())).sum(), parts


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
