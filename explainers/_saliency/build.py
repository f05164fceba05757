"""From a model and a text to the labelled result."""

import json
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError, ModelError
from probe.explainers._faithfulness import faithfulness_curves
from probe.explainers._saliency.methods import METHODS, Scores, attention_received, baseline_of
from probe.explainers._saliency.subject import Subject, open_subject
from probe.explainers._verbalize.languages import language_of
from probe.explainers._verbalize.verdict import verdict
from probe.record import strings

LIMIT_GRADIENTS, LIMIT_MANY_RUNS = 2048, 512
_STAND_IN = {"mask": "mask token", "pad": "padding token", "mean": "mean embedding", "zero": "zero vector"}


def explain_text(
    loaded: Any, text: str, target: str | None, settings: dict[str, Any], orders: dict[str, int] | None
) -> xr.Dataset:
    """Score the tokens and, if `orders` are given, measure how faithful the scores are (see `saliency`)."""
    method = settings["method"]
    if method == "auto" and orders is None:
        raise InputError("method = 'auto' goes by measured faithfulness: leave faithfulness on")
    many_runs = method in ("occlusion", "auto") or orders is not None
    limit = settings["max_tokens"] or (LIMIT_MANY_RUNS if many_runs else LIMIT_GRADIENTS)
    named = {name: settings[name] for name in ("contrast", "answer")}
    with torch.inference_mode(False), torch.enable_grad():
        subject = open_subject(loaded, text, target, limit, settings["batch_size"], **named)
        absent, kind = baseline_of(subject, loaded.processor, settings["baseline"])

        def scored(by: str) -> xr.Dataset:
            result = _scored(loaded, text, subject, absent, by, settings)
            result.attrs |= {"model": str(loaded.name), "input": text, "baseline": kind}
            if orders is None:
                return result
            return _with_faithfulness(result, subject, absent, _STAND_IN[kind], orders)

        return scored(method) if method != "auto" else _most_faithful([scored(by) for by in METHODS])


def _most_faithful(results: list[xr.Dataset]) -> xr.Dataset:
    """The result whose curves lie furthest apart; its attribute `tried` says how far, for each method."""
    gains = [float(one.attrs["insertion_auc"]) - float(one.attrs["deletion_auc"]) for one in results]
    found = results[int(np.argmax(gains))]
    tried = {one.attrs["method"]: round(gain, 4) for one, gain in zip(results, gains, strict=True)}
    found.attrs["tried"] = json.dumps(tried)
    return found


def _scored(
    loaded: Any, text: str, subject: Subject, absent: torch.Tensor, method: str, settings: dict[str, Any]
) -> xr.Dataset:
    notes: dict[str, Any]
    if method == "attention_received":
        scores, notes = (
            from_record(loaded, text, subject, settings["layers"]),
            {"layers": settings["layers"]},
        )
    else:
        scores, notes = METHODS[method](subject, absent, settings["n_steps"])
    if not np.isfinite(scores).all():
        raise ModelError(
            f"{method} gives scores that are not finite (NaN or infinite): the gradients are broken"
        )
    result = _dataset(subject, scores, method)
    result.attrs |= notes
    return result


def from_record(loaded: Any, text: str, subject: Subject, layers: str) -> Scores:
    """The scores of attention_received, from a capture of the same text.

    Raises:
        ModelError: capture cuts the text into other tokens.
    """
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
        "score_explained": target.score_explained,
        "score_value": value,
    }
    if target.rival is not None:
        result.attrs |= {"contrast": target.rival_name, "contrast_probability": target.rival_probability}
    if target.answer:
        result.attrs["answer_tokens"] = len(target.answer)
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
                subject.preference(torch.where(chosen, absent, subject.embeddings)).double().cpu().numpy()
            )
        return np.concatenate(found)

    curves = faithfulness_curves(
        probability, result["score"].values[subject.tokens.places], stand_in=stand_in, **orders
    )
    found = xr.merge([result, curves], combine_attrs="no_conflicts", join="exact")
    found.attrs["faithfulness_verdict"] = verdict(found, language_of("en"))  # knows what the target is
    return found
