"""The arithmetic of RefAM on plain arrays: maps of tokens, global attention sinks, suppression and redirection, the heatmap."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError

Floats = NDArray[np.floating[Any]]
SIDES = ("left", "right", "top", "bottom", "middle")
_SYNONYMS = {
    "upper": "top",
    "above": "top",
    "lower": "bottom",
    "below": "bottom",
    "center": "middle",
    "centre": "middle",
}


def shares(maps: Floats, axis: str) -> NDArray[np.float64]:
    """Token maps [T, N] as shares.

    Args:
        maps: attention between each text token and each image token, non-negative.
        axis: "text": of each image token over the text tokens, where magnets compete with content; "pixels": of each text token
            over the image.

    Raises:
        InputError: a column or row without any mass.
    """
    a = np.asarray(maps, np.float64)
    total = a.sum(0 if axis == "text" else 1, keepdims=True)
    if not (total > 0).all():
        raise InputError(f"axis = {axis!r}: some tokens share no attention at all; choose other layers")
    return np.asarray(a / total)


def detect_gas(
    joint: Floats,
    text: NDArray[np.intp],
    image: NDArray[np.intp],
    *,
    factor: float = 10.0,
    variation: float = 0.5,
) -> NDArray[np.bool_]:
    """Which text tokens are global attention sinks. The paper gives no rule; this definition is ours.

    A token is one if its column of the joint map is high (mean ≥ factor × the median text token's) and nearly even (coefficient
    of variation ≤ `variation`), on text queries and on image queries, each for itself.

    Args:
        joint: map of one block, mean of heads, [N, N], rows are queries.
        text: positions of text tokens.
        image: positions of image tokens.
        factor: g.
        variation: c.

    Returns:
        [len(text)] bool.
    """
    a = np.asarray(joint, np.float64)
    found = np.ones(len(text), np.bool_)
    for queries in (text, image):
        columns = a[np.ix_(queries, text)]
        mean = columns.mean(0)
        spread = np.divide(columns.std(0), mean, out=np.full(len(text), np.inf), where=mean > 0)
        found &= (mean >= factor * np.median(mean)) & (spread <= variation)
    return found


def emergence(flags: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The first block from which on a token is a sink in every later one, [T]; the number of blocks where there is none.

    Args:
        flags: [blocks, T].
    """
    late = np.cumprod(flags[::-1], axis=0)[::-1]
    return np.where(late.any(0), late.argmax(0), len(flags)).astype(np.intp)


def suppress(rows: Floats, sinks: Sequence[int]) -> NDArray[np.float64]:
    """Attention rows without some keys, the others divided by what is left of their sum.

    Args:
        rows: [..., N], each sums to 1.
        sinks: keys that go.

    Raises:
        InputError: a row has nothing else.
    """
    a = np.asarray(rows, np.float64)
    if not len(sinks):
        return a.copy()
    gone = a[..., list(sinks)].sum(-1, keepdims=True)
    if not (gone < 1).all():
        raise InputError("suppress: a row gives all its attention to the tokens that are to go")
    kept = a / (1 - gone)
    kept[..., list(sinks)] = 0.0
    return np.asarray(kept)


def redirect(
    rows: Floats, sinks: Sequence[int], to: Sequence[int], *, proportional: bool = False
) -> NDArray[np.float64]:
    """Attention rows whose mass on some keys moves to others; every row keeps its sum.

    Args:
        rows: [..., N].
        sinks: keys that lose their mass.
        to: keys that receive it, evenly, or in proportion to what they have.
        proportional: in proportion; evenly where they have nothing.

    Raises:
        InputError: nothing to move it to, or a key in both sets.
    """
    a = np.array(rows, np.float64)
    if not len(sinks):
        return a
    if not len(to) or set(sinks) & set(to):
        raise InputError("redirect: expected keys to move the mass to, none of them among those that lose it")
    moved = a[..., list(sinks)].sum(-1, keepdims=True)
    part = np.full(a[..., list(to)].shape, 1 / len(to))
    if proportional:
        own = a[..., list(to)]
        total = own.sum(-1, keepdims=True)
        part = np.where(total > 0, own / np.where(total > 0, total, 1), part)
    a[..., list(sinks)] = 0.0
    a[..., list(to)] += moved * part
    return a


def spatial_prior(expression: str, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """A factor for each pixel where an expression names a side; None where it names none. Its form is ours.

    From 1 on the named side down to 0 on the other, linearly; "middle" falls off from the centre. Several sides are multiplied.

    Args:
        expression: words; "left of" another thing names its side all the same.
        shape: height and width.
    """
    named = [_SYNONYMS.get(w, w) for w in re.findall(r"\w+", expression.lower())]
    sides = [side for side in SIDES if side in named]
    if not sides:
        return None
    y, x = ((np.arange(n) + 0.5) / n for n in shape)
    across, down = np.meshgrid(x, y)
    middle = 1 - np.maximum(abs(across - 0.5), abs(down - 0.5)) * 2
    each = {"left": 1 - across, "right": across, "top": 1 - down, "bottom": down, "middle": middle}
    return np.asarray(np.prod([each[side] for side in sides], axis=0))


def kept_tokens(
    roles: Sequence[str], gas: NDArray[np.bool_], *, filtered: bool
) -> tuple[NDArray[np.intp], str]:
    """Which token maps make up the heatmap: content without sinks; all but special tokens without the filter.

    Returns:
        Their numbers, and a note where the rule had to give way ("" else).
    """
    roles_ = np.array(roles)
    if not filtered:
        return np.flatnonzero(roles_ != "special"), ""
    content = roles_ == "content"
    if not content.any():
        return np.flatnonzero(
            roles_ == "stop"
        ), "the expression has no content word: its stop words were taken"
    if not (content & ~gas).any():
        return np.flatnonzero(
            content
        ), "every content word is a global attention sink: they were taken all the same"
    return np.flatnonzero(content & ~gas), ""
