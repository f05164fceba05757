"""Row statistics in plain torch: the slow twin, and the way on a CPU."""

from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.sweep import sweep


def row_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    stats: tuple[str, ...],
    x: Float[Tensor, "B Hx Nk C"] | None,
    key_sets: Bool[Tensor, "B Hs Nk S"] | None,
) -> dict[str, Tensor]:
    """See `probe.kernels.row_pass.row_stats`."""
    return sweep(q, k, spec, stats, x=x, key_sets=key_sets)
