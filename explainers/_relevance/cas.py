"""Context-aware saliency: what stands out of a picture, or of a relevance map, and the areas around it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from probe.errors import InputError
from probe.explainers._relevance.context import Floats, Rules
from probe.kernels.nearest_patches import nearest_patches

SMALL_PATCHES = {1.0: 7, 0.8: 5, 0.5: 3, 0.3: 3}


def scale_maps(picture: NDArray[Any], rules: Rules, *, device: str | torch.device = "cpu") -> list[Tensor]:
    """The expensive part of `context_saliency`: a map for each scale, in [0, 1], before any foci."""
    values = _channels(picture, rules.lab)
    part = min(1.0, rules.size / max(values.shape[1:]))
    work = _resized(values.to(device), part)
    return [_scaled(_one_scale(work, scale, rules)) for scale in rules.scales]


def combined(maps: list[Tensor], rules: Rules, shape: tuple[int, ...]) -> Floats:
    """The mean of the scales' maps, weight drawn to the foci as the rules say, at the size of the picture."""
    if rules.foci == "scale":
        maps = [_drawn_to_foci(map_, rules) for map_ in maps]
    mean = torch.stack(maps).mean(0)
    if rules.foci == "once":
        mean = _drawn_to_foci(_scaled(mean), rules)
    found = F.interpolate(mean[None, None], tuple(shape), mode="bilinear", align_corners=False)
    return np.asarray(found[0, 0].clamp(0, 1).cpu().numpy(), dtype=np.float32)


def _channels(picture: NDArray[Any], lab: bool) -> Tensor:
    """[C, H, W] float32, each channel scaled to [0, 1]."""
    values = np.asarray(picture)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or 0 in values.shape:
        raise InputError(f"picture: got shape {np.shape(picture)}, expected [H, W], [H, W, 1] or [H, W, 3]")
    if not np.isfinite(values).all():
        raise InputError("picture: NaN or infinity in it")
    if values.shape[2] == 3 and lab:
        from skimage.color import rgb2lab

        values = rgb2lab(values if values.dtype == np.uint8 else values.astype(np.float64))
    channels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float64))
    return torch.stack([_scaled(channel) for channel in channels]).float()


def _scaled(values: Tensor) -> Tensor:
    """To [0, 1]; zeros where all is equal (up to rounding)."""
    low, high = values.aminmax()
    reach = high - low
    if reach <= 1e-6 * max(high.abs().item(), low.abs().item(), 1e-30):
        return torch.zeros_like(values)
    return (values - low) / reach


def _resized(values: Tensor, part: float) -> Tensor:
    """[C, H, W] at a part of its size; values stay in their range."""
    if part >= 1:
        return values
    shape = [max(1, round(n * part)) for n in values.shape[1:]]
    found = F.interpolate(values[None], shape, mode="bilinear", align_corners=False, antialias=True)
    return found[0].clamp(0, 1)


def _one_scale(work: Tensor, scale: float, rules: Rules) -> Tensor:
    """Saliency of the working picture at one scale, [H, W] of its size."""
    side = rules.patch or SMALL_PATCHES.get(scale, 3)
    image = _resized(work, scale)
    patches, places = _patches(image, side)
    longest = max(image.shape[1:])
    values, where = [patches], [places]
    for factor in rules.factors:
        smaller = _resized(work, scale * factor)
        if factor < 1 and scale * factor >= rules.least - 1e-9 and min(smaller.shape[1:]) >= side:
            more, at = _patches(smaller, side)
            stretch = torch.tensor([image.shape[1] / smaller.shape[1], image.shape[2] / smaller.shape[2]])
            values.append(more)
            where.append(at * stretch.to(at))
    near = nearest_patches(
        patches, torch.cat(values), places / longest, torch.cat(where) / longest, count=rules.nearest,
        falloff=rules.falloff, own=torch.arange(len(patches), device=patches.device),
    )  # fmt: skip
    known = near.isfinite()
    mean = near.masked_fill(~known, 0).sum(1) / known.sum(1).clamp(min=1)
    strength = 1.0 if rules.patch else 49 / side**2
    return _interpolated(1 - torch.exp(-mean * strength), places, image.shape[1:], work.shape[1:])


def _patches(image: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Patches with half their side between them, [N, C·side²], and their centres in pixels [N, 2] (row, column).

    A picture smaller than a patch is continued at its edges.
    """
    height, width = image.shape[1:]
    lacking = [max(0, side - n) for n in (width, height)]
    pad = [n for short in lacking for n in (short // 2, short - short // 2)]
    image = F.pad(image[None], pad, mode="replicate")[0]
    step = max(1, side // 2)
    starts = [_starts(n, side, step) for n in image.shape[1:]]
    windows = image.unfold(1, side, 1).unfold(2, side, 1)
    chosen = windows[:, starts[0]][:, :, starts[1]]
    rows, columns = chosen.shape[1:3]
    values = chosen.permute(1, 2, 0, 3, 4).reshape(rows * columns, -1)
    centres = [s + side / 2 - p for s, p in zip(starts, (pad[2], pad[0]), strict=True)]
    grid = torch.meshgrid(*(c.to(image) for c in centres), indexing="ij")
    return values.contiguous(), torch.stack([g.reshape(-1) for g in grid], 1)


def _starts(length: int, side: int, step: int) -> Tensor:
    """First pixels of patches, equally far from both ends, so that a mirrored picture has mirrored patches."""
    room = length - side
    return torch.arange(0, room + 1, step) + (room % step) // 2


def _interpolated(values: Tensor, places: Tensor, have: torch.Size, want: torch.Size) -> Tensor:
    """From the patches' centres to every pixel of the working picture; outside the outermost centres: their value."""
    rows, columns = places[:, 0].unique(), places[:, 1].unique()
    grid = values.view(1, 1, len(rows), len(columns))
    axes = []
    for centres, size, full in ((rows, have[0], want[0]), (columns, have[1], want[1])):
        at = (torch.arange(full, device=values.device) + 0.5) * (size / full)
        reach = max(float(centres[-1] - centres[0]), 1e-9)
        axes.append(2 * (at - centres[0]) / reach - 1 if len(centres) > 1 else torch.zeros_like(at))
    y, x = torch.meshgrid(*axes, indexing="ij")
    found = F.grid_sample(
        grid, torch.stack([x, y], -1)[None], mode="bilinear", padding_mode="border", align_corners=True
    )
    return found[0, 0]


def _drawn_to_foci(map_: Tensor, rules: Rules) -> Tensor:
    """The map times 1 − its distance to the nearest focus, scaled to [0, 1]; unchanged where nothing is a focus."""
    from scipy.ndimage import distance_transform_edt

    top = float(map_.max())
    foci = map_ > (rules.threshold * top if rules.relative else rules.threshold)
    if not bool(foci.any()):
        return map_
    away = torch.from_numpy(distance_transform_edt(~foci.cpu().numpy())).to(map_)
    return map_ * (1 - away / away.max().clamp(min=1e-12))
