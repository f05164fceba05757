"""What any model has to beat: paths that know nothing, that know where people look, and that move as people move."""

from collections.abc import Sequence

import numpy as np

from probe.errors import InputError
from probe.gaze.scene import Scene, Trial


def random_paths(scenes: Sequence[Scene], lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Objects drawn evenly, each path of its given length."""
    draw = np.random.default_rng(seed)
    return [draw.integers(s.count, size=n).tolist() for s, n in zip(scenes, lengths, strict=True)]


def marginal_paths(
    scenes: Sequence[Scene], lengths: Sequence[int], people: Sequence[Trial], seed: int = 0
) -> list[list[int]]:
    """Objects drawn by how often people fixated them, in layouts that all have the same objects.

    Raises:
        InputError: no people, or layouts of another number of objects.
    """
    if not people or {t.scene.count for t in people} != {s.count for s in scenes}:
        raise InputError("marginal frequencies need people's paths over the same number of objects")
    counts = np.bincount([s for t in people for s in t.path], minlength=scenes[0].count)
    draw = np.random.default_rng(seed)
    return [draw.choice(len(counts), n, p=counts / counts.sum()).tolist() for n in lengths]


def local_walk(
    scenes: Sequence[Scene], lengths: Sequence[int], people: Sequence[Trial], seed: int = 0
) -> list[list[int]]:
    """A walk whose steps are as large as people's: each draws one of their steps and goes to an object about so far away.

    Sizes of steps are those of a picture stretched to a square. It starts anywhere, and the last fixation of a
    search is put on the target.

    Raises:
        InputError: people without any step.
    """
    steps = np.concatenate([_steps(t) for t in people]) if people else np.zeros(0)
    if not steps.size:
        raise InputError("a local walk needs people's paths of at least two fixations")
    draw, found = np.random.default_rng(seed), []
    for scene, length in zip(scenes, lengths, strict=True):
        apart = np.sqrt(((scene.places[:, None] - scene.places) ** 2).sum(-1))
        path = [int(draw.integers(scene.count))]
        while len(path) < length:
            off = np.abs(apart[path[-1]] - draw.choice(steps))
            path.append(int(draw.choice(np.flatnonzero(off <= off.min() + 1e-9))))
        if scene.target is not None:
            path[-1] = scene.target
        found.append(path)
    return found


def _steps(trial: Trial) -> np.ndarray:
    at = trial.scene.places[list(trial.path)]
    return np.asarray(np.sqrt((np.diff(at, axis=0) ** 2).sum(1)))
