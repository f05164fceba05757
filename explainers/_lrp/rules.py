"""Propagation rules for layers with weights: how an output's relevance is shared out over its inputs.

Every rule is a sum over branches. In a branch, the contributions of the inputs are c_ij = Σ_t x_i^t w_ij^t, and

    R_i = Σ_branches Σ_j share · R_j · c_ij / (Σ_i c_ij + b_j ± ε)

so that a rule only has to name its shares, its modified inputs x^t, weights w^t and bias b; the layer (dense,
convolution of any stride, group or dimension, transposed convolution, scaling) supplies the linear map. A rule of
one's own is a class with the attribute `stabiliser` and the method `branches`.

Sources: Bach et al., PLOS ONE 2015 (ε, αβ, flat); Montavon et al., Pattern Recognition 2017 (z⁺, z^B, w²);
Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019 (γ, composites).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


# What becomes of a bias: it takes its share of relevance away ("share"), it is left out of the rule ("none"), or it takes
# part and hands its share on evenly over the layer's inputs ("spread": Arras et al. 2017, arXiv 1706.07206)
Bias = Literal["share", "none", "spread"]


@dataclass(frozen=True, eq=False)
class Branch:
    """One fraction of a rule: `share` (a number, or per output) of R goes by the contributions of `terms`."""

    terms: "tuple[tuple[Tensor, Tensor], ...]"  # pairs of a modified input and modified weights
    bias: "Tensor | None" = None  # takes part in the denominator
    share: "float | Tensor" = 1.0
    spread: bool = (
        False  # the bias hands its share on, evenly over the inputs that the output is connected to
    )


class Rule(Protocol):
    """What a rule has to offer."""

    @property
    def stabiliser(self) -> float:
        """ε: added to every denominator, with its sign."""

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """The branches for an input x, the layer's weights and bias, and its output (computed when called)."""


@dataclass(frozen=True)
class Epsilon:
    """LRP-ε: in proportion to the contributions themselves; with ε = 0, LRP-0 (Bach et al. 2015).

    Args:
        stabiliser: ε. It takes R_j · ε / (|z_j| + ε).
        bias: what becomes of the bias.
        signed: False adds ε without the sign of z_j, as the code of the SR paper does.
    """

    stabiliser: float = 1e-6
    bias: Bias = "share"
    signed: bool = True

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """One branch: x with w."""
        del output
        return (Branch(((x, weight),), None if self.bias == "none" else bias, spread=self.bias == "spread"),)


@dataclass(frozen=True)
class Gamma:
    """LRP-γ: contributions that agree with the sign of the output count (1 + γ) times (Montavon et al. 2019).

    For inputs and outputs ≥ 0 this is the published w + γ w⁺. For others the published form can have denominators
    near 0; here |denominator| ≥ |z_j| always.
    """

    gamma: float = 0.25
    stabiliser: float = 1e-6
    bias: Bias = "share"

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """Two branches, for outputs above and below 0."""
        bias = None if self.bias == "none" else bias
        positive, negative = x.clamp(min=0), x.clamp(max=0)
        up, down = weight + self.gamma * weight.clamp(min=0), weight + self.gamma * weight.clamp(max=0)
        above = output() >= 0
        return (
            Branch(
                ((positive, up), (negative, down)),
                None if bias is None else bias + self.gamma * bias.clamp(min=0),
                above.to(x.dtype),
                self.bias == "spread",
            ),
            Branch(
                ((positive, down), (negative, up)),
                None if bias is None else bias + self.gamma * bias.clamp(max=0),
                (~above).to(x.dtype),
                self.bias == "spread",
            ),
        )


@dataclass(frozen=True)
class AlphaBeta:
    """LRP-αβ: α of R by the positive contributions, −β by the negative ones, α − β = 1 (Bach et al. 2015).

    Contributions, not weights, are parted by sign, so that negative inputs are treated rightly. Where an output has
    no negative contribution at all, its −β R_j goes to the stabiliser's account.

    Raises:
        InputError: α − β is not 1, or β is negative.
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabiliser: float = 1e-6
    bias: Bias = "share"

    def __post_init__(self) -> None:
        if abs(self.alpha - self.beta - 1) > 1e-9 or self.beta < 0:
            raise InputError(
                f"AlphaBeta: alpha = {self.alpha}, beta = {self.beta}; expected beta ≥ 0 and alpha − beta = 1"
            )

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """The positive branch, and with β > 0 the negative one."""
        del output
        bias = None if self.bias == "none" else bias
        positive, negative = x.clamp(min=0), x.clamp(max=0)
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        spread = self.bias == "spread"
        at, below = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
        plus = Branch(((positive, up), (negative, down)), at, self.alpha, spread)
        if self.beta == 0:
            return (plus,)
        minus = Branch(((positive, down), (negative, up)), below, -self.beta, spread)
        return (plus, minus)


@dataclass(frozen=True)
class ZPlus:
    """LRP-z⁺: by the positive contributions alone (Montavon et al. 2017; the same as α = 1, β = 0)."""

    stabiliser: float = 1e-6
    bias: Bias = "share"

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """The positive branch of AlphaBeta(1, 0)."""
        return AlphaBeta(1.0, 0.0, self.stabiliser, self.bias).branches(x, weight, bias, output)


@dataclass(frozen=True, eq=False)
class ZBox:
    """LRP-z^B for the layer that reads a picture whose values lie in [low, high] (Montavon et al. 2017).

    Args:
        low: lower bound, a number or a tensor that broadcasts to the input (per channel: [1, C, 1, 1]); after
            normalisation, (0 − mean) / std.
        high: upper bound, likewise.
        stabiliser: ε.
    """

    low: "float | Tensor"
    high: "float | Tensor"
    stabiliser: float = 1e-6

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """One branch of three terms; the bias takes no part.

        Raises:
            InputError: the input leaves the box.
        """
        del bias, output
        low, high = x.new_zeros(x.shape) + self.low, x.new_zeros(x.shape) + self.high
        slack = 1e-5 * (high - low).abs()
        if bool(((x < low - slack) | (x > high + slack)).any()):
            raise InputError(
                f"ZBox: the input reaches from {x.min().item():.4g} to {x.max().item():.4g}, outside its box "
                f"[{low.min().item():.4g}, {high.max().item():.4g}]: give the bounds of the normalised picture"
            )
        return (Branch(((x, weight), (-low, weight.clamp(min=0)), (-high, weight.clamp(max=0)))),)


@dataclass(frozen=True)
class WSquare:
    """LRP-w²: by the squared weights, whatever the input is (Montavon et al. 2017)."""

    stabiliser: float = 1e-9

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """One branch: ones with w²; the bias takes no part."""
        del bias, output
        return (Branch(((x.new_ones(x.shape), weight**2),)),)


@dataclass(frozen=True)
class Flat:
    """LRP-flat: evenly over all inputs that an output is connected to (Bach et al. 2015; Lapuschkin et al. 2019)."""

    stabiliser: float = 1e-9

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """One branch: ones with ones; the bias takes no part."""
        del bias, output
        return (Branch(((x.new_ones(x.shape), weight.new_ones(weight.shape)),)),)


@dataclass(frozen=True)
class Pass:
    """The relevance of an output goes to the input at its place, for layers that keep the shape."""

    stabiliser: float = 0.0

    def branches(
        self, x: "Tensor", weight: "Tensor", bias: "Tensor | None", output: "Callable[[], Tensor]"
    ) -> tuple[Branch, ...]:
        """None: relevance is handed on as it is."""
        del x, weight, bias, output
        return ()
