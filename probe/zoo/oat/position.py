"""The position code of OAT in closed form: vectors whose inner products fall off as a Gaussian of the distance.

The paper learns a table P with cos(P_i, P_j) = exp(−(i − j)² / 2σ²) by gradient descent. The symmetric square root of that
Gram matrix G has these inner products exactly, without training: P = G^½. Our extension to places between the cells is the
Nyström feature map p(u) = k(u, cells) G^−½, which equals row i of P at u = i.

References:
    Fang et al., Object-level Attention Transformer, ECCV 2024 (arXiv 2407.13335), §3.2; Williams and Seeger, Using the
    Nyström Method to Speed Up Kernel Machines, NIPS 2000.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import InputError

Floats = NDArray[np.floating[Any]]


def gram(cells: int, sigma: float) -> Floats:
    """The Gaussian Gram matrix of `cells` places one apart, [cells, cells]."""
    at = np.arange(cells, dtype=np.float64)
    return np.asarray(np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2)))


def table(cells: int, sigma: float = 2.0) -> Floats:
    """The code of each cell: the symmetric square root of the Gram matrix, [cells, cells], rows of length 1.

    Args:
        cells: how many places, at least 1.
        sigma: width of the Gaussian in cells, above 0.

    Raises:
        InputError: no cell, or a width that is not above 0.
    """
    values, vectors = _eigen(cells, sigma)
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


def codes(places: ArrayLike, cells: int, sigma: float = 2.0) -> Floats:
    """The code of any place, [..., cells].

    Args:
        places: parts of the picture's height or width, in [0, 1], any shape; the middle of cell i stands at (i + ½) / cells.
        cells: as of `table`.
        sigma: as of `table`.

    Raises:
        InputError: as of `table`; a place outside the picture, or one that is no number.
    """
    at = np.asarray(places, dtype=np.float64)
    if not ((at >= 0) & (at <= 1)).all():
        raise InputError("a place lies outside the picture; expected parts of its height and width, 0 to 1")
    values, vectors = _eigen(cells, sigma)
    kept = values > cells * np.finfo(np.float64).eps * values.max()
    inverse = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    apart = at[..., None] * cells - 0.5 - np.arange(cells)
    return np.asarray(np.exp(-(apart**2) / (2 * sigma**2)) @ inverse)


def _eigen(cells: int, sigma: float) -> tuple[Floats, Floats]:
    if cells < 1 or not sigma > 0:
        raise InputError(f"{cells} cells of width {sigma}, expected at least 1 cell and a width above 0")
    values, vectors = np.linalg.eigh(gram(cells, sigma))
    return np.clip(values, 0, None), vectors
