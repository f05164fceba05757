"""One scene: a few things apart from each other on a textured ground, and the truth about them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.zoo.scenes.shapes import COLOURS, SHAPES, draw_digit, draw_shape

__all__ = ["HELD_OUT", "Scene", "Thing", "make_scene"]

#: Pairs of colour and shape that no training scene holds.
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("blue", "circle"),
        ("green", "cross"),
        ("yellow", "square"),
        ("purple", "triangle"),
        ("cyan", "ring"),
    }
)
_SIDES = ((128, 128), (112, 144), (144, 112), (96, 168), (168, 96), (104, 136))


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: what it is, the digit on it (None: none), its middle and radius in pixels."""

    shape: str
    colour: str
    digit: int | None
    row: float
    column: float
    radius: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its truth.

    Attributes:
        picture: [H, W, 3].
        masks: [H, W]; 0 is the ground, n + 1 the thing n.
        things: what stands in it.
        clutter: 0 (plain ground) to 1 (strokes and dots of all colours everywhere).
    """

    picture: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    things: tuple[Thing, ...]
    clutter: float

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Where the thing of that number is, [H, W]."""
        return np.asarray(self.masks == number + 1)


def make_scene(
    rng: np.random.Generator,
    clutter: float,
    *,
    held_out: bool = False,
    size: tuple[int, int] | None = None,
    radius: tuple[float, float] = (0.11, 0.24),
) -> Scene:
    """Draw a scene.

    Args:
        rng: the source of chance; the same state gives the same scene.
        clutter: 0 to 1: how many strokes and dots of all colours, and how strong the texture.
        held_out: the first thing is one of the pairs that training never shows; else none is.
        size: height and width in pixels; None draws one of six, most of them not square.
        radius: smallest and largest radius of a thing, in shares of the shorter side.

    Returns:
        The scene; its things do not touch one another.
    """
    height, width = size or _SIDES[rng.integers(len(_SIDES))]
    picture = _ground(rng, clutter, height, width)
    things = _place(rng, height, width, held_out, radius)
    masks = np.zeros((height, width), dtype=np.uint8)
    for number, thing in enumerate(things, start=1):
        angle = float(rng.uniform(-0.3, 0.3))
        at = draw_shape(thing.shape, thing.row, thing.column, thing.radius, angle, (height, width))
        picture[at] = np.clip(np.array(COLOURS[thing.colour]) + rng.normal(0, 9, 3), 0, 255)
        masks[at] = number
        if thing.digit is not None:
            ink = draw_digit(thing.digit, thing.row, thing.column, thing.radius * 0.95, (height, width))
            picture[ink] = 250 if thing.colour in ("red", "green", "blue", "purple") else 10
            masks[ink] = number
    picture += rng.normal(0, 3 + 5 * clutter, picture.shape)
    return Scene(np.clip(np.rint(picture), 0, 255).astype(np.uint8), masks, tuple(things), float(clutter))


def _ground(rng: np.random.Generator, clutter: float, height: int, width: int) -> NDArray[np.float64]:
    """A smooth grey with `clutter` of coloured strokes and dots on it, [H, W, 3]."""
    from PIL import Image
    from skimage.draw import disk, polygon

    grey = rng.uniform(60, 200)
    coarse = Image.fromarray(rng.normal(0, 6 + 28 * clutter, (5, 5)).astype(np.float32))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)
    picture = np.repeat(grey + smooth[..., None], 3, axis=2)
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    for _ in range(round(clutter * height * width / 170)):
        colour = palette[rng.integers(len(palette))] * rng.uniform(0.75, 1) + rng.normal(0, 12, 3)
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        if rng.random() < 0.3:
            at = disk((row, column), rng.uniform(1.2, 3), shape=(height, width))
        else:
            turn, long, thick = rng.uniform(0, np.pi), rng.uniform(3, 13), rng.uniform(0.7, 1.7)
            along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
            ends = [s * long * along + t * thick * across for s, t in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
            box = np.array(ends) + np.array((row, column))
            at = polygon(box[:, 0], box[:, 1], shape=(height, width))
        picture[at] = np.clip(colour, 0, 255)
    return picture


def _place(
    rng: np.random.Generator, height: int, width: int, held_out: bool, radius: tuple[float, float]
) -> list[Thing]:
    """Two to five things, none touching another or the edge."""
    things: list[Thing] = []
    wanted, shorter = int(rng.integers(2, 6)), min(height, width)
    held = sorted(HELD_OUT)
    for attempt in range(60):
        if len(things) == wanted:
            break
        size = rng.uniform(*radius) * shorter * (1 if attempt < 30 else 0.8)
        row, column = (rng.uniform(size + 2, side - size - 2) for side in (height, width))
        if any(np.hypot(row - t.row, column - t.column) < 1.15 * (size + t.radius) + 2 for t in things):
            continue
        if held_out and not things:
            colour, shape = held[rng.integers(len(held))]
        else:
            colour, shape = tuple(COLOURS)[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
            if (colour, shape) in HELD_OUT:
                continue
        digit = int(rng.integers(10)) if shape != "ring" and rng.random() < 0.6 else None
        things.append(Thing(shape, colour, digit, float(row), float(column), float(size)))
    return things
