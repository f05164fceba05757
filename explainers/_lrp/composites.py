"""Composites: which rule for which layer, by its type, its depth and its name."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from probe.errors import InputError
from probe.explainers._lrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus

if TYPE_CHECKING:
    from torch import Tensor

_Z_PLUS, _EPSILON = ZPlus(), Epsilon()
Pooling = Literal["winner", "average", "unpool"]
Attention = Literal["attnlrp", "cp"]


@dataclass(frozen=True)
class Place:
    """Where a layer with weights stands in its network."""

    name: str  # of the module, as in named_modules: "features.0"
    kind: Literal["convolution", "dense", "scaling"]  # scaling: a BatchNorm that no layer could take in
    depth: float  # 0 for the first layer with weights that ran, 1 for the last
    reads_input: bool  # nothing but reshaping lies between the input and this layer


@dataclass(frozen=True)
class Composite:
    """Rules by layer. The first that fits is taken: `by_name`, `first`, `low`, then the layer's kind.

    Args:
        name: for the result and for figures.
        convolution: rule of convolutions.
        dense: rule of dense layers and of products with a constant matrix.
        scaling: rule of a BatchNorm that follows no layer it can be merged into.
        first: rule of the layers that read the input itself.
        low: rule of convolutions whose depth is below `low_until`.
        low_until: 0 to 1, in the order in which the layers run.
        by_name: pairs (regular expression, rule); the expression must match a module's whole name.
        pooling: max pooling gives to the "winner" of each window (overlapping windows add up: the gradient's way),
            or in proportion to the values ("average"), or by un-pooling where overlapping windows overwrite each
            other ("unpool": the released code of the SR paper, kept to reproduce it; the loss is accounted).
        merge: a BatchNorm after a layer with weights becomes part of it, its eps included.
        attention: "attnlrp" (half of the relevance to the values, the other half through the softmax to queries
            and keys; Achtibat et al. 2024) or "cp" (all to the values, the map is a constant; Ali et al. 2022).
        stabiliser: ε of sums, means, products and normalisations.
    """

    name: str
    convolution: Rule = _Z_PLUS
    dense: Rule = _EPSILON
    scaling: Rule = _EPSILON
    first: Rule | None = None
    low: Rule | None = None
    low_until: float = 0.5
    by_name: tuple[tuple[str, Rule], ...] = ()
    pooling: Pooling = "winner"
    merge: bool = True
    attention: Attention = "attnlrp"
    stabiliser: float = 1e-9

    def __post_init__(self) -> None:
        for value, known in ((self.pooling, Pooling), (self.attention, Attention)):
            if value not in get_args(known):
                raise InputError(f"composite {self.name!r}: {value!r}, expected one of {get_args(known)}")

    def rule(self, place: Place) -> Rule:
        """The rule of a layer."""
        for pattern, rule in self.by_name:
            if re.fullmatch(pattern, place.name):
                return rule
        if self.first is not None and place.reads_input:
            return self.first
        if self.low is not None and place.kind == "convolution" and place.depth < self.low_until:
            return self.low
        by_kind: dict[str, Rule] = {
            "convolution": self.convolution,
            "dense": self.dense,
            "scaling": self.scaling,
        }
        return by_kind[place.kind]


def epsilon_gamma_box(low: "float | Tensor", high: "float | Tensor", gamma: float = 0.25) -> Composite:
    """γ for convolutions, ε for dense layers, z^B for the layer that reads the picture (Montavon et al. 2019).

    Args:
        low: lower bound of the normalised picture, a number or [1, C, 1, 1].
        high: upper bound, likewise.
        gamma: γ.
    """
    return Composite("epsilon_gamma_box", convolution=Gamma(gamma), first=ZBox(low, high))


COMPOSITES: dict[str, Composite] = {
    c.name: c
    for c in (
        Composite("epsilon_plus"),
        Composite("epsilon_plus_spread", convolution=ZPlus(bias="spread")),
        Composite("epsilon_plus_flat", first=Flat()),
        Composite("epsilon_alpha2_beta1", convolution=AlphaBeta(2, 1)),
        Composite("epsilon_gamma", convolution=Gamma(0.25)),
        Composite("epsilon", convolution=Epsilon()),
        Composite(
            "lrp_0", convolution=Epsilon(0.0), dense=Epsilon(0.0), scaling=Epsilon(0.0), stabiliser=0.0
        ),
        Composite("gamma_vit", convolution=Gamma(0.25), dense=Gamma(0.05)),
        Composite("cp", convolution=Epsilon(), attention="cp"),
        Composite(
            "as_published",
            convolution=Epsilon(1e-9, signed=False),
            dense=ZPlus(1e-9, bias="none"),
            pooling="unpool",
        ),
    )
}


def composite_named(wanted: "str | Composite") -> Composite:
    """A composite by its name, or the one given.

    Raises:
        InputError: no such name.
    """
    if isinstance(wanted, Composite):
        return wanted
    if wanted not in COMPOSITES:
        hint = " (it needs the picture's bounds: call it with them)" if wanted == "epsilon_gamma_box" else ""
        raise InputError(
            f"composite = {wanted!r}{hint}; expected a Composite or one of {', '.join(COMPOSITES)}"
        )
    return COMPOSITES[wanted]
