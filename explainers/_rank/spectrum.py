"""Measures of rank from singular values: which of them a matrix has, and to what precision it can be said."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers.reading import Floats

MEASURES = (
    "effective_rank",
    "stable_rank",
    "nuclear_ratio",
    "participation",
    "energy_rank",
    "numerical_rank",
    "above_1_percent",
)
#: Distance from 1 to the next number: what a value that went through the type is off by, relative to itself.
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def rank_measures(matrix: Any, *, data_dtype: str | None = None, energy: float = 0.99) -> dict[str, float]:
    """Every measure of rank of one matrix, from all its singular values (in float64).

    stable ≤ nuclear ratio ≤ participation ≤ effective rank ≤ rank holds for every matrix.

    Args:
        matrix: [m, n], an array or a tensor.
        data_dtype: the coarsest type that its numbers went through, "float64", "float32", "float16" or "bfloat16": the
            tolerance
            of the numerical rank follows it. A float32 product that is cast to float64 afterwards still has float32's errors,
            and counts as full rank if this is not said. None for the matrix' own type.
        energy: share of Σ s² that the energy rank holds.

    Returns:
        effective_rank exp(−Σ p ln p) with p = s / Σ s (Roy and Vetterli 2007); stable_rank ‖M‖²_F / s₁²; nuclear_ratio Σ
        s / s₁; participation (Σ s)² / Σ s²; energy_rank, the smallest k with Σ_{i≤k} s² ≥ energy · Σ s²; numerical_rank,
        #{s > max(m, n) · eps(data_dtype) · s₁}; above_1_percent, #{s > 0.01 s₁}. All 0 for the zero matrix.

    Raises:
        InputError: no matrix of finite numbers, an unknown type, or an energy outside of 0 to 1.
    """
    own = str(getattr(matrix, "dtype", "float64")).removeprefix("torch.")
    values = _array(matrix)
    kind = data_dtype if data_dtype is not None else own if own in EPS else "float64"
    if kind not in EPS:
        raise InputError(f"data_dtype: got {data_dtype!r}, expected one of {', '.join(EPS)}")
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise InputError(
            f"matrix: got shape {values.shape}, expected two dimensions, not empty, finite numbers"
        )
    return measures_of(singular_values(values), max(values.shape), kind, energy)


def singular_values(values: Floats) -> Floats:
    """Singular values, largest first; a tall or wide matrix is first reduced to its triangular factor (exact)."""
    tall = values if values.shape[0] >= values.shape[1] else values.T
    if tall.shape[0] > 2 * tall.shape[1]:
        tall = np.asarray(np.linalg.qr(tall, mode="r"))
    return np.asarray(np.linalg.svd(tall, compute_uv=False), dtype=np.float64)


def measures_of(s: Floats, longest: int, data_dtype: str, energy: float) -> dict[str, float]:
    """The measures from all singular values of a matrix whose longer side is `longest`, see `rank_measures`.

    Raises:
        InputError: an energy outside of 0 to 1.
    """
    if not 0 < energy <= 1:
        raise InputError(f"energy: got {energy}, expected more than 0 and at most 1")
    top = float(s[0]) if s.size else 0.0
    if top == 0:
        return dict.fromkeys(MEASURES, 0.0)
    relative = s / top  # squares of small numbers stay in range
    total, squares = float(relative.sum()), np.square(relative)
    p = relative[relative > 0] / total
    reached = np.cumsum(squares) >= energy * squares.sum() * (1 - 4 * EPS["float64"] * len(s))
    return {
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "stable_rank": float(squares.sum()),
        "nuclear_ratio": total,
        "participation": total**2 / float(squares.sum()),
        "energy_rank": float(np.argmax(reached) + 1),
        "numerical_rank": float((relative > longest * EPS[data_dtype]).sum()),
        "above_1_percent": float((relative > 0.01).sum()),
    }


def _array(matrix: Any) -> NDArray[np.float64]:
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu().double().numpy()
    return np.asarray(matrix, dtype=np.float64)
