"""The nearest patches in Triton: one sweep over the candidates of each block of patches, nothing of size N×N.

Differences are summed value by value, which needs no cancellation and no tensor core. A row keeps its list of the smallest
distances so far, unsorted, and the largest of them is the bar; what lies below the bar replaces it, one at a time. Most tiles
hold nothing below any row's bar and cost one minimum.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


@triton.jit
def _tile(Q, K, QAT, KAT, OWN, row, key, n_queries, n_keys, size, falloff, M: tl.constexpr, N: tl.constexpr):
    """Distances [M, N] of the patches `row` to the candidates `key`; inf outside and at the patch itself."""
    inside, there = row < n_queries, key < n_keys
    square = tl.zeros([M, N], tl.float32)
    for d in range(0, size):
        a = tl.load(Q + d * n_queries + row, mask=inside, other=0.0)
        b = tl.load(K + d * n_keys + key, mask=there, other=0.0)
        apart = a[:, None] - b[None, :]
        square += apart * apart
    far = tl.zeros([M, N], tl.float32)
    for d in tl.static_range(2):
        a = tl.load(QAT + d * n_queries + row, mask=inside, other=0.0)
        b = tl.load(KAT + d * n_keys + key, mask=there, other=0.0)
        apart = a[:, None] - b[None, :]
        far += apart * apart
    own = tl.load(OWN + row, mask=inside, other=-1)
    distance = tl.div_rn(
        tl.sqrt_rn(tl.div_rn(square, size + tl.zeros([M, N], tl.float32))), 1.0 + falloff * tl.sqrt_rn(far)
    )
    return tl.where(there[None, :] & (key[None, :] != own[:, None]), distance, float("inf"))


@triton.jit
def _nearest_kernel(
    Q, K, QAT, KAT, OWN, OUT, n_queries, n_keys, size, count, falloff, M: tl.constexpr, N: tl.constexpr, L: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    col, lane = tl.arange(0, N), tl.arange(0, L)
    # Lanes beyond the count hold -inf: they are never the largest, so nothing replaces them.
    best = tl.where(lane[None, :] < count, float("inf"), float("-inf")) + tl.zeros([M, L], tl.float32)
    for start in range(0, n_keys, N):
        distance = _tile(Q, K, QAT, KAT, OWN, row, start + col, n_queries, n_keys, size, falloff, M, N)
        here, bar = tl.min(distance, 1), tl.max(best, 1)
        while tl.max((here < bar).to(tl.int32), 0) > 0:
            takes = (here < bar)[:, None]
            at = tl.min(tl.where(distance == here[:, None], col[None, :], N), 1)
            place = tl.min(tl.where(best == bar[:, None], lane[None, :], L), 1)
            best = tl.where((lane[None, :] == place[:, None]) & takes, here[:, None], best)
            distance = tl.where((col[None, :] == at[:, None]) & takes, float("inf"), distance)
            here, bar = tl.min(distance, 1), tl.max(best, 1)
    into = OUT + row.to(tl.int64)[:, None] * count + lane[None, :]
    tl.store(into, best, mask=(row < n_queries)[:, None] & (lane < count)[None, :])


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
    found = torch.empty(len(patches), count, dtype=torch.float32, device=patches.device)
    M, N = (16, 64) if count <= 64 else (16, 32)
    # value by value in memory, so that neighbouring patches are read together
    turned = [x.T.contiguous() for x in (patches, candidates, places, candidate_places)]
    _nearest_kernel[(triton.cdiv(len(patches), M),)](
        *turned, own.to(torch.int32), found, len(patches), len(candidates), patches.shape[1], count, falloff,
        M=M, N=N, L=triton.next_power_of_2(count), num_warps=4,
    )  # fmt: skip
    return found.sort(dim=1).values
