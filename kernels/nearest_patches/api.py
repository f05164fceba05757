"""The border of the nearest patches: checks the call and chooses the implementation."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.launch import way_of

MOST_NEAREST = 256


def nearest_patches(
    patches: Float[Tensor, "Nq D"],
    candidates: Float[Tensor, "Nk D"],
    places: Float[Tensor, "Nq 2"],
    candidate_places: Float[Tensor, "Nk 2"],
    *,
    count: int = 64,
    falloff: float = 3.0,
    own: Int[Tensor, "Nq"] | None = None,
    implementation: str = "auto",
) -> Float[Tensor, "Nq K"]:
    """The K smallest dissimilarities of every patch, without forming the matrix of all pairs.

    The dissimilarity of patches i and k is d(i, k) = |a_i − b_k| / sqrt(D) / (1 + c · |p_i − q_k|), with a, b the patches'
    values and p, q their places: alike and near patches count as near (Goferman, Zelnik-Manor and Tal, Context-Aware Saliency
    Detection, CVPR 2010, equation 1; with values in [0, 1] the colour part lies in [0, 1]).

    Args:
        patches: values of each patch, flattened.
        candidates: what they are compared with.
        places: centre of each patch, in units of the picture's longest side.
        candidate_places: the same of the candidates.
        count: K, how many distances to keep for each patch, at most 256.
        falloff: c, how much distance in the picture makes two patches alike.
        own: index of the candidate that is the patch itself and never its neighbour; -1 where there is none.
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        [Nq, K] rising, float32 (float64 for float64 input); inf where a patch has fewer than K candidates.

    Raises:
        ValueError: a shape, dtype, number or implementation does not fit, or a value is not finite.
    """
    _check(patches, candidates, places, candidate_places, own)
    if patches.shape[1] * max(len(patches), len(candidates)) >= 2**31:
        raise ValueError(
            f"{len(patches)} patches, {len(candidates)} candidates of {patches.shape[1]} values: more than int32 counts"
        )
    if not 1 <= count <= MOST_NEAREST:
        raise ValueError(f"count: got {count}, expected 1 to {MOST_NEAREST} neighbours of each patch")
    if not 0 <= falloff < float("inf"):
        raise ValueError(f"falloff: got {falloff}, expected a finite number from 0 up")
    if own is None:
        own = torch.full((patches.shape[0],), -1, device=patches.device)
    way = way_of(__package__, implementation, patches)
    found: Tensor = way.nearest_patches(patches, candidates, places, candidate_places, own, count, falloff)
    return found


def _check(patches: Tensor, candidates: Tensor, places: Tensor, others: Tensor, own: Tensor | None) -> None:
    given = {"patches": patches, "candidates": candidates, "places": places, "candidate_places": others}
    for name, x in given.items():
        if x.dtype not in (torch.float32, torch.float64) or x.dtype != patches.dtype:
            raise ValueError(f"{name}: got {x.dtype}, expected float32 (or float64 for all)")
        if x.device != patches.device:
            raise ValueError(f"{name}: got a tensor on {x.device}, expected {patches.device} as patches")
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name}: NaN or infinity in it")
    if patches.ndim != 2 or candidates.shape[1:] != patches.shape[1:] or 0 in patches.shape:
        raise ValueError(
            f"patches {tuple(patches.shape)}, candidates {tuple(candidates.shape)}: expected [Nq, D] and [Nk, D]"
        )
    if places.shape != (len(patches), 2) or others.shape != (len(candidates), 2):
        raise ValueError(
            f"places {tuple(places.shape)} and {tuple(others.shape)}: expected two coordinates for each patch"
        )
    if own is not None and (own.shape != (len(patches),) or own.is_floating_point()):
        raise ValueError(f"own: got {own.dtype} {tuple(own.shape)}, expected an index for each patch")
