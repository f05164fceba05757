"""Attention-MIL models, their losses, and a trainer: `from probe.explainers import mil`, `mil.ACMIL(1024)`, `mil.fit(…)`.

What reads their attention are explainers like others: `ex.concentration`, `ex.instance_map`, `ex.bag_map`, `ex.slide_overlay`.
"""

from probe.explainers._mil.checkpoint import load_mil as load
from probe.explainers._mil.checkpoint import save_mil as save
from probe.explainers._mil.crossval import Tested, cross_validate, hold_out
from probe.explainers._mil.losses import acmil_loss, branch_loss, diversity_loss
from probe.explainers._mil.masking import stkim
from probe.explainers._mil.metrics import accuracy, auc, evaluate, interval
from probe.explainers._mil.modules import ABMIL, ACMIL, MilOutput, build
from probe.explainers._mil.training import Fitted, Plan, fit, predict

__all__ = [
    "ABMIL",
    "ACMIL",
    "Fitted",
    "MilOutput",
    "Plan",
    "Tested",
    "accuracy",
    "acmil_loss",
    "auc",
    "branch_loss",
    "build",
    "cross_validate",
    "diversity_loss",
    "evaluate",
    "fit",
    "hold_out",
    "interval",
    "load",
    "predict",
    "save",
    "stkim",
]
