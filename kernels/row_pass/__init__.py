"""One sweep over the keys of each block of query rows: all statistics of the rows of the map."""

from probe.kernels.row_pass.api import row_stats

__all__ = ["row_stats"]
