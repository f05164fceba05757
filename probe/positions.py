"""What the places along one side of an attention map are: tokens of a text, patches of a picture, frames of a sound."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from probe.record import strings


@dataclass(frozen=True, eq=False)
class Positions:
    """The places of one group of positions in the record.

    Attributes:
        group: the group's name: "tokens", "source", "patches", "frames".
        valid: False where a place is padding, [B, N].
        dataset: the group itself, over (sample, token): text, id, role, start, end, valid, and geometry where there is any.
    """

    group: str
    valid: Bool[Tensor, "B N"]
    dataset: xr.Dataset


def numbered(group: str, role: str, valid: Bool[Tensor, "B N"]) -> Positions:
    """Places of which nothing is known but their number.

    Args:
        group: the group's name.
        role: what they are, for all of them ("patch", "frame", "position").
        valid: False where a place is padding.
    """
    there = valid.cpu().numpy()
    over = ("sample", "token")
    absent = np.full(there.shape, -1, dtype=np.int32)
    columns = {
        "text": strings(np.full(there.shape, "").tolist()),
        "id": absent.astype(np.int64),
        "role": strings(np.where(there, role, "pad").tolist()),
        "start": absent,
        "end": absent,
        "valid": there,
    }
    return Positions(group, valid, xr.Dataset({name: (over, values) for name, values in columns.items()}))


def everywhere(batch: int, length: int, device: torch.device) -> Bool[Tensor, "B N"]:
    """No place is padding."""
    return torch.ones(batch, length, dtype=torch.bool, device=device)
