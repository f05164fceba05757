"""What kind of head each one is, from the mass that it gives to sets of keys."""

from probe.explainers._head_types.types import head_types

__all__ = ["head_types"]
