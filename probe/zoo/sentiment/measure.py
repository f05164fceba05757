"""Accuracy and calibration on held-out sentences, and the temperature that makes probabilities honest."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from probe.zoo.sentiment.data import FILES, Sentence


def calibration_error(logits: Tensor, positive: Tensor, bins: int = 10) -> float:
    """Expected calibration error of the predicted label (Guo et al. 2017, eq. 3), bins of equal width.

    Args:
        logits: Log odds of "positive", [N].
        positive: Whether it is, [N] bool.
        bins: Number of bins over confidence 0.5 to 1.
    """
    probability = logits.double().sigmoid()
    confidence = torch.maximum(probability, 1 - probability)
    correct = ((logits > 0) == positive).double()
    which = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            total += float((correct[inside].mean() - confidence[inside].mean()).abs() * inside.sum())
    return total / len(logits)


def fit_temperature(logits: Tensor, positive: Tensor) -> float:
    """The T that minimizes the negative log likelihood of logits / T, by golden-section search over log T."""

    def loss(log_t: float) -> float:
        signed = torch.where(positive, logits, -logits).double() / torch.tensor(log_t).double().exp()
        return float(softplus(-signed).mean())

    low, high, golden = -3.0, 3.0, (5**0.5 - 1) / 2
    while high - low > 1e-4:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return float(torch.tensor((low + high) / 2).exp())


def report(sentences: list[Sentence], logits: Tensor) -> dict[str, dict[str, float]]:
    """Per domain and for all: n, accuracy, ece, nll over clear sentences; pearson with the ratings over all."""
    out: dict[str, dict[str, float]] = {}
    ratings = torch.tensor([s.rating for s in sentences], dtype=torch.float64)
    for domain in (*FILES, "all"):
        inside = torch.tensor([domain in ("all", s.domain) for s in sentences])
        clear = inside & torch.tensor([s.clear for s in sentences])
        z, positive = logits[clear].double(), ratings[clear] > 0
        pair = torch.stack([logits[inside].double().sigmoid(), ratings[inside]])
        out[domain] = {
            "n": int(clear.sum()),
            "accuracy": float(((z > 0) == positive).double().mean()),
            "ece": calibration_error(z, positive),
            "nll": float(binary_cross_entropy_with_logits(z, positive.double())),
            "pearson": float(torch.corrcoef(pair)[0, 1]),
        }
    return out


def line(title: str, figures: dict[str, dict[str, Any]]) -> str:
    """One row of a plain table: accuracy and calibration error in percent for each domain."""
    cells = "  ".join(
        f"{d} {100 * f['accuracy']:5.1f} (ece {100 * f['ece']:4.1f})" for d, f in figures.items()
    )
    return f"{title:<34} {cells}"
