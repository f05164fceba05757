"""The border of the column pass: checks the call and chooses the implementation."""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.launch import way_of
from probe.kernels.pooling import cell_counts, check_grid, mean_of
from probe.kernels.score import DTYPES, HEAD_SIZES, ScoreSpec, check
from probe.kernels.sweep import absent


def column_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    *,
    received: bool = True,
    weights: Float[Tensor, "B H Nq"] | None = None,
    y: Float[Tensor, "B H Nq C"] | None = None,
    grid: tuple[int, int] | None = None,
    reduce: str = "sum",
    implementation: str = "auto",
) -> dict[str, Tensor]:
    """Compute what the columns of the map give, A_ij = exp(score_ij - lse_i), in one sweep, without forming it.

    Asking for more costs no further sweep. A query that is padding, or whose `lse` is not finite, counts nowhere, whatever
    its numbers are.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        lse: log-sum-exp of every row, from `row_stats` under the same rules.
        received: whether the column mass Σ_i w_i A_ij is wanted.
        weights: the weights w of `received`; 1 without them.
        y: vectors for Aᵀ·Y, C from 1 to 256 numbers per query and head. The weights A are rounded to y's dtype for the product,
            which is summed in float32; a float32 y keeps their precision.
        grid: (row cells, column cells) of the pooled map, at most (Nq, Nk). Row cell r of R covers the queries
            [⌊r·Nq/R⌋, ⌊(r+1)·Nq/R⌋), column cell c the keys likewise.
        reduce: what a cell holds: "sum" of the weights, their "mean" over the visible pairs of valid tokens (NaN where a cell
            holds none), or the largest ("max").
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        Of "received" [B, H, Nk], "transposed" [B, H, Nk, C] and "pooled" [B, H, R, C'] those asked for; float32 (float64 for
        float64 input). Padded keys have NaN in the first two and are left out of the cells.

    Raises:
        ValueError: a shape, dtype, rule, grid or implementation does not fit; the message says what was expected.
    """
    check(q, k, spec)
    _check_rows(q, lse, weights)
    _check_vectors(q, y)
    if not (received or y is not None or grid is not None):
        raise ValueError("received: got False without y and grid, expected something to compute")
    if weights is not None and not received:
        raise ValueError(
            "weights: got weights with received=False, expected none (they weigh the received mass)"
        )
    if grid is not None:
        check_grid(grid, reduce, q.shape[2], k.shape[2])
    way = way_of(__package__, implementation, q)
    out: dict[str, Tensor] = way.column_stats(
        q, k, spec, lse, received=received, weights=weights, y=y, grid=grid, most=reduce == "max"
    )
    if spec.key_valid is not None and "transposed" in out:
        out["transposed"].masked_fill_(~spec.key_valid[:, None, :, None], float("nan"))
    if grid is not None and reduce == "mean":
        counts = cell_counts(spec, q.shape[0], q.shape[2], k.shape[2], (grid[0], grid[1]), q.device)
        out["pooled"] = mean_of(out["pooled"], counts)
    if received:
        absent({"received": out["received"]}, spec)
    return out


def column_mass(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    weights: Float[Tensor, "B H Nq"] | None = None,
    implementation: str = "auto",
) -> Float[Tensor, "B H Nk"]:
    """Compute the attention mass that every key receives, Σ_i w_i A_ij, see `column_stats`."""
    return column_stats(q, k, spec, lse, weights=weights, implementation=implementation)["received"]


def apply_transposed(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    y: Float[Tensor, "B H Nq C"],
    implementation: str = "auto",
) -> Float[Tensor, "B H Nk C"]:
    """Compute Aᵀ·Y, what every key gathers from the queries that attend to it, see `column_stats`."""
    found = column_stats(q, k, spec, lse, received=False, y=y, implementation=implementation)
    return found["transposed"]


def pooled_map(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    grid: tuple[int, int] = (512, 512),
    reduce: str = "sum",
    implementation: str = "auto",
) -> Float[Tensor, "B H R C"]:
    """Compute the map pooled to a grid of cells, see `column_stats`."""
    found = column_stats(
        q, k, spec, lse, received=False, grid=grid, reduce=reduce, implementation=implementation
    )
    return found["pooled"]


def _check_rows(q: Tensor, lse: Tensor, weights: Tensor | None) -> None:
    for name, rows in (("lse", lse), ("weights", weights)):
        if rows is not None and rows.shape != q.shape[:3]:
            raise ValueError(
                f"{name}: got shape {tuple(rows.shape)}, expected {tuple(q.shape[:3])} as the rows of q"
            )
        if rows is not None and rows.device != q.device:
            raise ValueError(f"{name}: got a tensor on {rows.device}, expected {q.device} as q")


def _check_vectors(q: Tensor, y: Tensor | None) -> None:
    if y is None:
        return
    if y.ndim != 4 or y.shape[:3] != q.shape[:3] or not HEAD_SIZES[0] <= y.shape[3] <= HEAD_SIZES[1]:
        raise ValueError(
            f"y: got shape {tuple(y.shape)}, expected {[*q.shape[:3]]} and {HEAD_SIZES[0]} to {HEAD_SIZES[1]} numbers for each"
        )
    if y.dtype not in DTYPES or (y.dtype == torch.float64) != (q.dtype == torch.float64):
        raise ValueError(
            f"y: got dtype {y.dtype} with q of {q.dtype}, expected one of {', '.join(map(str, DTYPES))}, float64 only together"
        )
    if y.device != q.device:
        raise ValueError(f"y: got a tensor on {y.device}, expected {q.device} as q")
