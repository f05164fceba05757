"""Words, sentences and segments of a tokenised text: where each begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_ENDS = (".", "!", "?", "。", "！", "？", "…")
_CLOSING = "\"'”’)]»"


def unit_of(texts: Sequence[str], roles: Sequence[str], by: str) -> NDArray[np.int64]:
    """The number of the unit that each token belongs to, counted from 0.

    A word begins at a token with a blank in front (or behind the one before it) and at every special token; a sentence after
    one that ends in a full stop, question or exclamation mark with a blank behind it; a segment after a blank line or a
    special token.

    Args:
        texts: the tokens, which join to the text.
        roles: "special" for those that are no part of it.
        by: "token", "word", "sentence" or "segment".
    """
    begins = np.zeros(len(texts), dtype=bool)
    before, ended, special = "", True, True
    for at, (text, role) in enumerate(zip(texts, roles, strict=True)):
        blank = text[:1].isspace() or before[-1:].isspace()
        own = role == "special"
        if by == "token":
            starts = True
        elif by == "word":
            starts = own or special or blank
        elif by == "sentence":
            starts = own or special or (ended and blank) or "\n\n" in before[-2:] + text[:1]
        else:
            starts = own or special or "\n\n" in before[-2:] + (text if not text.strip() else text[:2])
        begins[at] = starts
        if text.strip():
            ended = text.rstrip().rstrip(_CLOSING).endswith(_ENDS)
        before, special = (before + text)[-4:], own
    if len(begins):
        begins[0] = True
    return np.cumsum(begins) - 1


def mean_by(values: NDArray[np.float32], unit: NDArray[np.int64]) -> NDArray[np.float32]:
    """Each value replaced by the mean of its unit; values that are absent count for nothing.

    Args:
        values: one per token, NaN where there is none.
        unit: of each token.
    """
    known = np.isfinite(values)
    size = int(unit.max(initial=-1)) + 1
    total = np.bincount(unit[known], values[known].astype(np.float64), size)
    count = np.bincount(unit[known], minlength=size)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean[unit].astype(np.float32)
