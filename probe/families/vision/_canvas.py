"""A picture on its way through an image processor: which part of the original each of its pixels shows."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """What an image processor has made of a picture of `original` pixels.

    Pixel k of axis a (0 = y, 1 = x) shows the original from `origin[a] + k · step[a]` up to where pixel k + 1 begins, in
    exact fractions. What lies outside the original is padding. Resampling filters look a little beyond: they blur, but
    they do not move anything.

    Attributes:
        original: height and width of the picture as it came.
        shape: height and width of the canvas.
        origin: where the canvas begins, in pixels of the original (y, x).
        step: how many pixels of the original one pixel of the canvas takes (y, x).
    """

    original: Size
    shape: Size
    origin: tuple[Fraction, Fraction]
    step: tuple[Fraction, Fraction]

    @classmethod
    def of(cls, size: Size) -> "Canvas":
        """The picture as it came."""
        return cls(size, size, (Fraction(0), Fraction(0)), (Fraction(1), Fraction(1)))

    def resized(self, shape: Size) -> "Canvas":
        """Stretched to a height and width."""
        y, x = (s * Fraction(old, new) for s, old, new in zip(self.step, self.shape, shape, strict=True))
        return Canvas(self.original, shape, self.origin, (y, x))

    def cut(self, top: int, left: int, shape: Size) -> "Canvas":
        """A window of it; rows and columns before the first (negative) or after the last are padding."""
        y, x = (o + s * n for o, s, n in zip(self.origin, self.step, (top, left), strict=True))
        return Canvas(self.original, shape, (y, x), self.step)

    def grid(self, patch: int) -> "Grid":
        """Square patches of `patch` pixels from the top left; what is left over at the right and bottom has none."""
        lines, shares = [], []
        for size, whole, origin, step in zip(self.shape, self.original, self.origin, self.step, strict=True):
            edges = [origin + step * patch * n for n in range(size // patch + 1)]
            spans = pairwise(edges)
            seen = [
                max(Fraction(0), min(b, Fraction(whole)) - max(a, Fraction(0))) / (b - a) for a, b in spans
            ]
            lines.append(np.array([float(edge) for edge in edges]))
            shares.append(np.array([float(share) for share in seen]))
        return Grid(lines[0], lines[1], shares[0], shares[1])


@dataclass(frozen=True, eq=False)
class Grid:
    """The lines of a grid of patches in the original picture, and how much of each row and column is real picture.

    Attributes:
        y: R + 1 lines, in pixels of the original.
        x: C + 1 lines.
        share_y: part of each row that is not padding, R values.
        share_x: part of each column, C values.
    """

    y: Float
    x: Float
    share_y: Float
    share_x: Float

    @property
    def shape(self) -> Size:
        """Rows and columns."""
        return len(self.y) - 1, len(self.x) - 1


def shortest_edge(size: Size, edge: int) -> Size:
    """Height and width when the shorter side becomes `edge`; the longer one is rounded down."""
    height, width = size
    short, long = min(size), max(size)
    other = int(edge * long / short)
    return (other, edge) if width <= height else (edge, other)


def between_edges(size: Size, edge: int, longest: int) -> Size:
    """Height and width when the shorter side becomes `edge` unless the longer one would exceed `longest`."""
    height, width = size
    short, long = float(min(size)), float(max(size))
    scale: float = edge
    if long / short * edge > longest:
        scale = longest * short / long
        edge = round(scale)
    if (height <= width and height == edge) or (width <= height and width == edge):
        return size
    if width < height:
        return int(scale * height / width), edge
    return edge, int(scale * width / height)


def longest_edge(size: Size, edge: int, limit: int) -> Size:
    """Height and width when the longer side becomes `edge`, the other an even number; then both at most `limit`."""
    aspect = size[1] / size[0]
    wide = size[1] >= size[0]
    other = int(edge / aspect) if wide else int(edge * aspect)
    other = max(other + other % 2, 1)
    height, width = (other, edge) if wide else (edge, other)
    aspect = width / height
    if width >= height and width > limit:
        height, width = int(limit / aspect), limit
    elif height > width and height > limit:
        height, width = limit, int(limit * aspect)
    return max(height, 1), max(width, 1)
