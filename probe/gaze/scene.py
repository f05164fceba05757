"""A scene as a scanpath model sees it: objects with places, sizes and appearance, and what is searched."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError

Floats = NDArray[np.floating[Any]]
CENTRE = (0.5, 0.5)


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects of one picture.

    Attributes:
        places: [N, 2], row and column of each object's middle, as parts of the picture's height and width.
        sizes: [N, 2], height and width of each object, as the same parts.
        features: [N, F], appearance; F may be 0 where no picture is known.
        target: number of the object that is searched; None for free viewing, or a search for what is not there.
        wanted: [F], appearance of what is searched; left open, the target's. Without both the scene is viewed freely.
        start: where the eye stands before the first fixation.
    """

    places: Floats
    sizes: Floats
    features: Floats
    target: int | None = None
    wanted: Floats | None = field(default=None)
    start: tuple[float, float] = CENTRE

    def __post_init__(self) -> None:
        count = len(self.places)
        if count == 0:
            raise InputError("a scene without objects has no path over objects; give at least one")
        shapes = (self.places.shape, self.sizes.shape, self.features.shape[:1])
        if shapes != ((count, 2), (count, 2), (count,)):
            raise InputError(
                f"places, sizes and features have shapes {shapes}, expected [N, 2], [N, 2], [N, F]"
            )
        for name, values in (("places", self.places), ("sizes", self.sizes), ("start", np.array(self.start))):
            if not ((values >= 0) & (values <= 1)).all():
                raise InputError(
                    f"{name} lie outside the picture; expected parts of its height and width, 0 to 1"
                )
        if not np.isfinite(self.features).all():
            raise InputError("a feature of an object is not finite")
        if self.target is not None and not 0 <= self.target < count:
            raise InputError(
                f"target {self.target}, expected a number from 0 to {count - 1}, as there are {count} objects"
            )

    @property
    def searched(self) -> Floats | None:
        """Appearance of what is searched, [F]; None for free viewing."""
        if self.wanted is not None:
            return self.wanted
        return None if self.target is None else np.asarray(self.features[self.target])

    @property
    def count(self) -> int:
        """How many objects."""
        return len(self.places)

    def permuted(self, order: NDArray[np.integer[Any]]) -> "Scene":
        """The same scene with its objects in another order: new object i is the old `order[i]`."""
        target = None if self.target is None else int(np.flatnonzero(order == self.target)[0])
        return replace(
            self,
            places=self.places[order],
            sizes=self.sizes[order],
            features=self.features[order],
            target=target,
        )


@dataclass(frozen=True, eq=False)
class Trial:
    """One person's (or simulated searcher's) path over a scene: numbers of objects, at least one."""

    scene: Scene
    path: tuple[int, ...]
    person: str = ""

    def __post_init__(self) -> None:
        if not self.path or not all(0 <= stop < self.scene.count for stop in self.path):
            raise InputError(
                f"the path {self.path} does not name objects of its scene, which has {self.scene.count} (from 0)"
            )


def grid(rows: int, columns: int, features: Floats | None = None, target: int | None = None) -> Scene:
    """A scene of equal cells, row by row.

    Args:
        rows: of cells.
        columns: of cells.
        features: [rows · columns, F]; left open: none.
        target: number of the cell that is searched.
    """
    at = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    shape = np.array([rows, columns], dtype=np.float64)
    sizes = np.broadcast_to(1 / shape, at.shape).copy()
    shown = np.zeros((len(at), 0)) if features is None else features
    return Scene((at + 0.5) / shape, sizes, shown, target)
