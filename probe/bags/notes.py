"""What a record of bags keeps beside the attention: the bags' names, labels, places and annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.bags.bag import Array, Bag, Bags
from probe.record import strings


class BagNotes:
    """Hands out the features of bags one by one and remembers the rest of each, so that no two bags are in memory.

    Args:
        bags: a bag, or several.
    """

    def __init__(self, bags: Bag | Sequence[Bag]) -> None:
        self._bags: Sequence[Bag] = [bags] if isinstance(bags, Bag) else bags
        self._seen: list[tuple[str, int, Array | None, float | None, Array | None]] = []
        self._sizes: list[int] = []

    def passes(self, place: torch.device) -> Iterator[Tensor]:
        """The features of each bag, [N, D], on the device."""
        for bag in self._bags:
            label = -1 if bag.label is None else bag.label
            self._seen.append((bag.name, label, bag.coords, bag.patch_size, bag.annotation))
            self._sizes.append(len(bag.features))
            yield bag.features.to(place)

    def dataset(self) -> xr.Dataset:
        """The group /bags: name, label (−1 unknown), and where any bag has them coords, patch_size, annotation."""
        names, labels, coords, patches, notes = zip(*self._seen, strict=True)
        longest = max(self._sizes)
        variables: dict[str, Any] = {
            "name": ("bag", strings(names)),
            "label": ("bag", np.array(labels, dtype=np.int64), {"meaning": "class of the bag, -1 unknown"}),
        }
        if any(c is not None for c in coords):
            variables["coords"] = (
                ("bag", "instance", "axis"),
                self._padded([None if c is None else c.astype(np.float64) for c in coords], (longest, 2)),
                {"meaning": "upper left corner (x, y) of the patch", "unit": "pixel of full resolution"},
            )
            sizes = [np.nan if p is None else p for p in patches]
            variables["patch_size"] = ("bag", np.array(sizes), {"unit": "pixel of full resolution"})
        if any(n is not None for n in notes):
            variables["annotation"] = (
                ("bag", "instance"),
                self._padded([None if n is None else n.astype(np.float64) for n in notes], (longest,)),
                {"meaning": "number of the annotated pattern, 0 none, NaN unknown"},
            )
        classes = self._bags.classes if isinstance(self._bags, Bags) else []
        return xr.Dataset(variables, attrs={"classes": list(classes)})

    def _padded(self, parts: Sequence[Array | None], shape: tuple[int, ...]) -> Array:
        whole = np.full((len(parts), *shape), np.nan)
        for row, part in zip(whole, parts, strict=True):
            if part is not None:
                row[: len(part)] = part
        return whole


def are_bags(value: Any) -> TypeGuard[Bag | Sequence[Bag]]:
    """Whether the value is a Bag or a sequence of Bag."""
    return isinstance(value, Bag | Bags) or (
        isinstance(value, Sequence) and bool(value) and all(isinstance(one, Bag) for one in value)
    )
