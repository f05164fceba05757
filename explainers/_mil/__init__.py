"""Attention in multiple-instance learning: how concentrated it is, where it falls, and models that spread it.

The analyzers read records of any attention-MIL model (`probe.capture_mil`); the models, losses and the trainer need torch and
are loaded when they are first asked for.
"""

from importlib import import_module
from typing import Any

from probe.explainers._mil.concentration import concentration
from probe.explainers._mil.embedding import bag_map, instance_map
from probe.explainers._mil.overlay import slide_overlay

_HOME = {
    "ABMIL": "modules",
    "ACMIL": "modules",
    "acmil_loss": "losses",
    "branch_loss": "losses",
    "diversity_loss": "losses",
    "stkim": "masking",
    "load_mil": "checkpoint",
    "save_mil": "checkpoint",
    "MilPlan": "training",
}
