"""Context-aware saliency as it is called: its settings and its function."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rules:
    """The settings of context-aware saliency; the defaults are those on which published implementations agree.

    Attributes:
        size: longest side of the picture while it is compared with itself, in pixels.
        nearest: K, the neighbours of a patch that count.
        falloff: c, how much distance in the picture makes two patches alike.
        scales: sizes of the patches' picture, as parts of `size`.
        factors: sizes of the candidates' picture, as parts of each scale.
        least: candidates below this part of `size` are left out.
        patch: side of a patch in pixels at every scale (the paper); 0 takes 7, 5, 3, 3 with the distance multiplied by 49
            over the patch's area (a later implementation).
        threshold: foci are the pixels above it, in [0, 1].
        relative: the threshold is a part of the map's maximum; else it is absolute, after scaling to [0, 1].
        foci: "scale" draws weight towards the foci of each scale (the paper), "once" does it on the mean of the scales,
            "off" leaves it out.
        lab: compare pictures of three channels in CIE Lab.
    """

    size: int = 250
    nearest: int = 64
    falloff: float = 3.0
    scales: tuple[float, ...] = (1.0, 0.8, 0.5, 0.3)
    factors: tuple[float, ...] = (1.0, 0.5, 0.25)
    least: float = 0.2
    patch: int = 7
    threshold: float = 0.8
    relative: bool = False
    foci: str = "scale"
    lab: bool = True


def context_saliency(
    picture: NDArray[Any], rules: Rules | None = None, *, device: "str | torch.device" = "cpu"
) -> Floats:
    """Rate each place of a picture by how little its surroundings look like the rest, at several scales.

    A patch is salient if even the K patches most like it, near ones counting as more alike, are unlike it:
    S = 1 − exp(−mean of the K smallest distances). Places near the foci (S above a threshold) keep their weight, far ones
    lose it. The matrix of all pairs of patches is never formed (`kernels/nearest_patches`).

    Args:
        picture: [H, W] or [H, W, C] with C 1 or 3, any finite numbers; three channels are RGB (bytes, or floats in [0, 1]).
        rules: settings; left open: the defaults of `Rules`.
        device: where the distances are computed.

    Returns:
        [H, W] in [0, 1]; 0 everywhere for a constant picture.

    Raises:
        InputError: another shape, or numbers that are not finite.

    References:
        Goferman, Zelnik-Manor and Tal, Context-Aware Saliency Detection, CVPR 2010 and IEEE PAMI 34(10), 2012.
    """
    from probe.explainers._relevance.cas import combined, scale_maps

    rules = rules or Rules()
    return combined(scale_maps(picture, rules, device=device), rules, picture.shape[:2])
