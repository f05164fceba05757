"""The nearest patches in plain torch, a block of patches at a time.

The product form |a − b|² = |a|² + |b|² − 2 a·b cancels where patches are alike, which is exactly where the nearest ones lie:
in float32 two equal patches came out up to 5·10⁻⁴ apart. So the product is taken in float64 on centred values, and rounded
once the difference is there.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Pairs held at once.
CHUNK_PAIRS = {"cpu": 1 << 19, "cuda": 1 << 26}


def nearest_patches(
    patches: Float[Tensor, "Nq D"],
    candidates: Float[Tensor, "Nk D"],
    places: Float[Tensor, "Nq 2"],
    candidate_places: Float[Tensor, "Nk 2"],
    own: Int[Tensor, "Nq"],
    count: int,
    falloff: float,
) -> Float[Tensor, "Nq K"]:
    """See `probe.kernels.nearest_patches.nearest_patches`."""
    size, total = patches.shape[1], len(candidates)
    kept = min(count, total)
    found = torch.full((len(patches), count), float("inf"), dtype=patches.dtype, device=patches.device)
    centre = candidates.double().mean(0)
    a, b = patches.double() - centre, candidates.double() - centre
    # with |a|² and |b|² as further columns the product itself is the squared difference
    one = torch.ones(1, 1, dtype=torch.float64, device=a.device)
    left = torch.cat([a, a.square().sum(1, keepdim=True), one.expand(len(a), 1)], 1)
    right = torch.cat([-2 * b, one.expand(total, 1), b.square().sum(1, keepdim=True)], 1).T.contiguous()
    step = max(16, CHUNK_PAIRS.get(patches.device.type, CHUNK_PAIRS["cpu"]) // max(1, total) // 16 * 16)
    product = torch.empty(step, total, dtype=torch.float64, device=patches.device)
    row, column = candidate_places.T.contiguous()
    for first in range(0, len(patches), step):
        rows = slice(first, min(first + step, len(patches)))
        square = torch.mm(left[rows], right, out=product[: rows.stop - first]).to(patches.dtype).clamp_(min=0)
        far = torch.sub(places[rows, :1], row).square_()
        far.addcmul_(*2 * [torch.sub(places[rows, 1:], column)]).sqrt_().mul_(falloff).add_(1).square_()
        square.div_(far)
        square.masked_fill_(_itself(own[rows], total), float("inf"))
        # d² keeps the order of d: one square root for K values in place of one for every pair
        found[rows, :kept] = square.topk(kept, largest=False).values.div_(size).sqrt_()
    return found


def _itself(own: Int[Tensor, "n"], total: int) -> Tensor:
    """[n, Nk] True at the patch itself."""
    mask = torch.zeros(len(own), total, dtype=torch.bool, device=own.device)
    at = (own >= 0).nonzero()[:, 0]
    mask[at, own[at]] = True
    return mask
