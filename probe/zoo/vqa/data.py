"""Training data: scenes drawn once into arrays, with all questions of a scene packed behind one picture."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.zoo.scenes import COLOURS, SHAPES, Question, Scene, make_scene, questions

#: What is asked of each scene; a description, which is long, of every third.
KINDS = (
    "colour",
    "colour",
    "shape",
    "shape",
    "digit",
    "digit",
    "exists",
    "count",
    "beside",
    "relation",
    "description",
)
ROOM = 176
CLOSE = ("colour", "shape", "digit")


@dataclass(frozen=True, eq=False)
class Packed:
    """Scenes as arrays; S scenes, P places for words behind the picture, N patches.

    Attributes:
        pictures: [S, 2, side, side, 3]: the scene, and one thing of it magnified.
        tokens: [S, P], all questions and answers of a scene, one behind another.
        segment: [S, P], number of the question; −1 where there is nothing.
        position: [S, P], place in its own question.
        answer: [S, P], whether the token is to be told (answers and ends).
        close: [S, P], whether its question can be answered by the magnified picture alone.
        truth: [S, 3, N], shape, colour and digit + 1 on each patch, 0 for none.
    """

    pictures: NDArray[np.uint8]
    tokens: NDArray[np.int16]
    segment: NDArray[np.int8]
    position: NDArray[np.int16]
    answer: NDArray[np.bool_]
    close: NDArray[np.bool_]
    truth: NDArray[np.int8]


@dataclass(frozen=True)
class Plan:
    """How many scenes to draw from which seed, what to ask of each, and the model's picture."""

    count: int
    seed: int
    side: int
    patch: int
    kinds: tuple[str, ...] = KINDS


def build(plan: Plan) -> Packed:
    """Draw scenes of all degrees of clutter, none with a held-out pair."""
    from probe.zoo.vqa import networks

    rng = np.random.default_rng(plan.seed)
    count, side, patch = plan.count, plan.side, plan.patch
    processor = networks.new_processor(networks.Shape(side=side, patch=patch))
    n = (side // patch) ** 2
    made = Packed(
        np.zeros((count, 2, side, side, 3), np.uint8),
        np.zeros((count, ROOM), np.int16),
        np.full((count, ROOM), -1, np.int8),
        np.zeros((count, ROOM), np.int16),
        np.zeros((count, ROOM), np.bool_),
        np.zeros((count, ROOM), np.bool_),
        np.zeros((count, 3, n), np.int8),
    )
    for s in range(count):
        scene = make_scene(rng, float(rng.random()) if rng.random() < 0.75 else 0.0)
        number = int(rng.integers(len(scene.things)))
        made.pictures[s, 0] = shown(scene.picture, side)
        made.pictures[s, 1] = shown(magnified(scene, number, rng), side)
        made.truth[s] = patch_truth(scene, side, patch)
        kinds = plan.kinds if rng.random() < 1 / 3 else tuple(k for k in plan.kinds if k != "description")
        _pack(made, s, number, questions(scene, rng, kinds), processor)
    return made


def drawn(plan: Plan, workers: int) -> Packed:
    """`build` in several processes, a thousand scenes each time, with a progress bar."""
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm  # type: ignore[import-untyped]

    pieces = [
        replace(plan, count=min(1000, plan.count - n), seed=plan.seed + n) for n in range(0, plan.count, 1000)
    ]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(tqdm(pool.map(build, pieces), total=len(pieces), desc="drawing thousands of scenes"))
    names = Packed.__dataclass_fields__
    return Packed(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def shown(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """What the image processor's resize (bicubic) makes of a picture."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def magnified(scene: Scene, number: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One thing with some of its surroundings, or with black in place of a part of them."""
    mask, (height, width) = scene.mask(number), scene.masks.shape
    thing = scene.things[number]
    picture = scene.picture
    if rng.random() < 0.6:
        y, x = np.indices(mask.shape)
        reach = thing.radius * rng.uniform(0.9, 1.6)
        row, column = thing.row + rng.normal(0, 2), thing.column + rng.normal(0, 2)
        near = np.asarray((abs(y - row) < reach) & (abs(x - column) < reach))
        picture = np.where(near[..., None], picture, 0).astype(np.uint8)
    top, bottom = (thing.row + s * thing.radius * rng.uniform(1, 2.2) for s in (-1, 1))
    left, right = (thing.column + s * thing.radius * rng.uniform(1, 2.2) for s in (-1, 1))
    rows = slice(max(0, int(top)), min(height, int(bottom) + 1))
    return picture[rows, max(0, int(left)) : min(width, int(right) + 1)]


def patch_truth(scene: Scene, side: int, patch: int) -> NDArray[np.int8]:
    """Shape, colour and digit (each + 1; digit 11: none on this thing) of the thing that covers most of a patch, [3, N]."""
    from PIL import Image

    masks = np.asarray(Image.fromarray(scene.masks).resize((side, side), Image.Resampling.NEAREST))
    cells = (
        masks.reshape(side // patch, patch, side // patch, patch).swapaxes(1, 2).reshape(-1, patch * patch)
    )
    shares = np.stack([(cells == n + 1).mean(1) for n in range(len(scene.things))], axis=1)
    best = np.where(shares.max(1) >= 0.2, shares.argmax(1) + 1, 0)
    table = np.zeros((3, len(scene.things) + 1), np.int8)
    for n, thing in enumerate(scene.things, start=1):
        digit = 11 if thing.digit is None else thing.digit + 1
        table[:, n] = SHAPES.index(thing.shape) + 1, tuple(COLOURS).index(thing.colour) + 1, digit
    return table[:, best]


def _pack(made: Packed, s: int, number: int, asked: list[Question], processor: Any) -> None:
    at = 0
    for n, question in enumerate(dict.fromkeys(asked)):
        said = words(f"{question.text} assistant :", processor)
        told = [*words(question.answer, processor), processor.tokenizer.eos_token_id]
        end = at + len(said) + len(told)
        if end > ROOM:
            continue
        made.tokens[s, at:end] = [*said, *told]
        made.segment[s, at:end] = n
        made.position[s, at:end] = np.arange(end - at)
        made.answer[s, at + len(said) : end] = True
        made.close[s, at:end] = question.kind in CLOSE and question.about == number
        at = end


def words(text: str, processor: Any) -> list[int]:
    """Token ids of a text.

    Raises:
        ValueError: a word that is not in the vocabulary.
    """
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if processor.tokenizer.unk_token_id in ids:
        raise ValueError(f"a word of {text!r} is not in the vocabulary")
    return ids


def kept(path: Path, make: Any) -> Packed:
    """Packed scenes from a file, made and written if it is not there."""
    names = Packed.__dataclass_fields__
    if path.is_file():
        with np.load(path) as file:
            return Packed(**{name: file[name] for name in names})
    made: Packed = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: getattr(made, name) for name in names})
    return made
