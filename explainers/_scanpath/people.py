"""Does a model look where people look: its attention, layer by layer and head by head, against their fixations."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers._places import fixation_auc, nss

SIGMA = 0.03  # of the longer side: about one degree in the OSIE data


def attention_against_people(maps: Any, fixations: Any, model: str = "attention") -> xr.Dataset:
    """Correlation, NSS and AUC of each head's map with people's fixations on the same picture.

    Args:
        maps: [layer, head, rows, columns], how much each patch is looked at: the attention of CLS, mass received, or (one head)
            the activation of a CNN's layers. Not negative; the patches cover the whole picture.
        fixations: [n, 2], row and column as parts of the picture; those outside are left out.
        model: its name, kept in the result.

    Returns:
        A head table of `correlation` (Pearson's, with the fixations blurred by 3 % of the longer side), with nss and auc(layer,
        head); a map without any spread has correlation 0.

    Raises:
        InputError: maps of another form or not finite, or no fixation inside the picture.
    """
    values: NDArray[Any] = np.asarray(maps, dtype=np.float64)
    at = np.asarray(fixations, dtype=np.float64).reshape(-1, 2)
    at = at[((at >= 0) & (at < 1)).all(1)]
    if values.ndim != 4 or not values.size or not np.isfinite(values).all():
        raise InputError(f"maps of shape {values.shape}, expected finite [layer, head, rows, columns]")
    if not len(at):
        raise InputError("no fixation lies inside the picture; expected row and column as parts, 0 to 1")
    rows, columns = values.shape[2:]
    seen = _fixation_map(at, (rows, columns))
    cells = np.floor(at * (rows, columns)).astype(int)
    found = {name: np.zeros(values.shape[:2]) for name in ("correlation", "nss", "auc")}
    for layer, head in np.ndindex(*values.shape[:2]):
        one = values[layer, head]
        flat = np.corrcoef(one.ravel(), seen.ravel())[0, 1] if np.ptp(one) > 0 and np.ptp(seen) > 0 else 0.0
        found["correlation"][layer, head] = flat
        found["nss"][layer, head], found["auc"][layer, head] = nss(one, cells), fixation_auc(one, cells)
    return xr.Dataset(
        {name: (("layer", "head"), value) for name, value in found.items()},
        coords={"layer": np.arange(values.shape[0]), "head": np.arange(values.shape[1])},
        attrs={
            "kind": "head_table", "explainer": "attention_against_people", "title": "Attention against people's gaze",
            "parameters": "{}", "references": ["Bylinskii et al., What Do Different Evaluation Metrics Tell Us About Saliency "
            "Models?, IEEE PAMI 41(3), 2019 (arXiv 1604.03605)"], "unit": "1", "value": "correlation", "model": model,
            "fixations": len(at),
        },
    )  # fmt: skip


def _fixation_map(at: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Fixations on a fine grid, blurred, then averaged over the patches."""
    from scipy.ndimage import gaussian_filter

    fine = -(-128 // max(shape))
    seen = np.zeros((shape[0] * fine, shape[1] * fine))
    np.add.at(seen, tuple(np.floor(at * seen.shape).astype(int).T), 1)
    blurred = gaussian_filter(seen, SIGMA * max(seen.shape))
    return np.asarray(blurred.reshape(shape[0], fine, shape[1], fine).mean((1, 3)))
