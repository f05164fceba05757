"""What keys receive, estimated from a random sample of query blocks, with a standard error for every value.

The query blocks are cut into strata along the text and each stratum gives at least two blocks, drawn without replacement. With
K_h blocks in stratum h, n_h of them drawn, and y_b what a key receives from block b::

    estimate = Σ_h K_h · mean_h(y_b)          variance = Σ_h K_h² · (1 - n_h / K_h) · s_h² / n_h

Both are unbiased for every key, whatever the rules (Cochran, Sampling Techniques, 1977, §5.3 to §5.5): blocks that cannot see a
key count 0 like any other block. The strata keep a causal map, where a key is seen by later blocks only, from spreading those
zeros over the whole text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.column_pass import column_stats
from probe.kernels.merge import merge_queries
from probe.kernels.pooling import check_grid
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec, check

#: More strata make the estimate better and its error, which rests on the spread inside each, worse known.
_PER_STRATUM = 8


@dataclass(frozen=True)
class SampledColumns:
    """Estimates from a sample of query blocks; nothing in here is exact unless `fraction` is 1.

    Attributes:
        received: [B, H, Nk], estimate of the mass that every key receives; NaN where the key is padding.
        standard_error: [B, H, Nk], its standard error.
        fraction: share of the query blocks that was asked for.
        seed: what the blocks were drawn with.
        blocks: numbers of the blocks that were drawn, rising; block b holds the queries from b times `block` on.
        block: queries in a block.
        pooled: [B, H, R, C], estimate of the sums of the pooled map, if a grid was given.
        pooled_error: [B, H, R, C], its standard error.
    """

    received: Float[Tensor, "B H Nk"]
    standard_error: Float[Tensor, "B H Nk"]
    fraction: float
    seed: int
    blocks: tuple[int, ...]
    block: int
    pooled: Float[Tensor, "B H R C"] | None = None
    pooled_error: Float[Tensor, "B H R C"] | None = None


def for_queries(spec: ScoreSpec, start: int, stop: int) -> ScoreSpec:
    """The rules for queries `start` to `stop` alone, as `q[:, :, start:stop]`; they keep their places among the keys.

    Raises:
        ValueError: the slice is empty or starts before the first query.
    """
    if not 0 <= start < stop:
        raise ValueError(f"start, stop: got {start} and {stop}, expected 0 ≤ start < stop")
    valid = spec.query_valid
    return replace(
        spec, offset=spec.offset + start, query_valid=None if valid is None else valid[:, start:stop]
    )


def sampled_columns(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    fraction: float,
    seed: int,
    grid: tuple[int, int] | None = None,
    block: int = 128,
    implementation: str = "auto",
) -> SampledColumns:
    """Estimate what every key receives, Σ_i A_ij, from a random sample of query blocks; only these are computed.

    The estimate is unbiased and so is the square of its standard error. The error is itself estimated from the few blocks of
    each stratum: where a key takes its mass from one or two blocks (a head that looks at neighbours) and none of them was
    drawn, it is far too small. Each block is a launch of its own: on a GPU take blocks of some thousand queries.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        fraction: share of the query blocks to compute, above 0 and at most 1; 1 gives the exact answer with errors 0.
        seed: for the draw; the same seed draws the same blocks on any device.
        grid: also estimate the sums of the pooled map on this grid, as `pooled_map` cuts it.
        block: queries in a block; the last one may hold fewer.
        implementation: "auto", "reference" or "triton"; never replaced silently.

    Raises:
        ValueError: a fraction outside (0, 1] or so small that fewer than two blocks remain; whatever `column_stats` refuses.
    """
    check(q, k, spec)
    n_queries = q.shape[2]
    if block < 1:
        raise ValueError(f"block: got {block}, expected a positive number of queries")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: got {fraction}, expected more than 0 and at most 1")
    if grid is not None:
        check_grid(grid, "sum", n_queries, k.shape[2])
    total = -(-n_queries // block)
    drawn = round(fraction * total)
    if fraction == 1:
        lse = row_stats(q, k, spec, ("lse",), implementation)["lse"]
        exact = column_stats(q, k, spec, lse, grid=grid, implementation=implementation)
        found = {name: (values, values * 0) for name, values in exact.items()}
        strata = [(range(total), list(range(total)))]
    elif drawn < 2:
        raise ValueError(
            f"fraction: got {fraction}, which is {drawn} of {total} blocks of {block} queries, expected at least two; "
            "a larger fraction, or a smaller block"
        )
    else:
        strata = draw(total, drawn, seed)
        found = _estimate(strata, lambda b: _of_block(q, k, spec, grid, block, b, implementation))
    pooled = found.get("pooled", (None, None))
    chosen = tuple(b for _, sample in strata for b in sample)
    return SampledColumns(*found["received"], fraction, seed, chosen, block, *pooled)


def draw(total: int, drawn: int, seed: int) -> list[tuple[range, list[int]]]:
    """Cut `total` blocks into strata and draw `drawn` of them, at least two of each stratum: (stratum, its sample) each."""
    generator = torch.Generator().manual_seed(seed)
    strata = max(1, drawn // _PER_STRATUM)
    out, first = [], 0
    for h in range(strata):
        # the first strata take what is left over, of the blocks as of the sample
        size, share = (n // strata + (h < n % strata) for n in (total, drawn))
        picked = torch.randperm(size, generator=generator)[:share].sort().values + first
        out.append((range(first, first + size), picked.tolist()))
        first += size
    return out


def _of_block(
    q: Tensor,
    k: Tensor,
    spec: ScoreSpec,
    grid: tuple[int, int] | None,
    block: int,
    b: int,
    implementation: str,
) -> dict[str, Tensor]:
    """What the keys receive from one block of queries, and the block's part of the pooled map, in one sweep."""
    start, stop = b * block, min((b + 1) * block, q.shape[2])
    lse = row_stats(q[:, :, start:stop], k, for_queries(spec, start, stop), ("lse",), implementation)["lse"]
    pooled = None if grid is None else torch.zeros(*q.shape[:2], *grid, dtype=lse.dtype, device=q.device)
    parts = []
    for cell, low, high in _pieces(start, stop, q.shape[2], 1 if grid is None else grid[0]):
        rules, rows = for_queries(spec, low, high), lse[:, :, low - start : high - start]
        row_of_cells = None if grid is None else (1, grid[1])
        part = column_stats(
            q[:, :, low:high], k, rules, rows, grid=row_of_cells, implementation=implementation
        )
        if pooled is not None:
            pooled[:, :, cell] = part.pop("pooled")[:, :, 0]
        parts.append(part)
    out = merge_queries(parts)
    return out if pooled is None else {**out, "pooled": pooled}


def _pieces(start: int, stop: int, n: int, cells: int) -> Iterator[tuple[int, int, int]]:
    """The row cells that the queries `start` to `stop` reach into, and which of these queries lie in each."""
    for cell in range(((start + 1) * cells - 1) // n, (stop * cells - 1) // n + 1):
        yield cell, max(start, cell * n // cells), min(stop, (cell + 1) * n // cells)


def _estimate(
    strata: list[tuple[range, list[int]]], of_block: Callable[[int], dict[str, Tensor]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Estimate and standard error of every total; mean and squares of a stratum are kept up block by block (Welford)."""
    total: dict[str, Tensor] = {}
    variance: dict[str, Tensor] = {}
    for stratum, sample in strata:
        mean: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for n, b in enumerate(sample, start=1):
            for name, values in of_block(b).items():
                if n == 1:
                    mean[name], squares[name] = values.clone(), values * 0
                    continue
                away = values - mean[name]
                mean[name] += away / n
                squares[name] += away * (values - mean[name])
        size, n = len(stratum), len(sample)
        for name in mean:
            spread = squares[name] / (n - 1) * (size * size * (1 - n / size) / n)
            total[name] = total.get(name, 0) + mean[name] * size
            variance[name] = variance.get(name, 0) + spread
    return {name: (total[name], variance[name].sqrt()) for name in total}
