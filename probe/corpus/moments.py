"""Count, mean, variance, least and largest value of every head, of one input and merged over many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probe.record import strings
from probe.stats import STATS

Array = np.ndarray[Any, Any]

#: Shares of the inputs at which the means of a head over each input are read off.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
FIELDS = ("count", "mean", "squares", "least", "largest")


@dataclass(frozen=True)
class Moments:
    """Of one tower; arrays over (statistic, layer, head).

    Attributes:
        stats: names of the statistics.
        layers: numbers of the layers.
        modules: their names.
        count: finite values that were there (padding is not), int64.
        mean: their mean, NaN where there are none.
        squares: Σ (x - mean)², float64.
        least: smallest value, NaN where there is none.
        largest: largest value, likewise.
    """

    stats: tuple[str, ...]
    layers: tuple[int, ...]
    modules: tuple[str, ...]
    count: Array
    mean: Array
    squares: Array
    least: Array
    largest: Array

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same for two of them to be merged."""
        return self.stats, self.layers, self.modules, self.count.shape

    def merged(self, other: "Moments") -> "Moments":
        """Both together, by the pairwise update of Chan, Golub and LeVeque (The American Statistician 37, 1983, eq. 2.1)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        first, second = (np.where(m.count > 0, m.mean, 0.0) for m in (self, other))
        apart = np.where((self.count > 0) & (other.count > 0), second - first, 0.0)
        mean = np.where(self.count > 0, first + apart * share, other.mean)
        squares = self.squares + other.squares + apart**2 * self.count * share
        return Moments(
            self.stats, self.layers, self.modules, count, mean, squares,
            np.fmin(self.least, other.least), np.fmax(self.largest, other.largest),
        )  # fmt: skip


def moments_of(tower: xr.Dataset, sample: int) -> Moments | None:
    """The moments of one sample of a record's tower over its positions; None without a statistic of positions.

    Args:
        tower: a tower of a record.
        sample: which of its samples.
    """
    names = tuple(name for name in tower.attrs["stats"] if STATS[name].along != "map")
    if not names:
        return None
    shape = (len(names), tower.sizes["layer"], tower.sizes["head"])
    out = {name: np.zeros(shape, np.int64 if name == "count" else np.float64) for name in FIELDS}
    for at, name in enumerate(names):
        for layer in range(shape[1]):
            x = tower[name].isel(sample=sample, layer=layer).to_numpy().astype(np.float64)
            there = x >= 0 if STATS[name].dtype == "int32" else np.isfinite(x)
            count = there.sum(-1)
            some = count > 0
            mean = np.where(some, np.where(there, x, 0.0).sum(-1) / np.maximum(count, 1), np.nan)
            away = np.where(there, x - np.where(some, mean, 0.0)[:, None], 0.0)
            out["count"][at, layer], out["mean"][at, layer] = count, mean
            out["squares"][at, layer] = (away**2).sum(-1)
            out["least"][at, layer] = np.where(some, np.where(there, x, np.inf).min(-1), np.nan)
            out["largest"][at, layer] = np.where(some, np.where(there, x, -np.inf).max(-1), np.nan)
    layers = tuple(int(layer) for layer in tower["layer"].to_numpy())
    modules = tuple(str(module) for module in tower["module"].to_numpy())
    return Moments(names, layers, modules, **out)


def summary(parts: Sequence[Moments | None]) -> xr.Dataset:
    """Everything that many inputs say of one tower, merged in their order.

    Args:
        parts: one per input, None where it has nothing of this tower; at least one is not None.

    Returns:
        count, mean, variance (over all positions of all inputs, divided by the count), least and largest over (statistic,
        layer, head); input_mean over (input, statistic, layer, head): the mean over the positions of each input; quantiles
        over (quantile, statistic, layer, head): of these means, over the inputs that have one.
    """
    there = [part for part in parts if part is not None]
    whole = there[0]
    for part in there[1:]:
        whole = whole.merged(part)
    nothing = np.full(whole.mean.shape, np.nan)
    means = np.stack([nothing if part is None else part.mean for part in parts])
    variance = np.where(whole.count > 0, whole.squares / np.maximum(whole.count, 1), np.nan)
    quantiles = np.full((len(QUANTILES), *nothing.shape), np.nan)
    known = ~np.isnan(means).all(0)
    quantiles[:, known] = np.nanquantile(means[:, known], QUANTILES, axis=0)
    dims = ("statistic", "layer", "head")
    return xr.Dataset(
        {
            "count": (dims, whole.count),
            "mean": (dims, whole.mean),
            "variance": (dims, variance),
            "least": (dims, whole.least),
            "largest": (dims, whole.largest),
            "quantiles": (("quantile", *dims), quantiles),
            "input_mean": (("input", *dims), means),
        },
        {
            "statistic": strings(list(whole.stats)),
            "unit": ("statistic", strings([STATS[name].unit for name in whole.stats])),
            "layer": np.array(whole.layers),
            "module": ("layer", strings(list(whole.modules))),
            "head": np.arange(nothing.shape[-1]),
            "quantile": np.array(QUANTILES),
        },
    )


def as_arrays(moments: Mapping[str, Moments]) -> dict[str, Array]:
    """The moments of towers as arrays by name, for a file."""
    return {f"{tower}.{field}": getattr(m, field) for tower, m in moments.items() for field in FIELDS}


def described(moments: Mapping[str, Moments]) -> dict[str, dict[str, list[Any]]]:
    """What their arrays do not tell, for JSON."""
    return {
        tower: {"stats": list(m.stats), "layers": list(m.layers), "modules": list(m.modules)}
        for tower, m in moments.items()
    }


def from_arrays(
    told: Mapping[str, Mapping[str, Sequence[Any]]], arrays: Mapping[str, Array]
) -> dict[str, Moments]:
    """The inverse of `described` and `as_arrays`.

    Raises:
        KeyError: an array is missing.
    """
    return {
        tower: Moments(
            tuple(words["stats"]),
            tuple(words["layers"]),
            tuple(words["modules"]),
            **{field: arrays[f"{tower}.{field}"] for field in FIELDS},
        )
        for tower, words in told.items()
    }
