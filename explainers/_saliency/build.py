"""From a model and a text to the labelled result."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from probe.errors import ModelError
from probe.explainers._faithfulness import faithfulness_curves
from probe.explainers._saliency.methods import METHODS, Scores, attention_received, baseline_of
from probe.explainers._saliency.subject import Subject, open_subject
from probe.explainers._saliency.target import SCORES
from probe.record import strings

LIMIT_GRADIENTS, LIMIT_MANY_RUNS = 2048, 512
_STAND_IN = {"mask": "mask token", "pad": "padding token", "mean": "mean embedding", "zero": "zero vector"}


def explain_text(
    loaded: Any, text: str, target: str | None, settings: dict[str, Any], orders: dict[str, int] | None
) -> xr.Dataset:
    """Score the tokens and, if `orders` are given, measure how faithful the scores are (see `saliency`)."""
    method = settings["method"]
    many_runs = method == "occlusion" or orders is not None
    limit = settings["max_tokens"] or (LIMIT_MANY_RUNS if many_runs else LIMIT_GRADIENTS)
    with torch.inference_mode(False), torch.enable_grad():
        subject = open_subject(loaded, text, target, limit, settings["batch_size"])
        absent, kind = baseline_of(subject, loaded.processor, settings["baseline"])
        if method == "attention_received":
            scores, notes = (
                _from_record(loaded, text, subject, settings["layers"]),
                {"layers": settings["layers"]},
            )
        else:
            scores, notes = METHODS[method](subject, absent, settings["n_steps"])
        if not np.isfinite(scores).all():
            raise ModelError(
                f"{method} gives scores that are not finite (NaN or infinite): the gradients are broken"
            )
        result = _dataset(subject, scores, method)
        result.attrs |= {"model": str(loaded.name), "input": text, "baseline": kind, **notes}
        if orders is not None:
            result = _with_faithfulness(result, subject, absent, _STAND_IN[kind], orders)
    return result


def _from_record(loaded: Any, text: str, subject: Subject, layers: str) -> Scores:
    from probe import capture

    trace = capture(loaded, text, stats=("received",))
    ids = np.asarray(trace["tokens/id"])[0]
    if not np.array_equal(ids, subject.tokens.inputs["input_ids"][0].cpu().numpy()):
        raise ModelError("capture and saliency cut the text into different tokens")
    return attention_received(trace, layers)


def _dataset(subject: Subject, scores: Scores, method: str) -> xr.Dataset:
    tokens, target = subject.tokens, subject.target
    with torch.no_grad():
        value = subject.score(subject.embeddings).item()
    names = {"text": strings(tokens.pieces), "role": strings(tokens.roles)}
    coords = names | {"start": tokens.start, "end": tokens.end}
    result = xr.Dataset(
        {"score": ("token", scores)}, coords={name: ("token", values) for name, values in coords.items()}
    )
    signed = method != "attention_received"
    result.attrs = {
        "unit": "nat" if signed else "1",
        "value": "score",
        "method": method,
        "signed": signed,
        "task": subject.task,
        "target": target.name,
        "target_probability": subject.probability(subject.embeddings).item(),
        "prediction": target.prediction,
        "prediction_probability": target.prediction_probability,
        "score_explained": SCORES[target.rule],
        "score_value": value,
    }
    return result


def _with_faithfulness(
    result: xr.Dataset, subject: Subject, absent: torch.Tensor, stand_in: str, orders: dict[str, int]
) -> xr.Dataset:
    places = torch.as_tensor(subject.tokens.places, device=absent.device)

    def probability(replaced: NDArray[np.bool_]) -> NDArray[np.float64]:
        found = []
        for part in np.array_split(replaced, max(1, -(-len(replaced) // subject.batch_size))):
            chosen = torch.zeros(len(part), absent.shape[1], 1, dtype=torch.bool, device=absent.device)
            chosen[:, places, 0] = torch.as_tensor(part, device=absent.device)
            found.append(
                subject.probability(torch.where(chosen, absent, subject.embeddings)).double().cpu().numpy()
            )
        return np.concatenate(found)

    curves = faithfulness_curves(
        probability, result["score"].values[subject.tokens.places], stand_in=stand_in, **orders
    )
    return xr.merge([result, curves], combine_attrs="no_conflicts", join="exact")
