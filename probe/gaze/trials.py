"""From scanpaths to trials: fixations become the objects that hold them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe.errors import InputError
from probe.gaze.boxes import Objects, propose
from probe.gaze.readers import Scanpath, read_scanpaths
from probe.gaze.scene import Scene, Trial, grid

STI_ROWS, STI_COLUMNS = 6, 14


def path_over(objects: Objects, places: Sequence[Sequence[float]]) -> tuple[list[int], int]:
    """The numbers of the objects that fixations fall on, and how many fell on none or outside the picture."""
    found = [objects.holding((float(row), float(column))) for row, column in places]
    return [stop for stop in found if stop is not None], sum(stop is None for stop in found)


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, its objects, what they look like, and people's trials over them."""

    path: Path
    objects: Objects
    scene: Scene
    trials: tuple[Trial, ...]
    people: tuple[Scanpath, ...]


def photos(
    folder: str | Path,
    how: str = "grid",
    count: int = 48,
    keep: Callable[[int], bool] = lambda _: True,
    limit: int | None = None,
) -> list[Photo]:
    """The photographs of the OSIE folder with their objects; the first fixation (on the cross) is where the eye starts.

    Args:
        folder: with fixations.mat and stimuli/.
        how: the objects, as of `propose`.
        count: about how many.
        keep: which photographs, by their number in the order of file names.
        limit: only so many.

    Raises:
        InputError: no data.
    """
    from probe._pictures import read_picture
    from probe.gaze.appearance import shrunk

    home, people = Path(folder), dict[str, list[Scanpath]]()
    for one in read_scanpaths(home, "osie"):
        people.setdefault(one.picture, []).append(one)
    files = sorted(f for f in (home / "stimuli").glob("*") if f.name in people)
    if not files:
        raise InputError(f"{home / 'stimuli'} holds none of the {len(people)} pictures of fixations.mat")
    found = []
    for file in [f for n, f in enumerate(files) if keep(n)][:limit]:
        picture = read_picture(file)
        objects = propose(picture, how, count)
        scene, trials, used = objects.scene(shrunk(picture)), list[Trial](), list[Scanpath]()
        for one in people[file.name]:
            path, _ = path_over(objects, one.places[1:].tolist())
            if path:
                row, column = np.clip(one.places[0], 0, 1)
                trials.append(
                    Trial(replace(scene, start=(float(row), float(column))), tuple(path), one.person)
                )
                used.append(one)
        found.append(Photo(file, objects, scene, tuple(trials), tuple(used)))
    return found


def viewing_trials(folder: str | Path, *, held_out: bool) -> list[Trial]:
    """Free viewing of the OSIE photographs over 48 cells and over 40 superpixels; every fifth photograph is held out.

    Args:
        folder: with fixations.mat and stimuli/.
        held_out: the photographs left out of the training, or the others.
    """
    return [
        trial
        for how, count in (("grid", 48), ("slic", 40))
        for photo in photos(folder, how, count, lambda n: (n % 5 == 0) == held_out)
        for trial in photo.trials
    ]


def sti_trials(path: str | Path) -> list[tuple[str, Trial]]:
    """The searches of the Amazon covers as (collage, trial): 84 cells without appearance, too long paths left out.

    The pictures are not published: the cells are the uniform 6 × 14 grid of the collages. A trial longer than the mean and
    three standard deviations is left out, as in the paper's reference code.

    Args:
        path: Amazon.json, or its folder.

    Raises:
        InputError: no such file, or another form.
    """
    cells = grid(STI_ROWS, STI_COLUMNS)
    found = []
    for one in read_scanpaths(path, "sti"):
        inside = one.places[((one.places >= 0) & (one.places < 1)).all(1)]
        at = (inside * (STI_ROWS, STI_COLUMNS)).astype(int)
        if one.box is None:
            raise InputError(f"{path}: {one.picture} has no box of its target")
        row, column = ((one.box[:2] + one.box[2:]) / 2 * (STI_ROWS, STI_COLUMNS)).astype(int)
        scene = replace(cells, target=int(row * STI_COLUMNS + column))
        found.append(
            (one.picture, Trial(scene, tuple(int(v) for v in at[:, 0] * STI_COLUMNS + at[:, 1]), one.person))
        )
    lengths = np.array([len(trial.path) for _, trial in found])
    most = lengths.mean() + 3 * lengths.std()
    return [entry for entry, length in zip(found, lengths, strict=True) if length <= most]
