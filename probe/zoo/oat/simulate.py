"""Simulated visual search: a searcher with blurred peripheral vision looks for a target among generated objects.

It is no person. At each fixation it sees every object's features through noise that grows with the distance from the eye,
adds what it sees to what it saw before (weights: precisions), and looks next at the object that is likeliest to be the
target, less a cost of distance and less an inhibition of return that fades; the choice itself is noisy. It stops when it
recognises the target under its eye, may take something all too alike for it, and gives up after a while.

References:
    Najemnik and Geisler, Optimal eye movement strategies in visual search, Nature 434, 2005 (noise that grows with
    eccentricity, evidence added up); Itti and Koch, A saliency-based search mechanism, Vision Research 40, 2000, and Klein,
    Inhibition of return, Trends in Cognitive Sciences 4, 2000.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.gaze.scene import Scene, Trial

Floats = NDArray[np.floating[Any]]
LONGEST = 24


@dataclass(frozen=True)
class Searcher:
    """What the simulated eye is like; distances in widths of the picture.

    Attributes:
        noise: standard deviation of a feature at the eye.
        blur: how much it grows, relative to that, per width of distance.
        travel: cost of a saccade across the width, in units of log odds.
        inhibition: cost of an object looked at just now; after `memory` fixations a part 1/e of it is left.
        memory: see inhibition.
        chance: scale of the Gumbel noise of the choice.
        stay: how often the eye fixates the same object once more.
        recognise: how surely the target under the eye is recognised.
        alike: distance of features below which an object is taken for the target.
    """

    noise: float = 0.15
    blur: float = 15.0
    travel: float = 4.0
    inhibition: float = 8.0
    memory: float = 8.0
    chance: float = 0.3
    stay: float = 0.1
    recognise: float = 0.95
    alike: float = 0.12


def simulated_trial(draw: np.random.Generator, features: int = 12, searcher: Searcher = Searcher()) -> Trial:
    """One layout of 4 to 48 objects, one target (in 8 % of the trials it is not there), one path.

    Args:
        draw: where all chance comes from.
        features: of an object.
        searcher: who searches.
    """
    places, sizes = _layout(draw)
    shown = _appearance(draw, len(places), features)
    target = int(draw.integers(len(places)))
    wanted = shown[target]
    if draw.random() < 0.08:
        wanted = np.clip(wanted + draw.normal(0, 0.5, features), -1, 1)
        scene = Scene(places, sizes, shown.astype(np.float32), None, wanted.astype(np.float32), _start(draw))
    else:
        scene = Scene(places, sizes, shown.astype(np.float32), target, None, _start(draw))
    return Trial(scene, tuple(search(scene, draw, searcher)), "simulated")


def search(scene: Scene, draw: np.random.Generator, searcher: Searcher = Searcher()) -> list[int]:
    """The searcher's path over a scene with something to search: numbers of objects, 1 to `LONGEST`."""
    wanted = np.asarray(scene.searched, dtype=np.float64)
    count, eye = scene.count, np.array(scene.start)
    seen, precision = np.zeros(scene.features.shape), np.zeros(count)
    left = np.full(count, -np.inf)  # when each was fixated last
    patience, path = int(draw.integers(12, LONGEST + 1)), list[int]()
    apart = np.abs(scene.features - wanted).max(1)
    while len(path) < patience:
        distance = np.sqrt(((scene.places - eye) ** 2).sum(1))
        spread = searcher.noise * (1 + searcher.blur * distance)
        glimpse = scene.features + draw.normal(size=scene.features.shape) * spread[:, None]
        seen, precision = seen + glimpse / spread[:, None] ** 2, precision + 1 / spread**2
        # log odds of "is the target": closeness of the mean glimpse, in units of what noise leaves open
        mean = seen / precision[:, None]
        evidence = (
            -((mean - wanted) ** 2).sum(1) / (2 * (searcher.noise**2 + 1 / precision) * len(wanted)) * 4
        )
        since = len(path) - left
        rest = searcher.inhibition * np.exp(-(since - 1) / searcher.memory)
        value = evidence - searcher.travel * distance - rest + draw.gumbel(scale=searcher.chance, size=count)
        here = path[-1] if path and draw.random() < searcher.stay else int(value.argmax())
        path.append(here)
        left[here], eye = len(path), scene.places[here]
        sure = searcher.recognise if here == scene.target else 0.8 if apart[here] < searcher.alike else 0.0
        if draw.random() < sure:
            break
    return path


def _start(draw: np.random.Generator) -> tuple[float, float]:
    """In half of the trials the centre, else anywhere."""
    if draw.random() < 0.5:
        return (0.5, 0.5)
    row, column = draw.random(2)
    return (float(row), float(column))


def _layout(draw: np.random.Generator) -> tuple[Floats, Floats]:
    """A grid (half of the trials; jittered in half of these), or objects strewn about with room between them."""
    if draw.random() < 0.5:
        rows, columns = int(draw.integers(2, 7)), int(draw.integers(2, 9))
        at = (
            np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2) + 0.5
        )
        jitter = 0.2 if draw.random() < 0.5 else 0.0
        places = (at + draw.uniform(-jitter, jitter, at.shape)) / (rows, columns)
        sizes = np.full(at.shape, draw.uniform(0.5, 1)) / (rows, columns)
        return places, sizes
    count = int(draw.integers(4, 33))
    room, kept = 0.55 / np.sqrt(count), [draw.uniform(0.04, 0.96, 2)]
    for point in draw.uniform(0.04, 0.96, (20 * count, 2)):
        if len(kept) < count and ((np.array(kept) - point) ** 2).sum(1).min() > room**2:
            kept.append(point)
    places = np.array(kept)
    sizes = np.clip(draw.lognormal(np.log(room), 0.4, places.shape), 0.02, 0.9)
    return places, sizes


def _appearance(draw: np.random.Generator, count: int, features: int) -> Floats:
    """Objects of a few kinds; kinds share some of their features, members differ a little or not at all."""
    kinds = int(draw.integers(1, max(2, min(count, 12)) + 1))
    shared = draw.uniform(-1, 1, features)
    own = draw.uniform(-1, 1, (kinds, features))
    prototypes = np.where(draw.random((kinds, features)) < draw.uniform(0, 0.7), shared, own)
    spread = draw.choice([0.05, 0.1, 0.3, 0.6])
    members = prototypes[draw.integers(kinds, size=count)]
    return np.asarray(np.clip(members + draw.normal(0, 1, members.shape) * spread, -1, 1))
