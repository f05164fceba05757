"""Attention with chosen key columns rescaled, in one flash-like sweep: what ACT calibration runs on."""

from probe.kernels.sink_shift.api import Shifted, sink_shift
from probe.kernels.sink_shift.keys import SinkKeys, sink_keys

__all__ = ["Shifted", "SinkKeys", "sink_keys", "sink_shift"]
