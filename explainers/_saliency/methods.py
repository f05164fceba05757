"""The scoring methods, each from a subject and a baseline to one number per token."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import InputError, ModelError
from probe.explainers._saliency.subject import Subject, embedding_layer
from probe.explainers.reading import received_share, tower_of, uniform_share

Scores = NDArray[np.float64]


def gradient_x_input(subject: Subject, baseline: Tensor, n_steps: int) -> tuple[Scores, dict[str, Any]]:
    """Embedding times the score's gradient, summed over the embedding [N]; the baseline plays no part."""
    from captum.attr import InputXGradient

    del baseline, n_steps
    found = InputXGradient(subject.score).attribute(_leaf(subject.embeddings))
    return _per_token(found), {}


def integrated_gradients(subject: Subject, baseline: Tensor, n_steps: int) -> tuple[Scores, dict[str, Any]]:
    """Integrated gradients from the baseline [1, N, D], summed over the embedding [N].

    Returns:
        The scores, and attributes: convergence_delta, Σ scores − (f(x) − f(baseline)) [nat], and
        score_change, the bracket itself.
    """
    from captum.attr import IntegratedGradients

    found = IntegratedGradients(subject.score).attribute(
        _leaf(subject.embeddings), baselines=baseline, n_steps=n_steps, internal_batch_size=subject.batch_size
    )
    with torch.no_grad():
        change = (subject.score(subject.embeddings) - subject.score(baseline)).item()
    scores = _per_token(found)
    notes: dict[str, Any] = {
        "n_steps": n_steps,
        "score_change": change,
        "convergence_delta": float(scores.sum()) - change,
    }
    if abs(notes["convergence_delta"]) > 0.05 * abs(change):
        notes["note"] = (
            f"the scores add up to {scores.sum():.3g}, the change they share out is {change:.3g}: "
            "raise n_steps or choose another baseline"
        )
    return scores, notes


def occlusion(subject: Subject, baseline: Tensor, n_steps: int) -> tuple[Scores, dict[str, Any]]:
    """Fall of the score when one token is replaced by the baseline [N]."""
    from captum.attr import Occlusion

    del n_steps
    width = subject.embeddings.shape[-1]
    found = Occlusion(subject.score).attribute(
        subject.embeddings, (1, width), baselines=baseline, perturbations_per_eval=subject.batch_size
    )
    return np.asarray(found[0, :, 0].double().cpu().numpy()), {}


METHODS: dict[str, Callable[[Subject, Tensor, int], tuple[Scores, dict[str, Any]]]] = {
    "gradient_x_input": gradient_x_input,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}


def attention_received(trace: xr.DataTree, layers: str) -> Scores:
    """Attention that each token receives over its share under a uniform map, mean over heads and layers [N].

    Args:
        trace: a record of one text with the statistic "received".
        layers: "mean" over all layers, or "last".

    Raises:
        RecordError: no "received", or a visibility pattern that the counts do not fix.
    """
    data = tower_of(trace, "text", "received", "seen_by", "keys_seen").isel(sample=0)
    used = range(data.sizes["layer"])[-1 if layers == "last" else 0 :]
    ratios = []
    for number in used:
        layer = data.isel(layer=number)
        seen_by = layer["seen_by"].values.astype(np.int64)
        share = received_share(layer["received"].transpose("head", "key").values, seen_by)
        ratios.append(share.mean(axis=0) / uniform_share(layer["keys_seen"].values.astype(np.int64), seen_by))
    return np.asarray(np.mean(ratios, axis=0))


def baseline_of(subject: Subject, processor: Any, kind: str) -> tuple[Tensor, str]:
    """The text's embeddings with every text token replaced by what stands for "absent".

    Args:
        subject: the model and the text.
        processor: its tokenizer.
        kind: "mask", "pad", "mean" (of all embeddings), "zero", or "auto" (mask where there is one, else
            mean).

    Returns:
        [1, N, D], and the kind that was used.

    Raises:
        InputError: the tokenizer has no such token.
    """
    if kind == "auto":
        kind = "mean" if processor.mask_token_id is None else "mask"
    layer = embedding_layer(subject.model)
    with torch.no_grad():
        if kind == "zero":
            stand_in = torch.zeros_like(subject.embeddings[0, 0])
        elif kind == "mean":
            stand_in = _mean_embedding(layer, subject.embeddings)
        else:
            token = processor.mask_token_id if kind == "mask" else processor.pad_token_id
            if token is None:
                raise InputError(
                    f"baseline = {kind!r}: the model's tokenizer has no {kind} token; choose mean or zero"
                )
            stand_in = layer(torch.tensor([token], device=subject.embeddings.device))[0]
        found = subject.embeddings.clone()
        found[:, torch.as_tensor(subject.tokens.places, device=found.device)] = stand_in
    return found, kind


def _mean_embedding(layer: torch.nn.Module, like: Tensor) -> Tensor:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ModelError(
            f"the embedding layer {type(layer).__name__} has no table to average; choose another baseline"
        )
    total = torch.zeros(like.shape[-1], dtype=torch.float64, device=like.device)
    for start in range(0, len(weight), 4096):
        part = torch.arange(start, min(start + 4096, len(weight)), device=like.device)
        total += layer(part).double().sum(0)
    return (total / len(weight)).to(like.dtype)


def _leaf(embeddings: Tensor) -> Tensor:
    return embeddings.clone().requires_grad_()


def _per_token(found: Tensor) -> Scores:
    return np.asarray(found.detach()[0].double().sum(-1).cpu().numpy())
