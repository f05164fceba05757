"""One kept map as the deep zoom reads it: tiles, exact cells, strongest links, texts and curves, each small and by itself.

A tile is a square of `SIDE` × `SIDE` cells as a grey picture of 8 bits, whose code says the weight on a log scale. Code 0: the
cell holds no visible pair. Code c ≥ 2: the weight 2^((c - 255) / 8). Code 1: less than any of these. Rounding to eighths of an
octave puts a weight off by at most `RELATIVE` = 2^(1/16) - 1 = 4.5 % of itself, or, below `FLOOR` = 2^(-253.5 / 8), by at most
that. Colours are given in the browser, so that a tile serves every scale and theme.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probe.deepzoom.pyramid import LIVE, REDUCTIONS, levels_in
from probe.deepzoom.single import alone, entries, strongest
from probe.deepzoom.zoom import kept_layers, zoom
from probe.errors import InputError, RecordError
from probe.record import positions
from probe.viz import theme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.uint8]
    Weights = NDArray[np.floating[Any]]

SIDE = 256
PER_OCTAVE = 8
RELATIVE = 2.0 ** (0.5 / PER_OCTAVE) - 1
FLOOR = 2.0 ** (-253.5 / PER_OCTAVE)
#: Cells up to this size are computed for a tile of a map that has pooled maps for the larger ones.
_COMPUTED = 4
#: Texts and values of a curve that one answer holds, and links.
MOST_TEXTS, MOST_LINKS = 4096, 64
#: The statistics drawn beside the map: what keys receive above it, how spread queries are at its right; the first there is.
CURVES = {"keys": ("received", "received_sampled"), "queries": ("entropy", "effective_keys", "max_prob")}


def encode(weights: Weights) -> Codes:
    """Weights as codes, NaN as 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(255 + PER_OCTAVE * np.log2(weights))
    return np.where(np.isnan(codes), 0, np.clip(codes, 1, 255)).astype(np.uint8)


def decode(codes: Codes) -> Weights:
    """Codes as weights: NaN for 0, 0 for "less than `FLOOR`"."""
    weights = 2.0 ** ((codes.astype(np.float64) - 255) / PER_OCTAVE)
    return np.where(codes == 0, np.nan, np.where(codes == 1, 0.0, weights))


class Tiles:
    """One map of a record that kept q, k and v.

    Args:
        record: the opened record.
        layer: number of the layer.
        head: number of the head.
        stream: the tower.
        sample: index of the sample.

    Raises:
        InputError: a head or sample that was not kept.
        RecordError: the record kept nothing of that layer.
    """

    def __init__(
        self, record: xr.DataTree, *, layer: int, head: int, stream: str = "text", sample: int = 0
    ) -> None:
        kept = kept_layers(record, stream)
        if layer not in kept:
            raise RecordError(
                f"the record kept no queries and keys of layer {layer} of /{stream}, only of {kept or 'none'}; choose one "
                "of these, or capture again with keep='qkv'"
            )
        self.one = alone(
            record.children["qkv"].children[stream].children[str(layer)].to_dataset(inherit=False),
            head,
            sample,
        )
        self.layer, self.head, self.stream, self.sample = layer, head, stream, sample
        self.shape = self.one.sizes["query"], self.one.sizes["key"]
        self._tree = xr.DataTree.from_dict({f"/qkv/{stream}/{layer}": self.one})
        self._tower = record[stream].to_dataset()
        self._texts = {
            side: positions(record, stream, side)["text"].isel(sample=sample).values
            for side in ("queries", "keys")
        }

    @property
    def nbytes(self) -> int:
        """Memory that this holds, pooled maps aside: they stay on disk."""
        mine = (x.nbytes for name, x in self.one.data_vars.items() if not str(name).startswith("pyramid_"))
        return sum(mine) + 80 * sum(len(texts) for texts in self._texts.values())

    def largest(self, reduce: str) -> int:
        """Positions per cell in the coarsest tiles that can be had, a power of two.

        Raises:
            InputError: an unknown reduction.
        """
        if reduce not in REDUCTIONS:
            raise InputError(f"reduce: got {reduce!r}, expected one of {', '.join(REDUCTIONS)}")
        size = 1
        while size * SIDE < max(self.shape):
            size *= 2
        if f"pyramid_{reduce}" not in self.one:
            while min(size * SIDE, self.shape[0]) * min(size * SIDE, self.shape[1]) > LIVE:
                size //= 2
        return size

    def about(self) -> dict[str, Any]:
        """What a viewer has to know of the map before it asks for tiles; small, and made of plain values."""
        finest = min((level.size for level in levels_in(self.one)), default=0)
        curves = {side: self._curve_name(side) for side in CURVES}
        return {
            "stream": self.stream, "layer": self.layer, "head": self.head, "sample": self.sample,
            "queries": self.shape[0], "keys": self.shape[1], "side": SIDE, "per_octave": PER_OCTAVE, "relative": RELATIVE,
            "largest": {name: self.largest(name) for name in REDUCTIONS},
            "exact_to": {
                name: min(_COMPUTED, finest // 2) if f"pyramid_{name}" in self.one else self.largest(name)
                for name in REDUCTIONS
            },
            "curves": {
                side: None if name is None else {"name": name, "unit": self._tower[name].attrs.get("unit", "")}
                for side, name in curves.items()
            },
            "scale": [list(stop) for stop in theme.SEQUENTIAL],
        }  # fmt: skip

    def tile(self, reduce: str, size: int, row: int, column: int) -> bytes:
        """One tile as a PNG; a tile at the border is smaller.

        Args:
            reduce: "mean" or "max" over the visible pairs of a cell.
            size: positions per cell and side, a power of two.
            row: it covers queries row · `SIDE` · size …
            column: and keys column · `SIDE` · size …

        Raises:
            InputError: a reduction, size or place that there is not.
        """
        largest = self.largest(reduce)
        if size < 1 or size & (size - 1) or size > largest:
            raise InputError(
                f"size: got {size}, expected a power of two up to {largest} for {reduce!r} of this map"
            )
        spans = [
            (at * SIDE * size, min((at + 1) * SIDE * size, length))
            for at, length in zip((row, column), self.shape, strict=True)
        ]
        if any(not 0 <= first < last for first, last in spans):
            raise InputError(
                f"tile: got row {row}, column {column}, which lie beyond the map at {size} positions a cell"
            )
        live = (self.about()["exact_to"][reduce] * SIDE) ** 2 if f"pyramid_{reduce}" in self.one else None
        seen = zoom(
            self._tree, layer=self.layer, head=self.head, stream=self.stream, rows=spans[0], columns=spans[1], size=size,
            reduce=reduce, live=live,
        )  # fmt: skip
        return _png(encode(seen["value"].values))

    def cell(self, query: int, key: int) -> dict[str, Any]:
        """The exact weight and score of one pair, and what stands at its two ends; None where the rules hide the pair.

        Raises:
            InputError: a query or key that there is not.
        """
        at = range(query, query + 1), range(key, key + 1)
        weight, score = (float(entries(self.one, *at, what)[0, 0]) for what in ("prob", "score"))
        seen = bool(np.isfinite(score)) and bool(np.isfinite(weight))
        return {
            "query": query, "key": key, "weight": weight if seen else None, "score": score if seen else None,
            "query_text": str(self._texts["queries"][query]), "key_text": str(self._texts["keys"][key]),
        }  # fmt: skip

    def links(
        self, *, query: int | None = None, key: int | None = None, links: int = 12
    ) -> list[dict[str, Any]]:
        """The strongest keys of a query, or queries of a key: number, text and exact weight, strongest first.

        Raises:
            InputError: not exactly one of the two, or one that there is not; more links than `MOST_LINKS`.
        """
        if not 1 <= links <= MOST_LINKS:
            raise InputError(f"links: got {links}, expected 1 to {MOST_LINKS}")
        numbers, weights = strongest(self.one, links, query=query, key=key)
        texts = self._texts["keys" if query is not None else "queries"]
        return [
            {"at": int(n), "text": str(texts[n]), "weight": float(w)}
            for n, w in zip(numbers, weights, strict=True)
        ]

    def texts(self, side: str, first: int, last: int) -> list[str]:
        """The texts of the "queries" or "keys" first … last - 1.

        Raises:
            InputError: another side, or not 1 to `MOST_TEXTS` places that there are.
        """
        self._check_span(side, first, last)
        return [str(text) for text in self._texts[side][first:last]]

    def curve(self, side: str, size: int, block: int) -> NDArray[np.float32]:
        """The curve beside the map, mean over `size` positions each: `SIDE` values, fewer at the end, NaN where there is none.

        Raises:
            InputError: another side, no such curve in this record, or a block beyond the map.
        """
        first = block * SIDE * size
        if size < 1 or size & (size - 1) or size > 1 << 30:
            raise InputError(f"size: got {size}, expected a power of two")
        length = self.shape[0 if side == "queries" else 1]
        self._check_span(side, first, min(first + 1, length))
        name = self._curve_name(side)
        if name is None:
            raise InputError(f"curve: the record has none of {', '.join(CURVES[side])}")
        dim = "query" if side == "queries" else "key"
        part = self._tower[name].sel(layer=self.layer, head=self.head).isel(sample=self.sample)
        values = part.isel({dim: slice(first, first + SIDE * size)}).values.astype(np.float64)
        values = np.pad(values, (0, -len(values) % size), constant_values=np.nan).reshape(-1, size)
        count = np.isfinite(values).sum(1)
        with np.errstate(invalid="ignore"):
            means: NDArray[np.float32] = (np.nansum(values, 1) / np.where(count, count, np.nan)).astype(
                np.float32
            )
        return means

    def _curve_name(self, side: str) -> str | None:
        return next((name for name in CURVES[side] if name in self._tower), None)

    def _check_span(self, side: str, first: int, last: int) -> None:
        if side not in CURVES:
            raise InputError(f"side: got {side!r}, expected 'queries' or 'keys'")
        length = self.shape[0 if side == "queries" else 1]
        if not 0 <= first < last <= length or last - first > MOST_TEXTS:
            raise InputError(
                f"{side}: got {first} to {last}, expected 1 to {MOST_TEXTS} of them within 0 to {length}"
            )


def _png(codes: Codes) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(codes).save(file, "PNG", compress_level=1)
    return file.getvalue()
