"""Reading the bags of a record that `probe.capture_mil` made."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError, RecordError
from probe.explainers.reading import Floats

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class OneBag:
    """One bag of a record.

    Attributes:
        number: its place in the record.
        name: what it is called.
        branches: weights [M, N], rows sum to one.
        label: its class, −1 unknown.
        features: [N, F], or None.
        coords: [N, 2] (x, y) in pixels of full resolution, or None.
        patch_size: in the same pixels; NaN unknown.
        annotation: [N] numbers of patterns, or None.
    """

    number: int
    name: str
    branches: Floats
    label: int
    features: Floats | None
    coords: Floats | None
    patch_size: float
    annotation: Floats | None

    @property
    def attention(self) -> Floats:
        """Weights averaged over the branches, [N]: what a multi-branch model pools with."""
        return np.asarray(self.branches.mean(0))


def mil_of(trace: xr.DataTree) -> xr.Dataset:
    """The group /mil of a record.

    Raises:
        InputError: no record.
        RecordError: a record without bags.
    """
    if not isinstance(trace, xr.DataTree):
        raise InputError(
            f"expected a record (probe.capture_mil or probe.open_record), got {type(trace).__name__}"
        )
    if "mil" not in trace.children:
        raise RecordError("the record has no bags: make one with probe.capture_mil, or `probe mil explain`")
    return trace["mil"].to_dataset()


def bag_of(trace: xr.DataTree, number: int, *, features: bool = False) -> OneBag:
    """One bag.

    Args:
        trace: a record of bags.
        number: its place.
        features: read its features, too.

    Raises:
        RecordError: features are wanted and the record has none, or the weights are not finite.
    """
    data = mil_of(trace)
    size = int(data["instances"].values[number])
    branches = data["attention"].isel(bag=number, instance=slice(size)).values.astype(np.float64)
    if not np.isfinite(branches).all():
        raise RecordError(f"the attention of bag {number} is not finite: the record is damaged")
    if features and "features" not in data:
        raise RecordError(
            "the record has no features of the instances: capture again with features=… (a module's name)"
        )
    facts = trace["bags"].to_dataset() if "bags" in trace.children else xr.Dataset()
    found = {
        name: facts[name].isel(bag=number, instance=slice(size)).values.astype(np.float64)
        for name in ("coords", "annotation")
        if name in facts
    }
    return OneBag(
        number,
        str(facts["name"].values[number]) if "name" in facts else f"bag {number}",
        branches,
        int(facts["label"].values[number]) if "label" in facts else -1,
        data["features"].isel(bag=number, instance=slice(size)).values.astype(np.float64)
        if features
        else None,
        found["coords"] if np.isfinite(found.get("coords", np.nan)).all() else None,
        float(facts["patch_size"].values[number]) if "patch_size" in facts else float("nan"),
        found["annotation"] if np.isfinite(found.get("annotation", np.nan)).any() else None,
    )


def number_of(trace: xr.DataTree, bag: str) -> int:
    """The place of a bag that is called so, or that has this number.

    Raises:
        InputError: there is none, the message names some that there are.
    """
    count = mil_of(trace).sizes["bag"]
    names = [str(n) for n in trace["bags"].to_dataset()["name"].values] if "bags" in trace.children else []
    if bag in names:
        return names.index(bag)
    if bag.isdigit() and int(bag) < count:
        return int(bag)
    known = f", called {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else ""
    raise InputError(f"bag: got {bag!r}; the record has the bags 0 to {count - 1}{known}")


def class_name(trace: xr.DataTree, label: int) -> str:
    """What a class is called; its number where it has no name, nothing where it is unknown."""
    classes = list(trace["bags"].attrs.get("classes", [])) if "bags" in trace.children else []
    return "" if label < 0 else str(classes[label]) if label < len(classes) else str(label)
