"""A rectangle of one map, computed and pooled to cells at once: what a view of `probe.zoom` costs most."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import chunks
from probe.kernels.visible import intervals, visible_block


def pooled_view(
    q: Float[Tensor, "1 1 R D"],
    k: Float[Tensor, "1 1 C D"],
    lse: Float[Tensor, "1 1 R"],
    spec: ScoreSpec,
    at: tuple[range, range],
    sizes: tuple[int, int],
    reduce: str,
) -> Float[Tensor, "rows columns"]:
    """Weights of a rectangle over cells of `sizes` positions: mean or largest over the visible pairs, NaN where there are none.

    Args:
        q: queries of the rectangle's rows.
        k: keys of its columns.
        lse: log-sum-exp of its rows, over the whole map.
        spec: the rules of the whole map, for this sample and head.
        at: its queries and its keys; both start on a cell's border.
        sizes: positions per cell, along queries and keys.
        reduce: "mean" or "max".

    Returns:
        float32 (float64 for float64 input).
    """
    rows, keys = at
    part = _part(spec, rows, keys)
    valid = torch.ones(len(rows), dtype=torch.bool) if part.query_valid is None else part.query_valid[0]
    shift = torch.where(valid & lse[0, 0].isfinite(), lse[0, 0], torch.inf)  # other rows give nothing
    shape = [-(-len(span) // size) for span, size in zip(at, sizes, strict=True)]
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    total, count = torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=kind)
    seen_fully = _seen_fully(part, valid, len(keys))
    for chunk in chunks(q, k, part):
        p = chunk.scores[0].sub_(shift[chunk.rows, None].to(kind)).exp_()
        where = chunk.rows, chunk.keys
        _pool(p, total, where, sizes, reduce)
        everything = bool(
            seen_fully[chunk.rows].all()
        )  # the common case of a view, and seven eighths of its time
        if not everything:
            span = range(chunk.rows.start, chunk.rows.stop), range(chunk.keys.start, chunk.keys.stop)
            seen = visible_block(part, 0, *span, "cpu") & valid[chunk.rows, None]
            _pool(seen.to(kind), count, where, sizes, "mean")
        else:
            _count_all(count, chunk.rows, len(keys), sizes)
    value = total / count if reduce == "mean" else total
    return value.masked_fill_(count == 0, torch.nan)


def _part(spec: ScoreSpec, rows: range, keys: range) -> ScoreSpec:
    """The rules for these queries and keys alone."""
    cut: dict[str, Any] = {
        "query_valid": None if spec.query_valid is None else spec.query_valid[:, rows.start : rows.stop],
        "key_valid": None if spec.key_valid is None else spec.key_valid[:, keys.start : keys.stop],
    }
    return replace(
        spec, offset=spec.offset + rows.start - keys.start, before=(spec.before or 0) + keys.start, **cut
    )


def _seen_fully(part: ScoreSpec, valid: Tensor, n_keys: int) -> Tensor:
    """Which rows see every key of the rectangle, as far as intervals tell."""
    if part.groups is not None or (part.key_valid is not None and not bool(part.key_valid.all())):
        return torch.zeros_like(valid)
    low, high = intervals(part, 0, torch.arange(len(valid)) + part.offset, n_keys)
    return valid & (low <= 0) & (high >= n_keys)


def _pool(p: Tensor, out: Tensor, where: tuple[slice, slice], sizes: tuple[int, int], reduce: str) -> None:
    """Add a piece of the rectangle to the cells that it touches; what it does not cover of them counts as 0."""
    (tall, wide), (down, along) = sizes, where
    top, left = down.start // tall, along.start // wide
    rows, columns = -(-down.stop // tall) - top, -(-along.stop // wide) - left
    pad = (
        along.start - left * wide,
        (left + columns) * wide - along.stop,
        down.start - top * tall,
        (top + rows) * tall - down.stop,
    )
    if any(pad):
        p = torch.nn.functional.pad(p, pad)
    here = out[top : top + rows, left : left + columns]
    if reduce == "max":
        cells = p.view(rows, tall, columns, wide).amax((1, 3)) if sizes != (1, 1) else p
        here.copy_(torch.maximum(here, cells))
    else:
        cells = p.view(rows, tall, -1).sum(1) if tall > 1 else p
        here += cells.view(rows, columns, wide).sum(2) if wide > 1 else cells


def _count_all(count: Tensor, down: slice, n_keys: int, sizes: tuple[int, int]) -> None:
    """Count a piece all of whose pairs are visible."""
    tall, wide = sizes
    per_row = torch.bincount(torch.arange(down.start, down.stop) // tall, minlength=count.shape[0])
    per_column = torch.bincount(torch.arange(n_keys) // wide, minlength=count.shape[1])
    count += per_row[:, None] * per_column[None, :]
