"""One sweep over the queries of each block of keys, given the log-sum-exp: what each key receives."""

from probe.kernels.column_pass.api import apply_transposed, column_mass, column_stats, pooled_map

__all__ = ["apply_transposed", "column_mass", "column_stats", "pooled_map"]
