"""The border of the tile: checks the rectangle and chooses the implementation."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.heads import check_heads
from probe.kernels.launch import way_of
from probe.kernels.score import ScoreSpec, check

#: The most values that one call returns: 1 GiB of float32.
VALUES_LIMIT = 1 << 28

WHAT = ("prob", "score")


def tile(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"] | None,
    rows: range | Int[Tensor, "R"],
    keys: range | Int[Tensor, "C"],
    what: str = "prob",
    heads: Sequence[int] | None = None,
    implementation: str = "auto",
) -> Float[Tensor, "B n R C"]:
    """Compute one rectangle of the attention map, exactly and without the rest of the map.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        lse: log-sum-exp of every row (natural units, the sink logit included), from `row_stats` under the same rules; scores
            do not need it.
        rows: query rows, a range (with a step: every n-th row) or a vector of row numbers in any order.
        keys: keys, likewise.
        what: "prob" for attention weights, "score" for scores before the softmax, in natural units.
        heads: the query heads; the others are not read. All without it.
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        [B, n, R, C] float32 (float64 for float64 input), n the number of chosen heads. A pair that the rules hide is 0
        (prob) or -inf (score); rows of padded queries are NaN. Memory is that of the rectangle, at most `VALUES_LIMIT` values.

    Raises:
        ValueError: a shape, dtype, rule, row, key, head or implementation does not fit, or the rectangle is too large.
    """
    check(q, k, spec)
    if what not in WHAT:
        raise ValueError(f"what: got {what!r}, expected one of {', '.join(WHAT)}")
    if what == "prob" and (lse is None or lse.shape != q.shape[:3] or lse.device != q.device):
        got = "None" if lse is None else f"shape {tuple(lse.shape)} on {lse.device}"
        raise ValueError(
            f"lse: got {got}, expected {tuple(q.shape[:3])} on {q.device} as the rows of q (row_stats gives it)"
        )
    chosen = check_heads(heads, q.shape[1])
    row_at = _numbers("rows", rows, q.shape[2], "a query row")
    key_at = _numbers("keys", keys, k.shape[2], "a key")
    values = q.shape[0] * len(chosen) * len(row_at) * len(key_at)
    if values > VALUES_LIMIT:
        raise ValueError(
            f"rows, keys: got {len(row_at)} rows × {len(key_at)} keys of {len(chosen)} heads and {q.shape[0]} samples = "
            f"{values} values, expected at most {VALUES_LIMIT}; ask for fewer heads, a smaller rectangle, or every n-th row "
            "and key (range(first, last, n)); pooled_map summarises a whole map"
        )
    way = way_of(__package__, implementation, q)
    rectangle: Tensor = way.tile(q, k, spec, lse if what == "prob" else None, row_at, key_at, chosen)
    return rectangle


def _numbers(name: str, numbers: range | Tensor, n: int, noun: str) -> Int[Tensor, "count"]:
    """Row or key numbers as an int64 vector, checked against how many there are."""
    if isinstance(numbers, range):
        ends = (numbers[0], numbers[-1]) if len(numbers) else ()
        at = torch.arange(numbers.start, numbers.stop, numbers.step) if len(numbers) else torch.empty(0)
    elif (
        not isinstance(numbers, Tensor)
        or numbers.ndim != 1
        or numbers.is_floating_point()
        or numbers.dtype == torch.bool
    ):
        got = f"{numbers.dtype} {tuple(numbers.shape)}" if isinstance(numbers, Tensor) else repr(numbers)
        raise ValueError(f"{name}: got {got}, expected a range or a vector of integers")
    else:
        at = numbers.long().cpu()
        ends = (int(at.min()), int(at.max())) if len(at) else ()
    if not ends or min(ends) < 0 or max(ends) >= n:
        got = (
            repr(numbers)
            if isinstance(numbers, range)
            else f"numbers from {ends[0]} to {ends[1]}"
            if ends
            else "none"
        )
        raise ValueError(f"{name}: got {got}, expected at least one number of {noun}, each from 0 to {n - 1}")
    return at
