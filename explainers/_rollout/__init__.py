"""Attention through all layers: rollout, streamed at any length, and flow, for short texts."""

from probe.explainers._rollout.flow import attention_flow
from probe.explainers._rollout.rollout import rollout

__all__ = ["attention_flow", "rollout"]
