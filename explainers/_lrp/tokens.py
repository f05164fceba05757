"""LRP of texts, with the face of the methods in `_saliency/methods.py`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe.explainers._lrp.composites import COMPOSITES
from probe.explainers._lrp.propagate import propagate
from probe.explainers._saliency.subject import Subject, logits_of


def lrp(subject: Subject, baseline: Tensor, n_steps: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """AttnLRP of the target's logit, summed over the embedding [N]; baseline and n_steps play no part.

    Args:
        subject: an opened text of a classifier or a language model.
        baseline: unused.
        n_steps: unused.

    Returns:
        The scores in units of the logit, and attributes: `relevance_ratio`, Σ scores / logit, and a note where that is
        not sound.

    Raises:
        ModelError: a layer without a rule, named.
    """
    del baseline, n_steps
    found = propagate(
        subject.model,
        subject.embeddings.detach(),
        subject.target.index,
        COMPOSITES["epsilon"],
        lambda embeddings: logits_of(subject.model, subject.task, subject.tokens, embeddings),
    )
    held = found.conservation
    notes: dict[str, Any] = {"relevance_ratio": held.ratio}
    if not held.sound:
        notes["note"] = (
            f"LRP shares out the logit {held.output:.3g}, of which the tokens received {held.input:.3g}; the model's own "
            f"constants (biases, position embeddings) took {held.biases:.3g}: read the scores with care"
        )
    return np.asarray(found.relevance[0].double().sum(-1).cpu().numpy()), notes
