"""Writing a record layer by layer, into memory or into a folder that counts as whole only at the end."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import RecordError
from probe.record.rounding import check_bits, described, round_bits
from probe.record.schema import SCHEMA, Check, attributes, dims, dtype, ordered, validate
from probe.record.tower import Tower, Written

Array = np.ndarray[Any, Any]


class Writer:
    """Collects the towers of a record; a context manager that leaves nothing half-written behind.

    Args:
        expected: how many layers will probably come, of all towers together.
        keep_bits: bits of the mantissa that float statistics keep; None for all of them.
    """

    def __init__(self, expected: int, keep_bits: int | None) -> None:
        check_bits(keep_bits)
        self.expected = expected
        self.keep_bits = keep_bits
        self.written: list[Written] = []
        self._towers: dict[str, Tower] = {}

    @property
    def checks(self) -> list[Check]:
        """The checks of all layers written, also of those before a resume."""
        return [check for layer in self.written for check in layer.checks]

    def facts(self, name: str) -> list[str]:
        """One fact of all layers written that tell it, in the order of writing."""
        return [layer.facts[name] for layer in self.written if name in layer.facts]

    def has(self, stream: str, layer: int) -> bool:
        """Whether a layer stands in the record already."""
        return any((w.stream, w.layer) == (stream, layer) for w in self.written)

    def add(
        self,
        stream: str,
        layer: int,
        module: str,
        values: Mapping[str, Array],
        *,
        queries: str = "tokens",
        keys: str = "tokens",
        checks: Sequence[Check] = (),
        kept: xr.Dataset | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Write one layer.

        Args:
            stream: its tower, made with its first layer: later ones have the same variables and shapes.
            layer: its number.
            module: the module's name.
            values: statistics [B, H, N] (pooled [B, H, R, C]) and the counts keys_seen [B, Nq] and seen_by [B, Nk].
            queries: the group of positions of its queries.
            keys: the group of positions of its keys.
            checks: its part of the validity report.
            kept: queries, keys and values of chosen heads, for `probe.zoom` (`probe.deepzoom.kept`).
            facts: what else is known of it, in words; coordinates of the tower.

        Raises:
            ModelError: the layer is not like those before it.
            RecordError: it stands in the record already, its values are no statistics, or it cannot be written.
        """
        told = dict(facts or {})
        if self.has(stream, layer):
            raise RecordError(f"{module}: layer {layer} of /{stream} stands in the record already")
        tower = self._towers.get(stream)
        if tower is None:
            tower = Tower.of(stream, module, values, queries, keys, told)
            self._create(tower)
            self._towers[stream] = tower
        tower.check(module, values, queries, keys, told)
        self._write(tower, {name: self._rounded(name, values[name]) for name in tower.variables})
        if kept is not None:
            self._keep(f"qkv/{stream}/{layer}", kept)
        written = Written(stream, layer, module, told, tuple(checks))
        self._mark(written)
        tower.layers.append(written)
        self.written.append(written)

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
        """Add the small groups and the attributes, and close the record.

        Raises:
            RecordError: it cannot be written, or is no record (`probe.record.validate`).
        """
        raise NotImplementedError

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()

    def _create(self, tower: Tower) -> None:
        raise NotImplementedError

    def _write(self, tower: Tower, values: Mapping[str, Array]) -> None:
        raise NotImplementedError

    def _keep(self, path: str, dataset: xr.Dataset) -> None:
        raise NotImplementedError

    def _mark(self, written: Written) -> None:
        """Say that a layer is whole, after all of it was written."""

    def _abandon(self) -> None:
        """Remove what was written."""

    def _rounded(self, name: str, values: Array) -> Array:
        values = np.asarray(values, dtype=dtype(name))
        return (
            values
            if self.keep_bits is None or values.dtype.kind != "f"
            else round_bits(values, self.keep_bits)
        )

    def _attributes(self, name: str) -> dict[str, Any]:
        rounded = np.dtype(dtype(name)).kind == "f"
        return attributes(name) | (described(self.keep_bits) if rounded else {})

    def _root(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        return {**attrs, **described(self.keep_bits)}


class MemoryWriter(Writer):
    """A record in memory; needs no zarr."""

    def __init__(self, expected: int, keep_bits: int | None) -> None:
        super().__init__(expected, keep_bits)
        self._layers: dict[str, dict[str, list[Array]]] = {}
        self._kept: dict[str, xr.Dataset] = {}

    def _create(self, tower: Tower) -> None:
        self._layers[tower.name] = {name: [] for name in tower.variables}

    def _write(self, tower: Tower, values: Mapping[str, Array]) -> None:
        for name, layers in self._layers[tower.name].items():
            layers.append(values[name])

    def _keep(self, path: str, dataset: xr.Dataset) -> None:
        self._kept[f"/{path}"] = dataset

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
        """Put the tree together."""
        root = xr.Dataset(attrs={"schema": SCHEMA, **self._root(attrs), "status": "complete"})
        tree = {"/": root, **self._kept, **{f"/{name}": dataset for name, dataset in groups.items()}}
        for name, tower in self._towers.items():
            variables = {
                n: (dims(n), np.stack(layers, axis=1), self._attributes(n))
                for n, layers in self._layers.pop(name).items()
            }
            tree[f"/{name}"] = xr.Dataset(variables, coords=tower.coordinates(), attrs=tower.attributes)
        record = ordered(tree, list(self._towers))
        validate(record)
        return record
