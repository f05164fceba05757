"""What a relevance pass returns: the map, the score that it divides up, and who took how much of it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SOUND = (0.5, 1.5)  # bounds of Σ R / f(x) outside of which a map is marked


@dataclass(frozen=True)
class Conservation:
    """Where the explained score f(x) went; every figure is in units of that score.

    `input + biases + stabilisers + softmax + pooling = output` up to rounding (`rest`), for LRP with every rule.
    """

    output: float  # f(x), the score that is divided up
    input: float  # Σ R over the input: what the map shows
    biases: float = 0.0  # biases, position embeddings, class tokens, padding: constants of the model
    stabilisers: float = 0.0  # the ε of denominators, and layers of which no part agrees with the rule
    softmax: float = 0.0  # what the linearised softmax of attention does not pass on
    pooling: float = 0.0  # overwritten by un-pooling (the "as_published" composite alone)
    baseline: float = 0.0  # f(baseline), which integrated gradients and DeepLift leave out

    @property
    def ratio(self) -> float:
        """Σ R / f(x): 1 where the input received all of the score; NaN where the score is 0."""
        return self.input / self.output if self.output else math.nan

    @property
    def sound(self) -> bool:
        """Whether the ratio lies in [0.5, 1.5]; a map outside must be marked wherever it is shown."""
        return SOUND[0] <= self.ratio <= SOUND[1]

    @property
    def rest(self) -> float:
        """What the account leaves open: rounding, for LRP; for other methods all that they do not explain."""
        known = (self.input, self.biases, self.stabilisers, self.softmax, self.pooling, self.baseline)
        return self.output - sum(known)


@dataclass(frozen=True, eq=False)
class Relevance:
    """The relevance of one input for one output of a model.

    `relevance` has the shape of the input, in its dtype and on its device: [1, C, H, W] for a picture, [1, N] for
    token ids (summed over the embedding), [1, N, D] for embeddings. Grad-CAM alone has one channel: [1, 1, H, W].
    """

    relevance: "Tensor"
    target: int  # index of the explained output
    output: float  # its value f(x): a logit, not a probability
    conservation: Conservation
    method: str
    composite: str  # name of the composite; "" for methods other than LRP
    conserving: bool  # whether the method claims Σ R = f(x) at all (saliency and Grad-CAM do not)
