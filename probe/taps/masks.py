"""Reading the masks of a backend, and proving that a rule reproduces one exactly, some rows at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.visible import visible_block
from probe.taps._lazy_mask import LazyMask

#: Entries of the mask that are looked at together.
_BLOCK = 1 << 22

#: What the mask says of some rows of one sample, [heads or 1, rows, keys]: True where a key is attended to.
Reader = Callable[[int, range], Bool[Tensor, "heads rows keys"]]


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


def reader(mask: Any, n_queries: int, n_keys: int, dtype: torch.dtype) -> Reader | None:
    """How to read `mask`, or None if its form is unknown.

    Args:
        mask: bool [B, H or 1, Nq, Nk] (True = attended), float of that shape (0 = attended, the most negative
            value or -inf = not), a flex `BlockMask`, or a `LazyMask`.
        n_queries: Nq of the call.
        n_keys: Nk of the call; a longer mask is cut, as every backend does.
        dtype: of the queries; its most negative number also counts as -inf.
    """
    if isinstance(mask, Tensor):
        if mask.ndim != 4 or mask.shape[2] != n_queries or mask.shape[3] < n_keys:
            return None
        dense = mask[..., :n_keys]
        return _bool_reader(dense) if dense.dtype == torch.bool else _float_reader(dense, dtype)
    if isinstance(mask, LazyMask):
        return _lazy_reader(mask, n_keys) if mask.fits(n_queries, n_keys) else None
    if callable(getattr(mask, "mask_mod", None)):
        return _block_reader(mask.mask_mod, mask.kv_indices.device, n_keys)
    return None


def _bool_reader(mask: Tensor) -> Reader:
    return lambda sample, rows: mask[min(sample, mask.shape[0] - 1), :, rows.start : rows.stop]


def _lazy_reader(mask: LazyMask, n_keys: int) -> Reader:
    return lambda sample, rows: mask.rows(rows, sample)[0, ..., :n_keys]


def _float_reader(mask: Tensor, dtype: torch.dtype) -> Reader:
    floor = max(torch.finfo(mask.dtype).min, torch.finfo(dtype).min)

    def read(sample: int, rows: range) -> Tensor:
        values = mask[min(sample, mask.shape[0] - 1), :, rows.start : rows.stop]
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


def first_mismatch(read: Reader, spec: ScoreSpec, batch: int, n_queries: int, n_keys: int) -> Mismatch | None:
    """Compare a mask with the rules of `spec` over all valid queries; None if they agree everywhere.

    Holds one block of rows at a time. What the mask says about padded queries does not matter: they have no
    statistics.
    """
    step = max(1, _BLOCK // n_keys)
    for sample in range(batch):
        for first in range(0, n_queries, step):
            rows = range(first, min(first + step, n_queries))
            said = read(sample, rows)
            differs = said != visible_block(spec, sample, rows, range(n_keys), said.device)
            if spec.query_valid is not None:
                differs &= spec.query_valid[sample, rows.start : rows.stop, None].to(said.device)
            if differs.any():
                head, row, key = (int(i) for i in differs.nonzero()[0])
                return Mismatch(sample, first + row, key, bool(said[head, row, key]))
    return None
