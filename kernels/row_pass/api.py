"""The border of the row pass: checks the call and chooses the implementation."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from probe.kernels.launch import choose
from probe.kernels.score import ScoreSpec, check
from probe.kernels.sweep import ROW_STATISTICS


def row_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    stats: Sequence[str] = ("lse", "entropy"),
    implementation: str = "auto",
) -> dict[str, Tensor]:
    """Compute exact statistics of every row of the attention map without forming it.

    Statistics: `lse` ln Σ exp(score), the sink logit included; `entropy` -Σ p ln p over the keys, in nats; `effective_keys`
    exp(entropy), the number of equal weights of that entropy; `max_prob` and `max_key` the largest weight and its key (the
    first of equals); `distance` Σ p·|i - j| in tokens; `second_moment` Σ p²; `key_mass` Σ p over the keys, which is 1 minus
    the mass of the sink.

    Args:
        q: queries as the scores use them (rotated, normalised).
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        stats: which statistics; asking for more costs no further sweep.
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        [B, H, Nq] each, float32 (`max_key` int64; float64 for float64 input). NaN (-1) where the query is padding; a row that
        sees no key has lse -inf (or the sink logit), max_key -1, and 0 for all others.

    Raises:
        ValueError: a shape, dtype, rule, statistic or implementation does not fit; the message says what was expected.
    """
    check(q, k, spec)
    unknown = [name for name in stats if name not in ROW_STATISTICS]
    if unknown or not stats:
        raise ValueError(f"stats: got {list(stats)}, expected at least one of {', '.join(ROW_STATISTICS)}")
    if choose(implementation, q) == "triton":
        from probe.kernels.row_pass import triton as chosen
    else:
        from probe.kernels.row_pass import reference as chosen  # type: ignore[no-redef]
    return chosen.row_stats(q, k, spec, tuple(dict.fromkeys(stats)))
