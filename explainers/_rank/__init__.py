"""Rank: of attention maps at any length, of the features that softmax and linear attention make, and over depth."""

from probe.explainers._rank.collapse import rank_collapse
from probe.explainers._rank.features import feature_rank
from probe.explainers._rank.maps import rank
from probe.explainers._rank.spectrum import rank_measures

__all__ = ["feature_rank", "rank", "rank_collapse", "rank_measures"]
