"""A head_table that is made layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers.layers import Layer
from probe.record import strings


class LayerTable:
    """Rows over (layer, head) that come one by one, in any order; heads that a layer does not have are NaN or empty."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[str, tuple[int, ...], dict[str, NDArray[Any]]]] = {}

    def add(self, layer: Layer, samples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        """Add a layer: per sample, arrays over its heads by name (or single numbers of the layer); their mean is kept.

        NaN counts nowhere; what is NaN in every sample stays NaN.
        """
        mean = {}
        for name in samples[0]:
            values = np.stack([np.asarray(sample[name], dtype=np.float64) for sample in samples])
            count = np.isfinite(values).sum(0)
            total = np.where(np.isfinite(values), values, 0.0).sum(0)
            mean[name] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        self._rows[layer.number] = (layer.module, layer.heads, mean)

    def dataset(self) -> xr.Dataset:
        """The table, layers in order.

        Raises:
            InputError: no layer came.
        """
        if not self._rows:
            raise InputError("layers: none of those that were asked for was heard")
        numbers = sorted(self._rows)
        heads = sorted({head for _, chosen, _ in self._rows.values() for head in chosen})
        place = {head: at for at, head in enumerate(heads)}
        names = dict.fromkeys(name for _, _, mean in self._rows.values() for name in mean)
        variables: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {}
        for name in names:
            single = all(np.ndim(mean[name]) == 0 for _, _, mean in self._rows.values() if name in mean)
            shape = (len(numbers),) if single else (len(numbers), len(heads))
            values = np.full(shape, np.nan)
            for at, number in enumerate(numbers):
                _, chosen, mean = self._rows[number]
                if name in mean:
                    values[at if single else (at, [place[h] for h in chosen])] = mean[name]
            variables[name] = (("layer",) if single else ("layer", "head"), values)
        modules = strings([self._rows[n][0] for n in numbers])
        coords = {"layer": numbers, "head": heads, "module": ("layer", modules)}
        return xr.Dataset(variables, coords=coords)
