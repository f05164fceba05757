"""The border of the column pass: checks the call and chooses the implementation."""

from jaxtyping import Float
from torch import Tensor

from probe.kernels.launch import choose
from probe.kernels.score import ScoreSpec, check


def column_mass(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    weights: Float[Tensor, "B H Nq"] | None = None,
    implementation: str = "auto",
) -> Float[Tensor, "B H Nk"]:
    """Compute the attention mass that every key receives, Σ_i w_i A_ij, without forming the map.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        lse: log-sum-exp of every row, from `row_stats` under the same rules; a row that is not finite gives no mass.
        weights: weight of every row; 1 without it.
        implementation: "auto", "reference" or "triton"; never replaced silently.

    Returns:
        [B, H, Nk] float32 (float64 for float64 input); NaN where the key is padding. Padded queries give no mass.

    Raises:
        ValueError: a shape, dtype, rule or implementation does not fit; the message says what was expected.
    """
    check(q, k, spec)
    for name, rows in (("lse", lse), ("weights", weights)):
        if rows is not None and rows.shape != q.shape[:3]:
            raise ValueError(
                f"{name}: got shape {tuple(rows.shape)}, expected {tuple(q.shape[:3])} as the rows of q"
            )
        if rows is not None and rows.device != q.device:
            raise ValueError(f"{name}: got a tensor on {rows.device}, expected {q.device} as q")
    if choose(implementation, q) == "triton":
        from probe.kernels.column_pass import triton as chosen
    else:
        from probe.kernels.column_pass import reference as chosen  # type: ignore[no-redef]
    return chosen.column_mass(q, k, spec, lse, weights)
