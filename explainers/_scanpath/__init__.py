"""Scanpaths over objects: predicted by OAT, measured, and set beside people's."""

from probe.explainers._scanpath.decode import beam_paths, predict_paths
from probe.explainers._scanpath.evaluate import sti_table, viewing_table
from probe.explainers._scanpath.floors import local_walk, marginal_paths, random_paths
from probe.explainers._scanpath.measures import (
    behaviour,
    behavioural_delta,
    edit_distance,
    multimatch,
    scanmatch,
    search_efficiency,
    sequence_score,
)
from probe.explainers._scanpath.people import attention_against_people
from probe.explainers._scanpath.predict import load_oat, scanpath, scanpath_of_trial
from probe.explainers._scanpath.simulated import search_table

__all__ = [
    "attention_against_people",
    "beam_paths",
    "behaviour",
    "behavioural_delta",
    "edit_distance",
    "load_oat",
    "local_walk",
    "marginal_paths",
    "multimatch",
    "predict_paths",
    "random_paths",
    "scanmatch",
    "scanpath",
    "scanpath_of_trial",
    "search_efficiency",
    "search_table",
    "sequence_score",
    "sti_table",
    "viewing_table",
]
