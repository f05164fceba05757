"""Any set of statistics of one attention map in the fewest sweeps.

In plain torch one sweep gives rows and columns together; in Triton the row pass comes first, because the column pass needs
its log-sum-exp.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from probe.kernels.column_pass import column_mass
from probe.kernels.launch import choose
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec, check
from probe.kernels.sweep import ROW_STATISTICS, sweep

MAP_STATISTICS = (*ROW_STATISTICS, "received")


def map_statistics(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    names: Sequence[str],
    implementation: str = "auto",
) -> dict[str, Tensor]:
    """Compute the statistics in `names`: those of `row_stats`, and "received", the column mass with weight 1.

    Returns:
        Row statistics [B, H, Nq] and "received" [B, H, Nk], as `row_stats` and `column_mass` give them.

    Raises:
        ValueError: as `row_stats` and `column_mass`; a name that is not a statistic.
    """
    check(q, k, spec)
    unknown = [name for name in names if name not in MAP_STATISTICS]
    if unknown or not names:
        raise ValueError(f"names: got {list(names)}, expected at least one of {', '.join(MAP_STATISTICS)}")
    wanted = tuple(dict.fromkeys(names))
    if choose(implementation, q) == "reference":
        return sweep(q, k, spec, wanted)
    rows = [name for name in wanted if name != "received"]
    if "received" not in wanted:
        return row_stats(q, k, spec, rows, implementation)
    out = row_stats(q, k, spec, tuple(dict.fromkeys(["lse", *rows])), implementation)
    out["received"] = column_mass(q, k, spec, out["lse"], implementation=implementation)
    return {name: out[name] for name in wanted}
