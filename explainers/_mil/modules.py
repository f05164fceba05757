"""Gated-attention MIL and ACMIL as plain modules: one bag, or several behind one another with their offsets."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probe.errors import InputError
from probe.explainers._mil.masking import Reading, stkim

HIDDEN = {512: 256, 384: 128, 768: 384, 1024: 512, 1536: 768}
"""Feature width → hidden width as released (ResNet-18, ViT-S/16, CLIP-L, UNI, GigaPath); others: half, at least 32."""


class MilOutput(NamedTuple):
    """What a forward pass gives; its first entry is the logits, so that taps find them."""

    logits: Tensor
    """[B, C], one row a bag."""
    branch_logits: Tensor
    """[M, B, C] of the branches' own heads; of ABMIL, which has none, [0, B, C]."""
    attention: list[Tensor]
    """[N, M] of each bag: the weights that were used (masked in training), sum one over its instances."""


class ACMIL(nn.Module):
    """Attention-challenging MIL: several gated-attention branches, the strongest instances hidden at random in training.

    Zhang et al., ECCV 2024 (arXiv 2311.07125), after Ilse et al. 2018 (arXiv 1802.04712, eq. 9). h_n = ReLU(W x_n) without
    bias; e_mn = w_m · (tanh(V h_n) ⊙ σ(U h_n)), V and U shared by the branches as in the released code; a_m = softmax of e_m
    over the bag; z_m = Σ_n a_mn h_n with a linear head each; the bag's own head reads z = mean_m z_m, which is the embedding
    under the branches' mean attention.

    Args:
        in_features: width of an instance's features.
        classes: how many classes a bag can have.
        hidden: width of h; None takes the released width of known extractors, else half of `in_features`.
        gate: width of V h and U h.
        branches: M.
        top_k: K of STKIM.
        drop: p of STKIM; 0 leaves it out.
        reading: which reading of STKIM, see `stkim`.
    """

    settings: dict[str, Any]
    facts: dict[str, Any]
    """What a file keeps beside the weights: names of the classes, the training's history."""

    def __init__(
        self,
        in_features: int,
        *,
        classes: int = 2,
        hidden: int | None = None,
        gate: int = 128,
        branches: int = 5,
        top_k: int = 10,
        drop: float = 0.6,
        reading: Reading = "exact",
    ) -> None:
        super().__init__()
        if min(in_features, classes - 1, gate, branches) < 1:
            raise InputError(
                f"ACMIL: got in_features={in_features}, classes={classes}, gate={gate}, branches={branches}; expected at "
                "least 1, 2, 1 and 1"
            )
        width = hidden or HIDDEN.get(in_features) or max(32, in_features // 2)
        stkim(torch.zeros(1, 1), top_k, drop, reading=reading)  # refuses what it cannot take, now
        self.facts = {}
        self.settings = {
            "in_features": in_features,
            "classes": classes,
            "hidden": width,
            "gate": gate,
            "branches": branches,
            "top_k": top_k,
            "drop": drop,
            "reading": reading,
        }
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("scale", torch.ones(in_features))
        self.embed = nn.Sequential(nn.Linear(in_features, width, bias=False), nn.ReLU())
        self.tanh, self.gate = nn.Linear(width, gate), nn.Linear(width, gate)
        self.score = nn.Linear(gate, branches)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(self._head_count()))
        self.bag_head = nn.Linear(width, classes)

    def _head_count(self) -> int:
        return int(self.settings["branches"])

    def standardize(self, mean: Tensor, scale: Tensor) -> None:
        """Let the model subtract a mean from its features and divide them by a scale, both [in_features]."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("scale").copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def forward(
        self, bag: Tensor, offsets: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> MilOutput:
        """Classify bags.

        Args:
            bag: features of one bag, [N, in_features] (or [1, N, in_features]), or of several bags behind one another.
            offsets: where each bag begins, [B], ascending from 0; None: it is one bag.
            generator: randomness of STKIM in training.

        Raises:
            InputError: another width, an empty bag, or offsets that do not cut the bag.
        """
        bag = bag.squeeze(0) if bag.ndim == 3 and bag.shape[0] == 1 else bag
        width = self.settings["in_features"]
        if bag.ndim != 2 or bag.shape[1] != width or bag.shape[0] == 0:
            raise InputError(f"bag: got {list(bag.shape)}, expected [N, {width}], N at least 1")
        sizes = _sizes(offsets, bag.shape[0])
        h = self.embed((bag - self.get_buffer("mean")) / self.get_buffer("scale"))
        scores = self.score(torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h)))
        attention = [self._weights(e, generator) for e in scores.split(sizes)]
        z = torch.stack([a.T @ part for a, part in zip(attention, h.split(sizes), strict=True)], 1)
        rows = [head(z[m]) for m, head in enumerate(self.heads)]
        logits = self.bag_head(z.mean(0))
        return MilOutput(
            logits, torch.stack(rows) if rows else logits.new_empty((0, *logits.shape)), attention
        )

    def _weights(self, scores: Tensor, generator: torch.Generator | None) -> Tensor:
        drop = float(self.settings["drop"])
        if self.training and drop > 0:
            hidden = stkim(
                scores, self.settings["top_k"], drop, reading=self.settings["reading"], generator=generator
            )
            scores = scores.masked_fill(hidden, float("-inf"))
        return scores.softmax(0)


class ABMIL(ACMIL):
    """Gated-attention MIL of one branch (Ilse et al. 2018, arXiv 1802.04712, eq. 9), without masking and branch heads.

    Args:
        in_features: width of an instance's features.
        classes: how many classes a bag can have.
        hidden: width of h, as in `ACMIL`.
        gate: width of the gate.
    """

    def __init__(
        self, in_features: int, *, classes: int = 2, hidden: int | None = None, gate: int = 128
    ) -> None:
        super().__init__(in_features, classes=classes, hidden=hidden, gate=gate, branches=1, drop=0.0)

    def _head_count(self) -> int:
        return 0


METHODS = ("abmil", "mba", "stkim", "acmil")
"""Names of the trainer and the command line: none, one or both of ACMIL's parts."""


def build(method: str, in_features: int, **settings: Any) -> ACMIL:
    """A model by the name of its method.

    Args:
        method: "abmil"; "mba", several branches; "stkim", one branch with masking; "acmil", both.
        in_features: width of an instance's features.
        **settings: of `ACMIL`; those that the method lacks are left out.

    Raises:
        InputError: an unknown method, or settings that cannot be.
    """
    if method not in METHODS:
        raise InputError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if method == "abmil":
        kept = {name: settings[name] for name in ("classes", "hidden", "gate") if name in settings}
        return ABMIL(in_features, **kept)
    parts: dict[str, dict[str, Any]] = {"mba": {"drop": 0.0}, "stkim": {"branches": 1}, "acmil": {}}
    return ACMIL(in_features, **settings | parts[method])


def _sizes(offsets: Tensor | None, instances: int) -> list[int]:
    """How many instances each bag has."""
    if offsets is None:
        return [instances]
    starts = offsets.tolist()
    sizes = [b - a for a, b in pairwise([*starts, instances])]
    if not starts or starts[0] != 0 or min(sizes) < 1:
        raise InputError(
            f"offsets: got {starts[:8]}, expected where each bag begins: 0 first, rising, below {instances}"
        )
    return sizes
