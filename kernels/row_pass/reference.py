"""Row statistics in plain torch, chunk by chunk."""

from jaxtyping import Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.sweep import sweep


def row_stats(
    q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"], spec: ScoreSpec, stats: tuple[str, ...]
) -> dict[str, Tensor]:
    """See `probe.kernels.row_pass.row_stats`."""
    return sweep(q, k, spec, stats)
