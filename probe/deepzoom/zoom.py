"""Deep zoom: any rectangle of a map of any length, from the queries and keys that a record kept.

A view of few entries is computed from q, k and the rows' log-sum-exps, and pooled to cells where there are more entries than
cells; a view of more than `LIVE` entries is read from the pooled maps that were built when the record was made. Nothing is
resampled: cells are powers of two long, lie on multiples of their own length, and the result says which positions each covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.deepzoom.kept import Kept, rules_of, tensor
from probe.deepzoom.pyramid import FINEST, LIVE, REDUCTIONS, Level, Pyramid, levels_in, read_cells
from probe.deepzoom.pyramid_build import build_pyramid
from probe.deepzoom.view import pooled_view
from probe.errors import InputError, RecordError
from probe.kernels.heads import of_heads
from probe.kernels.score import ScoreSpec
from probe.record import open_record

__all__ = ["FINEST", "LIVE", "PATIENT", "Kept", "Pyramid", "build_pyramid", "kept_layers", "zoom"]

#: Entries up to which a view without pooled maps is computed all the same: some seconds.
PATIENT = 1 << 28


def zoom(
    record: xr.DataTree | str | Path,
    *,
    layer: int,
    head: int,
    stream: str = "text",
    sample: int = 0,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
    cells: tuple[int, int] = (1000, 1000),
    reduce: str = "mean",
    size: int | None = None,
    live: int | None = None,
) -> xr.Dataset:
    """One rectangle of one map, in no more cells than asked for.

    Args:
        record: a record that kept q, k and v (`probe.capture(…, keep="qkv")`), or its folder; give the opened record where many
            views follow each other.
        layer: number of the layer.
        head: number of the head.
        stream: the tower.
        sample: index of the sample.
        rows: queries [first, last), None for all.
        columns: keys [first, last), None for all.
        cells: the most rows and columns of cells.
        reduce: what a cell holds of its visible pairs: their "mean", or the largest ("max").
        size: positions per cell and side, a power of two, in place of `cells`.
        live: entries up to which a view is computed although there are pooled maps; None for `LIVE`. A server of many small
            views asks for less, so that each is fast.

    Returns:
        Variable `value` (row, column), float32 weights; NaN where a cell holds no visible pair of valid positions. Coordinates
        row_start, row_stop, column_start, column_stop: the positions that each cell covers; cells at the border may reach
        beyond the rectangle, as they lie on multiples of their length. Attributes: `row_level` and `column_level`, positions
        per cell (1: every entry by itself); `exact`, whether the values were computed from q and k now, in float32; if not,
        they are off by `relative_rounding` of themselves, or by `absolute_rounding` where that is more.

    Raises:
        InputError: a head, sample, rectangle, number of cells or reduction that does not exist.
        RecordError: the record kept nothing of that layer, or no pooled maps, and the view is too large without.
    """
    tree = record if isinstance(record, xr.DataTree) else open_record(record)
    kept = _kept(tree, stream, layer)
    place = _place(kept, head, sample, reduce)
    area = _Area.of(kept, rows, columns, cells, size)
    levels = levels_in(kept)
    if area.entries > (LIVE if live is None else live) and f"pyramid_{reduce}" in kept:
        value, area, told = _stored(kept, levels, area, sample, place, reduce)
    elif area.entries > PATIENT:
        has = ", ".join(n for n in REDUCTIONS if f"pyramid_{n}" in kept) or "none"
        raise RecordError(
            f"/qkv/{stream}/{layer}: got a view of {area.entries} entries, expected at most {PATIENT} without pooled maps "
            f"of {reduce!r} (it has: {has}); ask for a smaller rectangle, or capture again with them"
        )
    else:
        value, told = _computed(kept, area, sample, place, reduce), {"exact": True}
    coords = {
        **area.rows.coordinates("row"),
        **area.columns.coordinates("column"),
    }
    attrs = {
        "stream": stream, "layer": layer, "head": head, "sample": sample, "reduce": reduce, "unit": "probability",
        "row_level": area.rows.size, "column_level": area.columns.size, **told,
    }  # fmt: skip
    return xr.Dataset({"value": (("row", "column"), value)}, coords=coords, attrs=attrs)


def kept_layers(tree: xr.DataTree, stream: str) -> list[int]:
    """The layers of a tower whose q, k and v a record kept."""
    node = tree.children.get("qkv")
    tower = None if node is None else node.children.get(stream)
    return [] if tower is None else sorted(int(name) for name in tower.children)


@dataclass(frozen=True)
class _Side:
    """Cells along one side: positions per cell, the cells [first, last), and how many positions there are."""

    size: int
    first: int
    last: int
    length: int

    @property
    def span(self) -> range:
        return range(self.first * self.size, min(self.last * self.size, self.length))

    def coordinates(self, name: str) -> dict[str, tuple[str, Any]]:
        edges = np.minimum(np.arange(self.first, self.last + 1) * self.size, self.length)
        return {f"{name}_start": (name, edges[:-1]), f"{name}_stop": (name, edges[1:])}

    def at(self, size: int) -> "_Side":
        """The same positions in cells of another size, and what the outer ones reach beyond."""
        span = self.span
        return _Side(size, span.start // size, -(-span.stop // size), self.length)

    @classmethod
    def of(
        cls, name: str, asked: tuple[int, int] | None, most: int, length: int, size: int | None
    ) -> "_Side":
        first, last = (0, length) if asked is None else asked
        if not 0 <= first < last <= length:
            raise InputError(f"{name}: got {(first, last)}, expected first < last within 0 to {length}")
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size & (size - 1):
                raise InputError(f"size: got {size!r}, expected a power of two")
            return cls(size, first // size, -(-last // size), length)
        if isinstance(most, bool) or not isinstance(most, int) or most < 2:
            raise InputError(f"cells: got {most!r} for the {name}, expected at least 2")
        chosen = 1
        while -(-last // chosen) - first // chosen > most:
            chosen *= 2
        return cls(chosen, first // chosen, -(-last // chosen), length)


@dataclass(frozen=True)
class _Area:
    rows: _Side
    columns: _Side

    @property
    def entries(self) -> int:
        return len(self.rows.span) * len(self.columns.span)

    @classmethod
    def of(
        cls,
        kept: xr.Dataset,
        rows: tuple[int, int] | None,
        columns: tuple[int, int] | None,
        cells: Sequence[int],
        size: int | None,
    ) -> "_Area":
        return cls(
            _Side.of("rows", rows, cells[0], kept.sizes["query"], size),
            _Side.of("columns", columns, cells[1], kept.sizes["key"], size),
        )


def _kept(tree: xr.DataTree, stream: str, layer: int) -> xr.Dataset:
    layers = kept_layers(tree, stream)
    if layer not in layers:
        raise RecordError(
            f"the record kept no queries and keys of layer {layer} of /{stream}, only of {layers or 'none'}; "
            "choose one of these, or capture again with keep='qkv'"
        )
    return tree.children["qkv"].children[stream].children[str(layer)].to_dataset(inherit=False)


def _place(kept: xr.Dataset, head: int, sample: int, reduce: str) -> int:
    heads = kept["head"].values.tolist()
    if head not in heads:
        raise InputError(f"head: got {head!r}, expected one of those that were kept: {heads}")
    if not 0 <= sample < kept.sizes["sample"]:
        raise InputError(f"sample: got {sample!r}, expected 0 to {kept.sizes['sample'] - 1}")
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce: got {reduce!r}, expected one of {', '.join(REDUCTIONS)}")
    place: int = heads.index(head)
    return place


def _stored(
    kept: xr.Dataset, levels: tuple[Level, ...], area: _Area, sample: int, place: int, reduce: str
) -> tuple[np.ndarray[Any, Any], _Area, dict[str, Any]]:
    """The view from the level whose cells are no finer than both sides need; cells are as long as wide there."""
    tiles = kept[f"pyramid_{reduce}"]
    needed = max(area.rows.size, area.columns.size, levels[0].size)
    level = next(level for level in levels if level.size == needed)
    area = _Area(area.rows.at(needed), area.columns.at(needed))
    ranges = (range(side.first, side.last) for side in (area.rows, area.columns))
    value = read_cells(tiles, level, sample, place, *ranges)
    names = ("relative_rounding", "absolute_rounding")
    return value, area, {"exact": False, **{name: tiles.attrs[name] for name in names}}


def _computed(kept: xr.Dataset, area: _Area, sample: int, place: int, reduce: str) -> np.ndarray[Any, Any]:
    rows, keys = area.rows.span, area.columns.span
    at_rows, at_keys = slice(rows.start, rows.stop), slice(keys.start, keys.stop)
    key_place = int(kept["key_head_of"].values[place])
    q = tensor(kept["q"].variable[sample : sample + 1, place : place + 1, at_rows])
    k = tensor(kept["k"].variable[sample : sample + 1, key_place : key_place + 1, at_keys])
    lse = tensor(kept["lse"].variable[sample : sample + 1, place : place + 1, at_rows])
    spec = _rules(kept, sample, place)
    sizes = (area.rows.size, area.columns.size)
    found: Float[Tensor, "R C"] = pooled_view(q, k, lse, spec, (rows, keys), sizes, reduce)
    return found.to(torch.float32).numpy()


def _rules(kept: xr.Dataset, sample: int, place: int) -> ScoreSpec:
    alone = kept.isel(sample=[sample]) if "sample" in kept.dims else kept
    return of_heads(rules_of(alone), [place])
