"""Attention in multiple-instance learning: how concentrated it is, where it falls, and models that spread it.

The analyzers read records of any attention-MIL model (`probe.capture_mil`). Models, losses and the trainer stand in
`probe.explainers.mil`: they need torch, which a list of the explainers does not.
"""

from probe.explainers._mil.concentration import concentration
from probe.explainers._mil.embedding import bag_map, instance_map
from probe.explainers._mil.overlay import slide_overlay

__all__ = ["bag_map", "concentration", "instance_map", "slide_overlay"]
