"""Does a map over a picture lie where it should: on the object, or where people look?"""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError

__all__ = ["fixation_auc", "nss", "pointing_game", "randomisation_check", "relevance_in_mask"]

Floats = NDArray[np.floating[Any]]


def pointing_game(map_: Floats, mask: NDArray[np.bool_], *, tolerance: int = 15) -> bool:
    """Whether the strongest point of a map lies on the object, or within so many pixels of it.

    Args:
        map_: [H, W].
        mask: [H, W], True on the object.
        tolerance: in pixels.

    Raises:
        InputError: shapes differ, or the mask is empty.

    References:
        Zhang et al., Top-Down Neural Attention by Excitation Backprop, ECCV 2016 (arXiv 1608.00507), §4.2.
    """
    values, on = _pair(map_, mask)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    rows, columns = np.nonzero(on)
    return bool(((rows - row) ** 2 + (columns - column) ** 2).min() <= tolerance**2)


def relevance_in_mask(map_: Floats, mask: NDArray[np.bool_]) -> float:
    """The share of a map's positive mass that lies on the object, 0 to 1; NaN where nothing is positive.

    Args:
        map_: [H, W].
        mask: [H, W], True on the object.

    Raises:
        InputError: shapes differ, or the mask is empty.

    References:
        Arras, Osman and Samek, CLEVR-XAI, Information Fusion 81, 2022 (arXiv 2003.07258): relevance mass accuracy.
    """
    values, on = _pair(map_, mask)
    support = np.clip(values, 0, None)
    total = float(support.sum())
    return float(support[on].sum()) / total if total > 0 else float("nan")


def nss(map_: Floats, fixations: NDArray[np.integer[Any]]) -> float:
    """Normalised scanpath saliency: the map's mean at the fixations, in standard deviations above its mean; 0 is chance.

    Args:
        map_: [H, W].
        fixations: [n, 2], row and column of each.

    Raises:
        InputError: no fixation, or one outside the map.

    References:
        Peters et al., Components of bottom-up gaze allocation in natural images, Vision Research 45, 2005; Bylinskii et al.,
        What Do Different Evaluation Metrics Tell Us About Saliency Models?, IEEE PAMI 41(3), 2019 (arXiv 1604.03605).
    """
    values, at = _looked_at(map_, fixations)
    spread = float(values.std())
    return float((at.mean() - values.mean()) / spread) if spread > 0 else 0.0


def fixation_auc(map_: Floats, fixations: NDArray[np.integer[Any]]) -> float:
    """How surely a fixated pixel has a higher value than any pixel: area under the ROC curve, ties count half; 0.5 is chance.

    Args:
        map_: [H, W].
        fixations: [n, 2], row and column of each.

    Raises:
        InputError: no fixation, or one outside the map.

    References:
        Judd et al., Learning to Predict Where Humans Look, ICCV 2009, with all pixels as negatives.
    """
    values, at = _looked_at(map_, fixations)
    order = np.sort(values.ravel())
    below, upto = np.searchsorted(order, at, "left"), np.searchsorted(order, at, "right")
    return float(((below + upto) / 2).mean() / order.size)


def randomisation_check(
    model: Any, picture: Any, *, method: str = "epsilon_plus", layers: int = 6, seed: int = 0
) -> xr.Dataset:
    """How far a map changes when the network's layers lose what they learnt, from the last one down.

    A map that stays as it was shows the picture, not the network. The user's model is left alone: a copy is randomised.

    Args:
        model: from `probe.load`.
        picture: as `relevance` takes it.
        method: as of `relevance`.
        layers: after how many steps the map is compared; the steps share the layers with weights between them evenly.
        seed: of the random weights.

    Returns:
        similarity(step): Spearman's rank correlation of the map's absolute values with the original, and fraction(step), the
        part of the layers that is random; the first step is 0 (similarity 1).

    References:
        Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv 1810.03292), §3: cascading randomisation.
    """
    import copy
    from dataclasses import replace
    from itertools import pairwise

    import torch
    from scipy.stats import spearmanr

    from probe.explainers._relevance.build import relevance_map
    from probe.explainers._relevance.subject import open_subject

    subject = open_subject(model, picture, None)
    own = relevance_map(subject, model, method).relevance.sum(1).abs().flatten().cpu().numpy()
    random = copy.deepcopy(subject.model)
    parts = [m for m in random.modules() if isinstance(getattr(m, "weight", None), torch.Tensor)][::-1]
    cuts = np.unique(np.linspace(0, len(parts), layers + 1).round().astype(int))
    found = [1.0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first, last in pairwise(cuts):
            for part in parts[first:last]:
                _shuffled(part)
            changed = relevance_map(replace(subject, model=random), model, method).relevance
            values = changed.sum(1).abs().flatten().cpu().numpy()
            found.append(float(spearmanr(own, values).statistic) if np.ptp(values) > 0 else 0.0)
    return xr.Dataset(
        {"similarity": ("step", np.array(found)), "fraction": ("step", cuts / len(parts))},
        attrs={"method": method, "target": subject.label(subject.target), "seed": seed},
    )


def _shuffled(module: Any) -> None:
    """Permute each weight tensor of a module: the same values, nothing learnt, and no activation explodes."""
    import torch

    with torch.no_grad():
        for tensor in module.parameters(recurse=False):
            flat = tensor.flatten()
            tensor.copy_(flat[torch.randperm(flat.numel())].view_as(tensor))


def _pair(map_: Floats, mask: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    values, on = np.asarray(map_, dtype=np.float64), np.asarray(mask, dtype=bool)
    if values.ndim != 2 or values.shape != on.shape or not np.isfinite(values).all():
        raise InputError(f"map {values.shape} and mask {on.shape}: expected one finite [H, W] for both")
    if not on.any():
        raise InputError("mask: nothing is marked in it")
    return values, on


def _looked_at(map_: Floats, fixations: NDArray[np.integer[Any]]) -> tuple[Floats, Floats]:
    values, places = np.asarray(map_, dtype=np.float64), np.asarray(fixations)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"map {values.shape}: expected a finite [H, W]")
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise InputError(f"fixations {places.shape}: expected row and column of at least one, [n, 2]")
    if (places < 0).any() or (places >= values.shape).any():
        raise InputError(f"fixations: one lies outside the map {values.shape}")
    return values, values[places[:, 0], places[:, 1]]
