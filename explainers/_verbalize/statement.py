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
    span: tuple[int, int] = (
        -1,
        -1,
    )  # characters of the input, end excluded; −1 for a sentence about no place
    coverage: float = float("nan")  # of the span, in all that speaks the same way
    rank: int = 0  # among the spans of the same claim, from 1; 0 for none
    sign: int = 0  # +1 speaks for the target, −1 against it, 0 has none


def as_dataset(statements: Sequence[Statement]) -> xr.Dataset:
    """The variables of a result of kind "text"."""
    return xr.Dataset(
        {
            "text": ("statement", strings([s.text for s in statements])),
            "claim": ("statement", strings([s.claim for s in statements])),
            "value": ("statement", np.array([s.value for s in statements], dtype=np.float64)),
            "tokens": ("statement", strings([",".join(map(str, s.tokens)) for s in statements])),
            "start": ("statement", np.array([s.span[0] for s in statements], dtype=np.int64)),
            "end": ("statement", np.array([s.span[1] for s in statements], dtype=np.int64)),
            "coverage": ("statement", np.array([s.coverage for s in statements], dtype=np.float64)),
            "rank": ("statement", np.array([s.rank for s in statements], dtype=np.int64)),
            "sign": ("statement", np.array([s.sign for s in statements], dtype=np.int64)),
        }
    )
