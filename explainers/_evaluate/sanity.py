"""Sanity checks: scores must change when the model's weights, or the target, are others."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from probe.explainers._evaluate.measures import Measure
from probe.explainers._saliency.subject import Subject, embedding_layer

MEASURES = (
    Measure(
        "random weights", "lower", "|Spearman ρ| of |scores| with those under shuffled weights; 0 by chance"
    ),
    Measure("other target", "lower", "Spearman ρ of the scores with those for the runner-up"),
)


def shuffled(loaded: Any, seed: int) -> Any:
    """A copy of a loaded model whose weights are shuffled inside each tensor; the token embeddings stay.

    References:
        Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv 1810.03292), §3; here all layers at once.
    """
    model: nn.Module = copy.deepcopy(loaded.model)
    kept = {id(parameter) for parameter in embedding_layer(model).parameters()}
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in kept:
                order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return _with_model(loaded, model)


def _with_model(loaded: Any, model: nn.Module) -> Any:
    try:
        return replace(loaded, model=model)
    except TypeError:
        found = copy.copy(loaded)
        found.model = model
        return found


def runner_up(subject: Subject) -> Subject | None:
    """The same text with the most probable other answer as its target; None where there are two, as opposites."""
    with torch.no_grad():
        logits = subject.logits(subject.embeddings)[0].clone()
    if len(logits) == 2:
        return None
    logits[subject.target.index] = -torch.inf
    return replace(subject, target=replace(subject.target, index=int(logits.argmax())))
