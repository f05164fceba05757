"""Building the pooled maps of `probe.deepzoom.pyramid` on the device where q lies: one column pass per head and reduction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.deepzoom.pyramid import FINEST, REDUCTIONS, Level, Pyramid
from probe.errors import InputError
from probe.kernels.column_pass import column_stats
from probe.kernels.pooling import cell_counts
from probe.kernels.score import ScoreSpec

_SLAB_CELLS = 1 << 24


def build_pyramid(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    implementation: str = "auto",
    *,
    finest: int = FINEST,
    reduce: Sequence[str] = ("mean",),
) -> Pyramid:
    """Pool the map of every head at every level, on the device where q lies: one column pass per head and reduction.

    Memory on the device beyond q and k: O(cells of the finest level) of one head, in portions.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        lse: log-sum-exp of every row, from `row_stats` under the same rules.
        implementation: of the kernels: "auto", "reference" or "triton".
        finest: positions per cell and side in the finest level, a power of two.
        reduce: "mean", "max" or both.

    Raises:
        InputError: another `finest` or reduction.
        ValueError: q, k, spec and lse do not fit (as `column_stats`).
    """
    if finest < 2 or finest & (finest - 1):
        raise InputError(f"finest: got {finest}, expected a power of two, at least 2")
    unknown = [name for name in reduce if name not in REDUCTIONS]
    if unknown or not reduce:
        raise InputError(f"reduce: got {list(reduce)}, expected one or both of {', '.join(REDUCTIONS)}")
    (batch, heads, n_queries, _), n_keys = q.shape, k.shape[2]
    pyramid = Pyramid.empty(batch, heads, n_queries, n_keys, finest, reduce)
    group = heads // k.shape[1]
    for b in range(batch):
        for head in range(heads):
            alone = slice(b, b + 1)
            ours = _padded(
                q[alone, head : head + 1], k[alone, head // group : head // group + 1],
                _of_one(spec, b, head), lse[alone, head : head + 1], finest,
            )  # fmt: skip
            _build(pyramid, b, head, ours, implementation)
    return pyramid


@dataclass(frozen=True, eq=False)
class _Map:
    q: Tensor
    k: Tensor
    spec: ScoreSpec
    lse: Tensor


def _of_one(spec: ScoreSpec, sample: int, head: int) -> ScoreSpec:
    per_head = {"slopes", "distance_bias", "sink"}
    per_sample = {"origin", "groups", "documents", "key_valid", "query_valid"}
    found = {name: getattr(spec, name) for name in per_head | per_sample}
    cut: dict[str, Any] = {
        name: x[head : head + 1] if name in per_head else x[sample : sample + 1]
        for name, x in found.items()
        if x is not None
    }
    return replace(spec, **cut)


def _padded(q: Tensor, k: Tensor, spec: ScoreSpec, lse: Tensor, size: int) -> _Map:
    """The map with padding up to whole cells, and with keys for all queries of a causal map."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    more_queries = -n_queries % size
    needed = (
        max(n_keys, spec.offset + n_queries + more_queries) if spec.causal and spec.before is None else n_keys
    )
    more_keys = -(-needed // size) * size - n_keys
    if more_queries:
        q, lse = _more(q, more_queries, 2, 0.0), _more(lse, more_queries, 2, 0.0)
        valid = spec.query_valid
        valid = torch.ones(1, n_queries, dtype=torch.bool, device=q.device) if valid is None else valid
        spec = replace(spec, query_valid=_more(valid, more_queries, 1, False))
    if more_keys:
        k = _more(k, more_keys, 2, 0.0)
        valid = spec.key_valid
        valid = torch.ones(1, n_keys, dtype=torch.bool, device=q.device) if valid is None else valid
        spec = replace(spec, key_valid=_more(valid, more_keys, 1, False))
    places = (spec.before or 0) + max(k.shape[2], spec.offset + q.shape[2])
    for name in ("groups", "documents"):
        numbers = getattr(spec, name)
        if numbers is not None and numbers.shape[1] < places:
            fill = -1 if name == "groups" else int(numbers.max()) + 1
            longer: dict[str, Any] = {name: _more(numbers, places - numbers.shape[1], 1, fill)}
            spec = replace(spec, **longer)
    return _Map(q, k, spec, lse)


def _more(x: Tensor, n: int, dim: int, value: float) -> Tensor:
    shape = [*x.shape]
    shape[dim] = n
    return torch.cat([x, x.new_full(shape, value)], dim)


def _build(pyramid: Pyramid, sample: int, head: int, whole: _Map, implementation: str) -> None:
    finest = pyramid.levels[0]
    size, wide = finest.size, whole.k.shape[2] // finest.size
    slab = max(2, _SLAB_CELLS // wide // 2 * 2)  # even, so that the next level needs no other slab
    nexts: dict[str, list[Tensor]] = {}
    for top in range(0, finest.rows, slab):
        rows = slice(top * size, min((top + slab) * size, whole.q.shape[2]))
        part = _rows_of(whole, rows)
        grid = (part.q.shape[2] // size, wide)
        found = {}
        for name in pyramid.maps:
            way = "sum" if name == "mean" else "max"
            found[name] = column_stats(
                part.q,
                part.k,
                part.spec,
                part.lse,
                received=False,
                grid=grid,
                reduce=way,
                implementation=implementation,
            )["pooled"][0, 0]
        counts = cell_counts(part.spec, 1, part.q.shape[2], part.k.shape[2], grid, part.q.device)[0].float()
        found = {name: x[:, : finest.columns].float() for name, x in found.items()} | {
            "count": counts[:, : finest.columns]
        }
        _put_all(pyramid, finest, sample, head, top, found)
        for name, x in found.items():
            nexts.setdefault(name, []).append(_halved(x, name))
    for level in pyramid.levels[1:]:
        cells = {name: torch.cat(parts) for name, parts in nexts.items()}
        _put_all(pyramid, level, sample, head, 0, cells)
        nexts = {name: [_halved(x, name)] for name, x in cells.items()}


def _rows_of(whole: _Map, rows: slice) -> _Map:
    """Some queries of the map. All keys stay: `before` says that these queries need not be the first ones."""
    spec = whole.spec
    valid = None if spec.query_valid is None else spec.query_valid[:, rows]
    spec = replace(spec, offset=spec.offset + rows.start, query_valid=valid)
    return _Map(whole.q[:, :, rows], whole.k, spec, whole.lse[:, :, rows])


def _put_all(
    pyramid: Pyramid, level: Level, sample: int, head: int, top: int, cells: dict[str, Tensor]
) -> None:
    hidden = cells["count"] == 0
    for name in pyramid.maps:
        values = cells[name] / cells["count"] if name == "mean" else cells[name]
        pyramid.put(name, level, sample, head, top, values.masked_fill(hidden, torch.nan))


def _halved(x: Float[Tensor, "R C"], name: str) -> Float[Tensor, "R2 C2"]:
    """The next level: sums and counts add, the largest stays the largest."""
    rows, columns = x.shape
    whole = torch.nn.functional.pad(x, (0, columns % 2, 0, rows % 2))
    cells = whole.view(-(-rows // 2), 2, -(-columns // 2), 2)
    return cells.amax((1, 3)) if name == "max" else cells.sum((1, 3))
