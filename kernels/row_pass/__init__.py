"""One sweep over the keys of every query: statistics of the rows, mass on sets of keys, and A·x."""

from probe.kernels.row_pass.api import apply, row_stats

__all__ = ["apply", "row_stats"]
