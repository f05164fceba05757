"""One sentence with the number that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probe.record import strings


@dataclass(frozen=True)
class Statement:
    """A sentence, the machine name of its claim, its number, and the tokens that it speaks of."""

    claim: str
    text: str
    value: float
    tokens: tuple[int, ...] = ()


def as_dataset(statements: Sequence[Statement]) -> xr.Dataset:
    """The variables of a result of kind "text"."""
    return xr.Dataset(
        {
            "text": ("statement", strings([s.text for s in statements])),
            "claim": ("statement", strings([s.claim for s in statements])),
            "value": ("statement", np.array([s.value for s in statements], dtype=np.float64)),
            "tokens": ("statement", strings([",".join(map(str, s.tokens)) for s in statements])),
        }
    )
