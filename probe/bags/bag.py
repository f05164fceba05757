"""Bags of instances, as multiple-instance learning has them: features, and where known label, place and annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Bag:
    """One bag, for instance one slide cut into patches.

    Attributes:
        name: What it is called.
        features: float32 [N, D], finite, N at least 1.
        label: Its class as a number, or None.
        coords: Upper left corners of the patches, float64 [N, 2] as (x, y) in pixels of the slide's full resolution.
        patch_size: Side of a patch in the same pixels; None where nobody said.
        annotation: int64 [N]: which planted or annotated pattern an instance belongs to, 0 for none.

    Raises:
        InputError: NaN or infinity in the features, or parts that do not fit one another; the message names the bag.
    """

    name: str
    features: Tensor
    label: int | None = None
    coords: Array | None = None
    patch_size: float | None = None
    annotation: Array | None = None

    def __post_init__(self) -> None:
        x = self.features
        if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
            raise InputError(
                f"{self.name}: its features are {x.dtype} {list(x.shape)}, expected floats [N, D], N and D at least 1"
            )
        sound = x.isfinite().all(1)
        if not bool(sound.all()):
            at = int((~sound).nonzero()[0, 0])
            raise InputError(f"{self.name}: NaN or infinity in the features of instance {at} (of {len(x):,})")
        for part, shape in (("coords", (len(x), 2)), ("annotation", (len(x),))):
            value = getattr(self, part)
            if value is not None and value.shape != shape:
                raise InputError(
                    f"{self.name}: its {part} are {list(value.shape)}, expected {list(shape)} for {len(x):,} instances"
                )
        if self.coords is not None and not np.isfinite(self.coords).all():
            raise InputError(f"{self.name}: its coords are not all finite")
        if self.patch_size is not None and not self.patch_size > 0:
            raise InputError(f"{self.name}: its patch size is {self.patch_size}, expected pixels above 0")

    def save(self, path: str | Path) -> None:
        """Write it as HDF5 in the layout of CLAM and TRIDENT, with `label` and `annotation` beside `features` and `coords`."""
        import h5py

        with h5py.File(path, "w") as file:
            file["features"] = self.features.cpu().numpy()
            if self.coords is not None:
                file["coords"] = self.coords
                if self.patch_size is not None:
                    file["coords"].attrs["patch_size_level0"] = self.patch_size
            if self.annotation is not None:
                file["annotation"] = self.annotation
            if self.label is not None:
                file.attrs["label"] = self.label


class Bags(Sequence[Bag]):
    """Bags that are read when they are asked for; names and labels are known before.

    Args:
        names: Of the bags.
        labels: Their classes as numbers; None where unknown.
        classes: Names of the classes.
        loaders: A function for each bag that reads it.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: Sequence[int | None],
        classes: Sequence[str],
        loaders: Sequence[Callable[[], Bag]],
    ) -> None:
        self.names, self.labels, self.classes = list(names), list(labels), list(classes)
        self._loaders = list(loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    @overload
    def __getitem__(self, index: int) -> Bag: ...
    @overload
    def __getitem__(self, index: slice) -> Bags: ...
    def __getitem__(self, index: int | slice) -> Bag | Bags:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        return self._loaders[index]()

    def __iter__(self) -> Iterator[Bag]:
        return (loader() for loader in self._loaders)

    def subset(self, indices: Sequence[int] | range | Array) -> Bags:
        """The bags at these places."""
        places = [int(i) for i in indices]
        return Bags(
            [self.names[i] for i in places],
            [self.labels[i] for i in places],
            self.classes,
            [self._loaders[i] for i in places],
        )

    def known_labels(self) -> Array:
        """The classes of all bags, int64.

        Raises:
            InputError: A bag has none, or there is but one class.
        """
        absent = [name for name, label in zip(self.names, self.labels, strict=True) if label is None]
        if absent:
            raise InputError(
                f"{len(absent)} of {len(self)} bags have no label, {', '.join(absent[:3])} first: "
                "give a labels.csv with the columns name and label beside the bags"
            )
        labels = np.array(self.labels, dtype=np.int64)
        if len(set(labels.tolist())) < 2:
            raise InputError(f"all {len(self)} bags have the same label: there is nothing to learn")
        return labels


def _given(bag: Bag) -> Bag:
    return bag


def in_memory(bags: Sequence[Bag], classes: Sequence[str] = ()) -> Bags:
    """Bags that are already read, as `Bags`."""
    labels = [bag.label for bag in bags]
    highest = max((label for label in labels if label is not None), default=-1)
    names = classes or [str(number) for number in range(highest + 1)]
    return Bags([b.name for b in bags], labels, names, [partial(_given, bag) for bag in bags])


def read_bags(path: str | Path) -> Bags:
    """Read bags from a folder, a file of one bag, or a file of many.

    One bag a file: HDF5 as CLAM and TRIDENT write it (`features`, `coords`), `.pt` (a tensor, or a dict with `features`),
    `.npz`, `.npy`. Many bags in a file: `.npz` with `instances`, `bag` (whose each row is) and `label` (of each bag); `.csv`
    or `.csv.gz` with a header (`bag`, `label`, `x`, `y`, `annotation`, all else are features), or without one: label, bag,
    features. A folder may hold a `labels.csv` (columns `name` or `slide_id`, and `label`).

    Args:
        path: The folder or file.

    Returns:
        The bags, sorted by name; those of a folder are read when they are asked for.

    Raises:
        InputError: Nothing there, another format, or a file that cannot be read; the message says what is expected.
    """
    from probe.bags.files import read_file, read_folder

    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(f"there is no file or folder {place}")
    return read_folder(place) if place.is_dir() else read_file(place)
