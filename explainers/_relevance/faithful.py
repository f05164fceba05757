"""Deletion and insertion for pictures: cells of a grid are replaced by what could stand there instead."""

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from probe.explainers._faithfulness import faithfulness_curves
from probe.explainers._relevance.subject import Subject, logits_of
from probe.explainers.wording import probability as worded

BATCH = 16
_NAMED = {
    "blur": "a strong blur",
    "mean": "the picture's mean colour",
    "inpaint": "a fill from what is left around",
}


def picture_curves(
    subject: Subject, map_: NDArray[np.float32], *, stand_in: str, cells: int, n_random: int, seed: int
) -> xr.Dataset:
    """Curves of `faithfulness_curves` over the cells of a grid, each scored by the map's sum in it.

    Args:
        subject: the network and the picture.
        map_: [H, W], on the network's view.
        stand_in: "blur", "mean" or "inpaint".
        cells: cells a side.
        n_random: random orders beside the map's own.
        seed: of these orders.
    """
    height, width = map_.shape
    of_row, of_column = (np.arange(n) * min(cells, n) // n for n in (height, width))
    number = of_row[:, None] * (of_column[-1] + 1) + of_column[None, :]
    scores = np.bincount(number.ravel(), weights=map_.ravel().astype(np.float64)).astype(np.float64)
    places = torch.from_numpy(number)
    replace = stand_in_of(subject.inputs, stand_in)

    def probability(replaced: NDArray[np.bool_]) -> NDArray[np.float64]:
        found = []
        with torch.no_grad():
            for part in torch.split(torch.from_numpy(replaced), BATCH):
                masks = part[:, places][:, None].to(subject.inputs.device)
                logits = logits_of(subject.model, replace(masks))
                found.append(subject.probability(logits, subject.target).double().cpu().numpy())
        return np.concatenate(found)

    curves = faithfulness_curves(probability, scores, n_random=n_random, seed=seed, stand_in=stand_in)
    curves.attrs |= {"part": "area", "parts": len(scores), "stand_in": stand_in}
    curves.attrs["faithfulness_verdict"] = _sentence(curves, _NAMED[stand_in])
    return curves


def stand_in_of(inputs: Tensor, kind: str) -> Callable[[Tensor], Tensor]:
    """A function from masks [B, 1, H, W] (True: replaced) to pictures [B, C, H, W].

    Args:
        inputs: the prepared picture, [1, C, H, W].
        kind: "blur" (Gaussian, σ a tenth of the shorter side), "mean" (of each channel), or "inpaint" (harmonic-like
            fill by averages of what is left, from fine to coarse and back: Gortler et al., The Lumigraph, 1996, push-pull).
    """
    if kind == "inpaint":
        return lambda masks: torch.where(masks, _push_pull(inputs, ~masks), inputs)
    other = (
        inputs.mean((2, 3), keepdim=True).expand_as(inputs)
        if kind == "mean"
        else blurred(inputs, min(inputs.shape[2:]) / 10)
    )
    return lambda masks: torch.where(masks, other, inputs)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W] with the edges continued, σ in pixels."""
    from scipy.ndimage import gaussian_filter

    values = x.detach().cpu().numpy()
    found = gaussian_filter(values, (0, 0, sigma, sigma), mode="nearest")
    return torch.from_numpy(found).to(x)


def _push_pull(x: Tensor, known: Tensor) -> Tensor:
    """Fill [B, C, H, W] where not `known` [B, 1, H, W] with weighted means of coarser levels."""
    weight = known.to(x.dtype)
    if bool((weight > 0).all()) or max(x.shape[2:]) == 1:
        return x * (weight > 0)
    half = (-(-x.shape[2] // 2), -(-x.shape[3] // 2))
    mass = F.adaptive_avg_pool2d(weight, half)
    coarse = F.adaptive_avg_pool2d(x * weight, half) / mass.clamp(min=1e-12)
    below = _push_pull(coarse * (mass > 0), mass > 0)
    filled = F.interpolate(below, x.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known, x, filled)


def _sentence(curves: xr.Dataset, stand_in: str) -> str:
    attrs = curves.attrs
    if attrs["faithfulness"] == "undecided":
        return (
            f"Whatever is replaced by {stand_in}, the probability moves by no more than "
            f"{attrs['probability_range']:.3f}: this measure cannot tell whether the map is faithful."
        )
    fraction, deletion, chance = (curves[n].values for n in ("fraction", "deletion", "deletion_random"))
    step = int(np.argmax(np.where((fraction > 0) & (fraction <= 0.5), chance - deletion, -np.inf)))
    moved = (
        f"Replacing the most relevant {100 * fraction[step]:.0f}% of the picture by {stand_in} takes the probability from "
        f"{worded(deletion[0])} to {worded(deletion[step])} (random areas: {worded(chance[step])})"
    )
    better, random = attrs["random_better"], attrs["n_random"]
    sigma = f"{attrs['faithfulness_sigma']:.1f}σ".replace("-", "−")
    if attrs["faithfulness"] == "faithful":
        count = "none" if better == 0 else f"only {better}"
        verb = "does" if better < 2 else "do"
        return f"{moved}, and {count} of {random} random orders {verb} better ({sigma}): the map is faithful here."
    verb = "does" if better == 1 else "do"
    reason = f"{better} of {random} random orders {verb} better" if better else "chance does nearly as well"
    return f"{moved}, but {reason} ({sigma}): the map is not shown to be faithful here."
