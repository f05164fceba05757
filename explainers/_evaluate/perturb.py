"""One text with parts taken out: by whole tokens, or softly, element by element of their embeddings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe.explainers._saliency.subject import Subject

Floats = NDArray[np.float64]
Reader = Callable[[Tensor], Tensor]
ROUNDS = 60  # of bisection: a float64's bits


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A subject and what stands for an absent token, [1, N, D]."""

    subject: Subject
    absent: Tensor

    @property
    def size(self) -> int:
        """Number of text tokens."""
        return len(self.subject.tokens.places)

    def probability(self, kept: NDArray[np.bool_]) -> Floats:
        """The target's probability [B] where kept [B, n] text tokens stay and the others are replaced."""
        return self._run(kept, self.subject.preference)

    def score(self, kept: NDArray[np.bool_]) -> Floats:
        """As `probability`, the score [nat]."""
        with torch.no_grad():
            return self._run(kept, self.subject.score)

    def soft_probability(self, keep: Floats, samples: int, seed: int) -> float:
        """Mean probability where each element of a token's embedding stays with the token's keep probability.

        Args:
            keep: [n], between 0 and 1.
            samples: draws.
            seed: of the draws; the same draws serve every method.
        """
        own, draw = self.subject.embeddings, np.random.default_rng(seed)
        uniform = draw.random((samples, self.size, own.shape[-1]))
        stays = torch.ones(samples, *own.shape[1:], dtype=torch.bool, device=own.device)
        places = torch.as_tensor(self.subject.tokens.places, device=own.device)
        stays[:, places] = torch.as_tensor(uniform < keep[None, :, None], device=own.device)
        found = self.subject.preference(torch.where(stays, own, self.absent))
        return float(found.double().mean())

    def _run(self, kept: NDArray[np.bool_], read: Reader) -> Floats:
        own = self.subject.embeddings
        places = torch.as_tensor(self.subject.tokens.places, device=own.device)
        found = []
        for part in np.array_split(kept, max(1, -(-len(kept) // self.subject.batch_size))):
            gone = torch.zeros(len(part), own.shape[1], 1, dtype=torch.bool, device=own.device)
            gone[:, places, 0] = torch.as_tensor(~part, device=own.device)
            found.append(read(torch.where(gone, self.absent, own)).double().cpu().numpy())
        return np.concatenate(found)


def keep_probabilities(scores: Floats, amount: float) -> Floats:
    """Keep probabilities that rise with the scores and whose mean is `amount`, whatever the scores.

    sigmoid((s − b) / σ), σ the scores' standard deviation, b by bisection. With the kept amount held equal, methods
    differ in what is kept and not in how much.

    Args:
        scores: [n], finite.
        amount: between 0 and 1.

    References:
        Zhao, Aletras, Incorporating Attribution Importance for Improving Faithfulness Metrics, ACL 2023 (arXiv
        2305.10496): soft sufficiency and comprehensiveness; there the kept amount follows from the scores.
    """
    spread = float(scores.std())
    if spread == 0:
        return np.full(len(scores), amount)
    z = (scores - scores.mean()) / spread
    low, high = float(z.min()) - 40, float(z.max()) + 40
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(z - middle).mean() > amount else (low, middle)
    return _sigmoid(z - (low + high) / 2)


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))
