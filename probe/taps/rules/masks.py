"""Reading the masks of a backend, and proving that a rule reproduces one exactly, some rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.visible import visible_block
from probe.taps.longmask.lazy import LazyMask

#: Entries of the mask that are looked at together.
_BLOCK = 1 << 22

#: What the mask says of some rows of one sample, [heads or 1, rows, keys]: True where a key is attended to.
Reader = Callable[[int, range], Bool[Tensor, "heads rows keys"]]

#: What is added to the scores in some rows of one sample, [heads or 1, rows, keys].
Adder = Callable[[int, range], Float[Tensor, "heads rows keys"]]


class AdditiveMaskError(ValueError):
    """The mask holds finite values besides 0: a bias, not a rule of visibility."""


@dataclass(frozen=True)
class Mismatch:
    """The first entry in which a mask and a rule differ."""

    sample: int
    query: int
    key: int
    visible: bool  # what the mask says

    def __str__(self) -> str:
        said, rule = ("visible", "hidden") if self.visible else ("hidden", "visible")
        return (
            f"sample {self.sample}, query {self.query}, key {self.key}: the mask says {said}, the rule {rule}"
        )


def reader(
    mask: Any, n_queries: int, n_keys: int, dtype: torch.dtype, *, biased: bool = False
) -> Reader | None:
    """How to read `mask`, or None if its form is unknown.

    Args:
        mask: bool [B or 1, H or 1, Nq or 1, Nk] (True = attended), float of that shape (0 = attended, the most negative
            value or -inf = not), a flex `BlockMask`, or a `LazyMask`.
        n_queries: Nq of the call.
        n_keys: Nk of the call; a longer mask is cut, as every backend does.
        dtype: of the queries; its most negative number also counts as -inf.
        biased: other finite values are a bias on keys that are attended to, up to half of the most negative number (to
            which a bias may have been added); else the reader raises AdditiveMaskError there.
    """
    if isinstance(mask, Tensor):
        dense = _expanded(mask, n_queries, n_keys)
        if dense is None:
            return None
        return _bool_reader(dense) if dense.dtype == torch.bool else _float_reader(dense, dtype, biased)
    if isinstance(mask, LazyMask):
        return _lazy_reader(mask, n_keys) if mask.fits(n_queries, n_keys) else None
    if callable(getattr(mask, "mask_mod", None)):
        return _block_reader(mask.mask_mod, mask.kv_indices.device, n_keys)
    return None


def adder(mask: Any, n_queries: int, n_keys: int) -> Adder | None:
    """How to read what `mask` adds to the scores; None if it adds nothing (bool, block and lazy masks), or has another form.

    Args:
        mask: float [B or 1, H or 1, Nq or 1, Nk].
        n_queries: Nq of the call.
        n_keys: Nk of the call; longer masks are cut.
    """
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        return None
    dense = _expanded(mask, n_queries, n_keys)
    if dense is None:
        return None
    return lambda sample, rows: dense[min(sample, dense.shape[0] - 1), :, rows.start : rows.stop]


def _expanded(mask: Tensor, n_queries: int, n_keys: int) -> Tensor | None:
    """The mask with all its rows and the keys of the call (a view); None if it does not fit."""
    if mask.ndim != 4 or mask.shape[2] not in (1, n_queries) or mask.shape[3] < n_keys:
        return None
    return mask[..., :n_keys].expand(-1, -1, n_queries, -1)


def _bool_reader(mask: Tensor) -> Reader:
    return lambda sample, rows: mask[min(sample, mask.shape[0] - 1), :, rows.start : rows.stop]


def _lazy_reader(mask: LazyMask, n_keys: int) -> Reader:
    return lambda sample, rows: mask.rows(rows, sample)[0, ..., :n_keys]


def _float_reader(mask: Tensor, dtype: torch.dtype, biased: bool) -> Reader:
    floor = max(torch.finfo(mask.dtype).min, torch.finfo(dtype).min)

    def read(sample: int, rows: range) -> Tensor:
        values = mask[min(sample, mask.shape[0] - 1), :, rows.start : rows.stop]
        if biased:
            return ~(values <= floor / 2)
        visible = values == 0
        between = ~visible & ~(values <= floor)
        if between.any():
            head, row, key = (int(i) for i in between.nonzero()[0])
            value = float(values[head, row, key])
            raise AdditiveMaskError(
                f"it adds {value:g} at sample {sample}, head {head}, query {rows.start + row}, key {key}"
            )
        return visible

    return read


def _block_reader(mask_mod: Callable[..., Tensor], device: torch.device, n_keys: int) -> Reader:
    keys = torch.arange(n_keys, device=device)[None, :]
    zero = torch.zeros((), dtype=torch.int64, device=device)

    def read(sample: int, rows: range) -> Tensor:
        queries = torch.arange(rows.start, rows.stop, device=device)[:, None]
        visible = mask_mod(zero + sample, zero, queries, keys)
        return visible.expand(len(rows), n_keys)[None]

    return read


def row_blocks(n_queries: int, n_keys: int, heads: int = 1) -> Iterator[range]:
    """The rows of a map, as many together as are looked at at once."""
    step = max(1, _BLOCK // (heads * n_keys))
    for first in range(0, n_queries, step):
        yield range(first, min(first + step, n_queries))


def first_mismatch(read: Reader, spec: ScoreSpec, batch: int, n_queries: int, n_keys: int) -> Mismatch | None:
    """Compare a mask with the rules of `spec` over all valid queries; None if they agree everywhere.

    Holds one block of rows at a time. What the mask says about padded queries does not matter: they have no
    statistics.
    """
    for sample in range(batch):
        for rows in row_blocks(n_queries, n_keys):
            said = read(sample, rows)
            differs = said != visible_block(spec, sample, rows, range(n_keys), said.device)
            if spec.query_valid is not None:
                differs &= spec.query_valid[sample, rows.start : rows.stop, None].to(said.device)
            if differs.any():
                head, row, key = (int(i) for i in differs.nonzero()[0])
                return Mismatch(sample, rows.start + row, key, bool(said[head, row, key]))
    return None


def row_ends(
    read: Reader, spec: ScoreSpec, batch: int, n_queries: int, n_keys: int
) -> tuple[Int[Tensor, "B Nq"], Int[Tensor, "B Nq"]]:
    """The first and the last key that each query sees in some head; n_keys and -1 for queries that see none or are padding."""
    first, last = torch.full((batch, n_queries), n_keys), torch.full((batch, n_queries), -1)
    for sample in range(batch):
        for rows in row_blocks(n_queries, n_keys):
            seen = read(sample, rows).any(0)
            if spec.query_valid is not None:
                seen = seen & spec.query_valid[sample, rows.start : rows.stop, None].to(seen.device)
            there = seen.any(1)
            place = slice(rows.start, rows.stop)
            first[sample, place] = torch.where(there, seen.int().argmax(1), n_keys).cpu()
            last[sample, place] = torch.where(there, n_keys - 1 - seen.flip(1).int().argmax(1), -1).cpu()
    return first, last


def seen_keys(
    mask: Any, q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"]
) -> Bool[Tensor, "B Nk"] | None:
    """The keys that some query sees; None if there is no mask, if it cannot be read, or if all are seen.

    Args:
        mask: as the backend got it.
        q: the queries of the call.
        k: the keys of the call.
    """
    batch, _, n_queries, _ = q.shape
    n_keys = k.shape[2]
    read = None if mask is None else reader(mask, n_queries, n_keys, q.dtype)
    if read is None:
        return None
    step = max(1, _BLOCK // n_keys)
    seen = torch.zeros(batch, n_keys, dtype=torch.bool, device=k.device)
    try:
        for sample in range(batch):
            for first in range(0, n_queries, step):
                rows = read(sample, range(first, min(first + step, n_queries)))
                seen[sample] |= rows.flatten(0, 1).any(0)
    except AdditiveMaskError:
        return None
    return None if bool(seen.all()) else seen
