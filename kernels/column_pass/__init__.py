"""One sweep over the queries of each block of keys, given the log-sum-exp: what each key receives."""

from probe.kernels.column_pass.api import column_mass

__all__ = ["column_mass"]
