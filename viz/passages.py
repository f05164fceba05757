"""Choose which part of a very long text is shown: the strongest places, each with the words around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT = 12
"""Tokens kept on each side of a strong one."""


def choose(scores: Sequence[float], budget: int, context: int = CONTEXT) -> list[tuple[int, int]]:
    """Spans of a text that fit a budget: everything if it fits, else the strongest places with their context.

    Args:
        scores: One score per token; only the absolute value counts, NaN counts as 0.
        budget: Tokens to show at most, at least 1.
        context: Tokens to keep on each side of a strong one.

    Returns:
        Disjoint half-open spans `(first, end)` in reading order, together at most `budget` tokens.
    """
    size = len(scores)
    if size <= budget:
        return [(0, size)] if size else []
    strength = np.nan_to_num(np.abs(np.asarray(scores, dtype=np.float64)))
    shown = np.zeros(size, dtype=bool)
    for index in np.argsort(-strength, kind="stable"):
        low, high = max(0, index - context), min(size, index + context + 1)
        added = int((~shown[low:high]).sum())
        left = budget - int(shown.sum())
        if added <= left:
            shown[low:high] = True
        elif left and not shown[index]:
            half = (left - 1) // 2
            fresh = slice(max(low, index - half), min(high, index + half + 1))
            shown[fresh] = True
            break
        else:
            break
    edges = np.flatnonzero(np.diff(np.concatenate(([False], shown, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
