"""The border of the row pass: checks the call and chooses the implementation."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.launch import way_of
from probe.kernels.score import ScoreSpec, check
from probe.kernels.sweep import ROW_STATISTICS


def row_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    stats: Sequence[str] = ("lse", "entropy"),
    implementation: str = "auto",
    *,
    x: Float[Tensor, "B Hx Nk C"] | None = None,
    key_sets: Bool[Tensor, "B Hs Nk S"] | None = None,
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
        x: vectors of the keys, for A·x in the same sweep: of the key heads (the values, say), of every query head, or one for
            all heads (Hx = Hkv, H or 1); C at most 256. Probabilities are rounded to the dtype of x before the product, as
            the backends do; the sum is in float32.
        key_sets: membership of the keys in up to 32 sets, of the key heads, of every query head, or one for all.
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        [B, H, Nq] each, and with them "applied" [B, H, Nq, C] and "set_mass" [B, H, Nq, S], Σ p over each set; float32
        (`max_key` int64; float64 for float64 input). NaN (-1) where the query is padding; a row that sees no key has lse -inf
        (or the sink logit), max_key -1, and 0 for all others.

    Raises:
        ValueError: a shape, dtype, rule, statistic or implementation does not fit; the message says what was expected.
    """
    check(q, k, spec)
    unknown = [name for name in stats if name not in ROW_STATISTICS]
    if unknown or not (stats or x is not None or key_sets is not None):
        raise ValueError(f"stats: got {list(stats)}, expected at least one of {', '.join(ROW_STATISTICS)}")
    check_columns(q, k, x, key_sets)
    way = way_of(__package__, implementation, q)
    out: dict[str, Tensor] = way.row_stats(q, k, spec, tuple(dict.fromkeys(stats)), x, key_sets)
    return out


def apply(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    x: Float[Tensor, "B Hx Nk C"],
    implementation: str = "auto",
) -> Float[Tensor, "B H Nq C"]:
    """Multiply the map with vectors of the keys, A·x, without forming it; with the values it is the head's output.

    Args and errors as `row_stats`. NaN where the query is padding, 0 where a row sees no key.
    """
    return row_stats(q, k, spec, (), implementation, x=x)["applied"]


def check_columns(q: Tensor, k: Tensor, x: Tensor | None, key_sets: Tensor | None) -> None:
    """Check what is multiplied with the map, see `row_stats`.

    Raises:
        ValueError: a shape, dtype or device does not fit q and k.
    """
    _check_columns("x", x, q, k, 256)
    _check_columns("key_sets", key_sets, q, k, 32)


def _check_columns(name: str, columns: Tensor | None, q: Tensor, k: Tensor, most: int) -> None:
    if columns is None:
        return
    heads = sorted({1, k.shape[1], q.shape[1]})
    fits = columns.ndim == 4 and columns.shape[0] == q.shape[0] and columns.shape[2] == k.shape[2]
    if not fits or columns.shape[1] not in heads or not 1 <= columns.shape[3] <= most:
        raise ValueError(
            f"{name}: got shape {tuple(columns.shape)}, expected [{q.shape[0]}, {' or '.join(map(str, heads))}, "
            f"{k.shape[2]}, 1 to {most}]"
        )
    expected = torch.bool if name == "key_sets" else q.dtype
    if columns.dtype != expected and not (name == "x" and columns.dtype == torch.float32):
        raise ValueError(f"{name}: got dtype {columns.dtype}, expected {expected}")
    if columns.device != q.device:
        raise ValueError(f"{name}: got a tensor on {columns.device}, expected {q.device} as q")
