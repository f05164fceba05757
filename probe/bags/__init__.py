"""Bags of instances: what they are, the files they come in, and what a record keeps of them."""

from probe.bags.bag import Bag, Bags, in_memory, read_bags

__all__ = ["Bag", "Bags", "in_memory", "read_bags"]
