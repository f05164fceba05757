"""Any rectangle of the map, exact, from q, k and a stored log-sum-exp."""

from probe.kernels.tile.api import VALUES_LIMIT, tile

__all__ = ["VALUES_LIMIT", "tile"]
