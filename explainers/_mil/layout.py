"""UMAP with a seed and a memory: the same features give the same picture, and are laid out once."""

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers.reading import Floats

FEWEST = 6
KEPT = 64
"""How many layouts the cache holds; the oldest go first."""


def umap_layout(features: Floats, *, neighbors: int, min_dist: float, seed: int) -> Floats:
    """Points of high dimension in the plane (McInnes, Healy, Melville 2018, arXiv 1802.03426; umap-learn).

    The layout is kept in the user's cache folder under a digest of features, settings and the library's version.

    Args:
        features: [P, F].
        neighbors: size of the neighbourhood, at most P − 1.
        min_dist: how close points may lie.
        seed: umap-learn then works on one thread, and repeats itself.

    Returns:
        [P, 2] float64.

    Raises:
        InputError: fewer points than a neighbourhood graph makes sense for.
    """
    points = len(features)
    if points < FEWEST:
        raise InputError(f"UMAP needs at least {FEWEST} points, got {points}")
    kept = np.ascontiguousarray(features, dtype=np.float32)
    settings = {"n_neighbors": min(neighbors, points - 1), "min_dist": min_dist, "random_state": seed}
    path = _folder() / f"{_digest(kept, settings)}.npy"
    if path.is_file():
        os.utime(path)
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    layout = _compute(kept, settings)
    _remember(path, layout)
    return layout.astype(np.float64)


def _compute(features: NDArray[np.float32], settings: dict[str, Any]) -> NDArray[np.float32]:
    import umap

    init = (
        "spectral" if len(features) > 10 else "random"
    )  # the spectral start wants more points than dimensions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = umap.UMAP(n_components=2, n_jobs=1, init=init, **settings).fit_transform(features)
    if not np.isfinite(found).all():
        raise InputError(
            "UMAP gave points without a place: are features equal, or their neighbourhoods torn apart?"
        )
    return np.asarray(found, dtype=np.float32)


def _digest(features: NDArray[np.float32], settings: dict[str, Any]) -> str:
    from importlib.metadata import version

    digest = hashlib.sha256(repr((sorted(settings.items()), features.shape, version("umap-learn"))).encode())
    digest.update(features.tobytes())
    return digest.hexdigest()[:32]


def _folder() -> Path:
    from probe.models.catalog import cache_dir

    return cache_dir().parent / "umap"


def _remember(path: Path, layout: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    np.save(partial, layout)
    os.replace(partial, path)
    oldest = sorted(path.parent.glob("*.npy"), key=lambda p: p.stat().st_mtime)[:-KEPT]
    for file in oldest:
        file.unlink(missing_ok=True)
