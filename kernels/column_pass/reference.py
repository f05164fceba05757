"""The column pass in plain torch, chunk by chunk, from a given log-sum-exp."""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.pooling import cells_of, merge_pieces, table_of
from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import Chunk, chunks, compute_dtype


def column_stats(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"],
    *,
    received: bool,
    weights: Float[Tensor, "B H Nq"] | None,
    y: Float[Tensor, "B H Nq C"] | None,
    grid: tuple[int, int] | None,
    most: bool,
) -> dict[str, Tensor]:
    """See `probe.kernels.column_pass.column_stats`; `most` asks for the largest weight of each cell instead of the sum."""
    (batch, heads, n_queries, _), n_keys = q.shape, k.shape[2]
    dtype, device = compute_dtype(q), q.device
    out: dict[str, Tensor] = {}
    if received:
        out["received"] = torch.zeros(batch, heads, n_keys, dtype=dtype, device=device)
    if y is not None:
        out["transposed"] = torch.zeros(batch, heads, n_keys, y.shape[3], dtype=dtype, device=device)
    if grid is not None:
        out["pooled"] = torch.zeros(batch, heads, *grid, dtype=dtype, device=device)
        row_cells, key_cells = cells_of(n_queries, grid[0], q.device), cells_of(n_keys, grid[1], q.device)
    for chunk in chunks(q, k, spec):
        place = (chunk.sample, chunk.heads, chunk.rows)
        p, gives = _weights_of_map(chunk, lse[place], spec)
        if received:
            weight = (
                gives.to(p.dtype) if weights is None else torch.where(gives, weights[place].to(p.dtype), 0)
            )
            out["received"][chunk.sample, chunk.heads, chunk.keys] += torch.bmm(weight[:, None, :], p)[:, 0]
        if y is not None:
            vectors = y[place].to(p.dtype).masked_fill(~gives[..., None], 0)
            out["transposed"][chunk.sample, chunk.heads, chunk.keys] += torch.bmm(p.transpose(1, 2), vectors)
        if grid is not None:
            _pool(
                p,
                row_cells[chunk.rows],
                key_cells[chunk.keys],
                out["pooled"][chunk.sample, chunk.heads],
                most,
            )
    return out


def _weights_of_map(
    chunk: Chunk, lse: Float[Tensor, "G rows"], spec: ScoreSpec
) -> tuple[Float[Tensor, "G rows keys"], Tensor]:
    """The chunk's weights exp(score - lse), in the place of its scores, and which rows give any; the others are 0."""
    gives = lse.isfinite()
    if spec.query_valid is not None:
        gives = gives & spec.query_valid[chunk.sample, chunk.rows]
    p = chunk.scores.sub_(torch.where(gives, lse, 0.0).to(chunk.scores.dtype)[..., None]).exp_()
    if not bool(gives.all()):
        p.masked_fill_(~gives[..., None], 0)
    return p, gives


def _pool(
    p: Float[Tensor, "G rows keys"],
    row_cells: Tensor,
    key_cells: Tensor,
    pooled: Float[Tensor, "G R C"],
    most: bool,
) -> None:
    """Add a chunk of weights to the cells that it touches: rows first, then keys."""
    if not p.numel():
        return
    top, left = int(row_cells[0]), int(key_cells[0])
    shape = int(row_cells[-1]) - top + 1, int(key_cells[-1]) - left + 1
    lengths = torch.bincount(row_cells - top, minlength=shape[0]).tolist()
    if most:
        rows = torch.stack([part.amax(1) for part in p.split(lengths, 1)], 1)
    else:
        member = torch.nn.functional.one_hot(row_cells - top, shape[0]).T.to(p.dtype)
        rows = torch.matmul(member, p)
    rows = torch.nn.functional.pad(rows, (0, 1))
    cells = merge_pieces(rows, table_of(key_cells - left, shape[1]), "max" if most else "sum")
    here = pooled[:, top : top + shape[0], left : left + shape[1]]
    here.copy_(torch.maximum(here, cells) if most else here + cells)
