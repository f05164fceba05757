"""What can stand in a scene: shapes, colours and digits, drawn with scikit-image."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "SHAPES", "draw_digit", "draw_shape"]

Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 215, 40),
    "orange": (245, 135, 20),
    "purple": (130, 50, 170),
    "cyan": (50, 205, 220),
    "pink": (240, 130, 190),
}
#: Segments of a seven-segment digit, ends as (row, column) in a box one high and half as wide.
_SEGMENTS = {
    "a": ((0.0, 0.0), (0.0, 0.5)),
    "b": ((0.0, 0.5), (0.5, 0.5)),
    "c": ((0.5, 0.5), (1.0, 0.5)),
    "d": ((1.0, 0.0), (1.0, 0.5)),
    "e": ((0.5, 0.0), (1.0, 0.0)),
    "f": ((0.0, 0.0), (0.5, 0.0)),
    "g": ((0.5, 0.0), (0.5, 0.5)),
}
_LIT = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


def _corners(shape: str) -> NDArray[np.float64]:
    """Corners of a shape around (0, 0) with radius 1, as (row, column)."""
    if shape == "square":
        return np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * 0.86
    if shape == "triangle":
        return np.array([(-0.95, 0.0), (0.8, 1.0), (0.8, -1.0)])
    if shape == "star":
        turn = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2, 0.48, 1.08)
        return np.stack([-np.cos(turn) * reach, np.sin(turn) * reach], axis=1)
    a = 0.36  # half the width of a bar of the cross
    quarter = np.array([(-1.0, -a), (-1.0, a), (-a, a)])
    turned = [quarter @ np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate(turned)


def draw_shape(
    shape: str, row: float, column: float, radius: float, angle: float, size: tuple[int, int]
) -> Pixels:
    """The pixels of a shape inside a picture.

    Args:
        shape: one of `SHAPES`.
        row: of its middle, in pixels.
        column: of its middle.
        radius: half its height, in pixels.
        angle: turned by, in radians; circles and rings look the same.
        size: height and width of the picture.
    """
    from skimage.draw import disk, polygon

    if shape in ("circle", "ring"):
        rows, columns = disk((row, column), radius, shape=size)
        if shape == "ring":
            outside = (rows - row) ** 2 + (columns - column) ** 2 >= (0.52 * radius) ** 2
            rows, columns = rows[outside], columns[outside]
        return rows, columns
    c, s = np.cos(angle), np.sin(angle)
    at = _corners(shape) @ np.array([[c, -s], [s, c]]) * radius + (row, column)
    found: Pixels = polygon(at[:, 0], at[:, 1], shape=size)
    return found


def draw_digit(digit: int, row: float, column: float, height: float, size: tuple[int, int]) -> Pixels:
    """The pixels of a seven-segment digit of some height around a middle; its strokes are a fifth of that wide."""
    from skimage.draw import polygon

    half = max(0.75, height * 0.085)
    rows, columns = [], []
    for name in _LIT[digit]:
        (r0, c0), (r1, c1) = (((r - 0.5) * height, (c - 0.25) * height) for r, c in _SEGMENTS[name])
        top, bottom, left, right = (
            min(r0, r1) - half,
            max(r0, r1) + half,
            min(c0, c1) - half,
            max(c0, c1) + half,
        )
        box = np.array([(top, left), (top, right), (bottom, right), (bottom, left)]) + np.array((row, column))
        r, c = polygon(box[:, 0], box[:, 1], shape=size)
        rows.append(r)
        columns.append(c)
    return np.concatenate(rows), np.concatenate(columns)
