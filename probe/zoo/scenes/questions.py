"""What can be asked of a scene, in several wordings each, with answers that follow from the truth alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from probe.zoo.scenes.scene import Scene, Thing
from probe.zoo.scenes.shapes import COLOURS, SHAPES

__all__ = ["DESCRIPTIONS", "KINDS", "NUMBERS", "Question", "describe", "questions"]

T = TypeVar("T")
NUMBERS = ("zero", "one", "two", "three", "four", "five")
DESCRIPTIONS = (
    "write a general description of the image .",
    "describe this image in detail .",
    "provide a comprehensive overview of the image .",
    "what do you see in this image ?",
    "explain what appears in the image .",
    "describe the image .",
)
_COLOUR = (
    "what colour is the {0} ?",
    "what color is the {0} ?",
    "which colour does the {0} have ?",
    "tell me the colour of the {0} .",
    "the {0} is of what colour ?",
)
_SHAPE = (
    "what shape is {0} ?",
    "what is the shape of the {0} thing ?",
    "which shape is the {0} one ?",
    "name the {0} shape .",
    "what is the {0} thing ?",
)
_DIGIT = (
    "which digit is on the {0} ?",
    "what digit is in the {0} ?",
    "what number is on the {0} ?",
    "read the digit on the {0} .",
    "which number does the {0} have ?",
)
_EXISTS = ("is there a {0} ?", "do you see a {0} ?", "is a {0} in the image ?", "does the image show a {0} ?")
_COUNT = ("how many {0} are there ?", "how many {0} do you see ?", "count the {0} .")
_BESIDE = ("what is {1} the {0} ?", "which thing is {1} the {0} ?", "what do you see {1} the {0} ?")
_IS_BESIDE = ("is the {0} {2} the {1} ?", "does the {0} stand {2} the {1} ?")
_SIDES = {
    "left of": lambda a, b: a.column < b.column,
    "right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}
_PLURAL = {"cross": "crosses"}


@dataclass(frozen=True)
class Question:
    """A question, its only right answer (words), and the number of the thing that holds the answer (None: all)."""

    kind: str
    text: str
    answer: str
    about: int | None


def plural(shape: str) -> str:
    """Many of a shape."""
    return _PLURAL.get(shape, shape + "s")


def describe(scene: Scene) -> str:
    """All things from left to right, "a red circle and a blue square"."""
    ordered = sorted(scene.things, key=lambda t: t.column)
    return " and ".join(f"a {t.colour} {t.shape}" for t in ordered)


def _names(scene: Scene) -> dict[int, list[str]]:
    """What each thing alone can be called."""
    found: dict[int, list[str]] = {}
    for number, thing in enumerate(scene.things):
        others = [t for t in scene.things if t is not thing]
        names = []
        if all(t.shape != thing.shape for t in others):
            names.append(thing.shape)
        if all((t.shape, t.colour) != (thing.shape, thing.colour) for t in others):
            names.append(f"{thing.colour} {thing.shape}")
        if names:
            found[number] = names
    return found


def questions(scene: Scene, rng: np.random.Generator, kinds: tuple[str, ...]) -> list[Question]:
    """One question of each of the kinds asked for, where the scene allows an answer beyond doubt."""
    asked = [KINDS[kind](scene, rng) for kind in kinds]
    return [question for question in asked if question is not None]


def _one(rng: np.random.Generator, of: "Sequence[T]") -> T:
    return of[int(rng.integers(len(of)))]


def _colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    fit = [n for n, t in enumerate(scene.things) if sum(o.shape == t.shape for o in scene.things) == 1]
    if not fit:
        return None
    number = _one(rng, fit)
    thing = scene.things[number]
    return Question("colour", _one(rng, _COLOUR).format(thing.shape), thing.colour, number)


def _shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    fit = [n for n, t in enumerate(scene.things) if sum(o.colour == t.colour for o in scene.things) == 1]
    if not fit:
        return None
    number = _one(rng, fit)
    thing = scene.things[number]
    return Question("shape", _one(rng, _SHAPE).format(thing.colour), thing.shape, number)


def _digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    names = _names(scene)
    fit = [n for n in names if scene.things[n].digit is not None]
    if not fit:
        return None
    number = _one(rng, fit)
    text = _one(rng, _DIGIT).format(_one(rng, names[number]))
    return Question("digit", text, str(scene.things[number].digit), number)


def _exists(scene: Scene, rng: np.random.Generator) -> Question | None:
    held = {(t.colour, t.shape) for t in scene.things}
    if rng.random() < 0.5:
        number = int(rng.integers(len(scene.things)))
        thing = scene.things[number]
        return Question("exists", _one(rng, _EXISTS).format(f"{thing.colour} {thing.shape}"), "yes", number)
    near = _one(rng, scene.things)  # mostly one that shares colour or shape with what is there
    colour, shape = (
        (near.colour, _one(rng, SHAPES)) if rng.random() < 0.5 else (_one(rng, tuple(COLOURS)), near.shape)
    )
    if (colour, shape) in held:
        return None
    return Question("exists", _one(rng, _EXISTS).format(f"{colour} {shape}"), "no", None)


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    roll = rng.random()
    if roll < 0.3:
        return Question("count", _one(rng, _COUNT).format("things"), NUMBERS[len(scene.things)], None)
    shape = _one(rng, scene.things).shape if roll < 0.8 else _one(rng, SHAPES)
    found = sum(t.shape == shape for t in scene.things)
    return Question("count", _one(rng, _COUNT).format(plural(shape)), NUMBERS[found], None)


def _apart(a: Thing, b: Thing, side: str) -> bool:
    """Whether `a` is plainly on that side of `b`."""
    gap = abs(a.column - b.column) if side in ("left of", "right of") else abs(a.row - b.row)
    return bool(_SIDES[side](a, b)) and gap > 0.6 * (a.radius + b.radius)


def _beside(scene: Scene, rng: np.random.Generator) -> Question | None:
    side = _one(rng, tuple(_SIDES))
    names = _names(scene)
    fit = []
    for number in names:
        on_side = [n for n, t in enumerate(scene.things) if _SIDES[side](t, scene.things[number])]
        if len(on_side) == 1 and _apart(scene.things[on_side[0]], scene.things[number], side):
            fit.append((number, on_side[0]))
    if not fit:
        return None
    number, other = _one(rng, fit)
    text = _one(rng, _BESIDE).format(_one(rng, names[number]), side)
    return Question("beside", text, f"a {scene.things[other].colour} {scene.things[other].shape}", other)


def _is_beside(scene: Scene, rng: np.random.Generator) -> Question | None:
    names, side = _names(scene), _one(rng, tuple(_SIDES))
    if len(names) < 2:
        return None
    first, second = (int(n) for n in rng.choice(sorted(names), 2, replace=False))
    a, b = scene.things[first], scene.things[second]
    answer = "yes" if _apart(a, b, side) else "no"
    if answer == "no" and _SIDES[side](a, b):
        return None
    text = _one(rng, _IS_BESIDE).format(_one(rng, names[first]), _one(rng, names[second]), side)
    return Question("relation", text, answer, first)


def _description(scene: Scene, rng: np.random.Generator) -> Question | None:
    return Question("description", _one(rng, DESCRIPTIONS), describe(scene), None)


KINDS: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "colour": _colour,
    "shape": _shape,
    "digit": _digit,
    "exists": _exists,
    "count": _count,
    "beside": _beside,
    "relation": _is_beside,
    "description": _description,
}
