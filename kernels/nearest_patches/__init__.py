"""One sweep over the candidates of each block of patches: the K smallest distances of every patch of a picture."""

from probe.kernels.nearest_patches.api import MOST_NEAREST, nearest_patches

__all__ = ["MOST_NEAREST", "nearest_patches"]
