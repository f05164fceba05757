"""Any set of statistics of one attention map in the fewest sweeps.

In plain torch one sweep gives rows and columns together; in Triton the row pass comes first, because the column pass needs
its log-sum-exp.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.column_pass import column_stats
from probe.kernels.launch import choose
from probe.kernels.row_pass.api import check_columns, row_stats
from probe.kernels.score import ScoreSpec, check
from probe.kernels.sweep import ROW_STATISTICS, sweep

MAP_STATISTICS = (*ROW_STATISTICS, "received")


def map_statistics(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    names: Sequence[str],
    implementation: str = "auto",
    *,
    grid: tuple[int, int] | None = None,
    reduce: str = "sum",
    x: Float[Tensor, "B Hx Nk C"] | None = None,
    key_sets: Bool[Tensor, "B Hs Nk S"] | None = None,
    y: Float[Tensor, "B H Nq C"] | None = None,
) -> dict[str, Tensor]:
    """Compute the statistics in `names`: those of `row_stats`, and "received", the column mass with weight 1.

    One row pass and at most one column pass, however much is asked for; plain torch needs one sweep for rows and "received".

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        names: which statistics.
        implementation: "auto", "reference" or "triton"; never replaced silently.
        grid: cells of "pooled", the map on a grid, as `column_stats`.
        reduce: what a cell holds, as `column_stats`.
        x: vectors of the keys for "applied", as `row_stats`.
        key_sets: sets of keys for "set_mass", as `row_stats`.
        y: vectors of the queries for "transposed", as `column_stats`.

    Returns:
        Row statistics [B, H, Nq] and "received" [B, H, Nk], as `row_stats` and `column_stats` give them.

    Raises:
        ValueError: as `row_stats` and `column_stats`; a name that is not a statistic.
    """
    check(q, k, spec)
    unknown = [name for name in names if name not in MAP_STATISTICS]
    others = {"applied": x, "set_mass": key_sets, "pooled": grid, "transposed": y}
    asked = [*dict.fromkeys(names), *(name for name, value in others.items() if value is not None)]
    if unknown or not asked:
        raise ValueError(f"names: got {list(names)}, expected at least one of {', '.join(MAP_STATISTICS)}")
    columns = [name for name in ("received", "pooled", "transposed") if name in asked]
    rows = [name for name in asked if name in ROW_STATISTICS]
    if columns == ["received"] and choose(implementation, q) == "reference":
        check_columns(q, k, x, key_sets)
        return sweep(q, k, spec, (*rows, "received"), x=x, key_sets=key_sets)
    needed = tuple(dict.fromkeys(["lse", *rows])) if columns else tuple(rows)
    out = row_stats(q, k, spec, needed, implementation, x=x, key_sets=key_sets)
    if columns:
        out |= column_stats(
            q,
            k,
            spec,
            out["lse"],
            received="received" in asked,
            y=y,
            grid=grid,
            reduce=reduce,
            implementation=implementation,
        )
    return {name: out[name] for name in asked}
