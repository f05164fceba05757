"""Texts × methods × measures: the loop, and the table with its intervals."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers._evaluate import measures as single
from probe.explainers._evaluate import sanity, simulate
from probe.explainers._evaluate.measures import PER_BASELINE, Measure
from probe.explainers._evaluate.perturb import Perturbed
from probe.explainers._saliency.build import from_record
from probe.explainers._saliency.methods import METHODS, baseline_of
from probe.explainers._saliency.subject import Subject, open_subject
from probe.explainers._verbalize.words import join_words
from probe.explainers.kinds import check_result
from probe.record import strings

Floats = NDArray[np.float64]
Cells = dict[tuple[str, str], list[float]]  # (method, measure) -> a value per text
RANDOM = "random"
RESAMPLES = 2000


def run(
    loaded: Any,
    texts: list[str],
    methods: list[str],
    settings: dict[str, Any],
    progress: Callable[[int, int, str], None],
) -> xr.Dataset:
    """See `evaluate`; `settings` holds its parameters."""
    rows, draw = [*methods, RANDOM], np.random.default_rng(settings["seed"])
    listed = _measures(settings)
    cells: Cells = {(row, measure.name): [] for row in rows for measure in listed}
    words: dict[str, list[list[str]]] = {row: [] for row in rows}
    answers: list[str] = []
    other = sanity.shuffled(loaded, settings["seed"]) if settings["sanity"] else None
    with torch.inference_mode(False), torch.enable_grad():
        for number, text in enumerate(texts):
            progress(number, len(texts), "")
            try:
                subject = open_subject(loaded, text, None, settings["max_tokens"], settings["batch_size"])
            except InputError as error:
                raise InputError(f"text {number + 1} of {len(texts)}: {error}") from error
            answers.append(subject.target.name)
            absent, _ = baseline_of(subject, loaded.processor, settings["baselines"][0])
            falls = single.leave_one_out(Perturbed(subject, absent))
            tested = other if number < settings["sanity"] else None
            for row in rows:
                values, own = _one(loaded, tested, text, subject, row, draw, settings)
                values["leave-one-out"] = single.rank_correlation(own, falls)
                pieces = [subject.tokens.pieces[i] for i in subject.tokens.places]
                words[row].append(_named(pieces, own, settings["named"]))
                for measure in listed:
                    cells[row, measure.name].append(values.get(measure.name, float("nan")))
    progress(len(texts), len(texts), "")
    if subject.task == "text-classification":
        for row in rows:
            cells[row, simulate.MEASURE.name] = simulate.simulate(
                words[row], answers, settings["seed"]
            ).tolist()
    return _table(loaded, texts, rows, listed, cells, settings)


def _measures(settings: dict[str, Any]) -> list[Measure]:
    found = []
    for measure in single.MEASURES:
        names = [measure.name]
        if measure.name in PER_BASELINE and len(settings["baselines"]) > 1:
            names = [f"{measure.name} ({baseline})" for baseline in settings["baselines"]]
        found += [Measure(name, measure.better, measure.meaning) for name in names]
    return [*found, *(sanity.MEASURES if settings["sanity"] else ()), simulate.MEASURE]


def _one(
    loaded: Any,
    other: Any,
    text: str,
    subject: Subject,
    row: str,
    draw: np.random.Generator,
    settings: dict[str, Any],
) -> tuple[dict[str, float], Floats]:
    """The measures of one method on one text, and its scores [n]."""
    baselines = settings["baselines"]
    absent, kind = baseline_of(subject, loaded.processor, baselines[0])
    part = Perturbed(subject, absent)

    def scores_of(on: Any, target: Subject, stand_in: torch.Tensor) -> Floats:
        if row == RANDOM:
            return draw.normal(size=part.size)
        if row == "attention_received":
            found = from_record(on, text, target, "mean")
        else:
            found, _ = METHODS[row](target, stand_in, settings["n_steps"])
        return found[target.tokens.places]

    own = scores_of(loaded, subject, absent)
    values: dict[str, float] = {}
    for baseline in baselines:
        stand_in, _ = baseline_of(subject, loaded.processor, baseline)
        found = single.curves(Perturbed(subject, stand_in), own)
        values |= found if len(baselines) == 1 else {f"{k} ({baseline})": v for k, v in found.items()}
    values |= single.aopc(part, own) | single.soft(part, own, settings["soft_samples"], settings["seed"])
    if other is not None:

        def random_weights() -> Floats:
            again = open_subject(other, text, None, settings["max_tokens"], settings["batch_size"])
            return scores_of(other, again, baseline_of(again, other.processor, kind)[0])

        rival = sanity.runner_up(subject)
        values["random weights"] = abs(
            single.rank_correlation(np.abs(own), np.abs(random_weights()), "spearman")
        )
        if rival is not None:
            values["other target"] = single.rank_correlation(
                own, scores_of(loaded, rival, absent), "spearman"
            )
    return values, own


def _named(pieces: list[str], scores: Floats, count: int) -> list[str]:
    words = join_words(pieces, scores)
    order = [int(i) for i in np.argsort(-np.abs(words.scores), kind="stable")]
    return [words.names[i] for i in order if words.is_word(i)][:count]


def _table(
    loaded: Any,
    texts: list[str],
    rows: list[str],
    listed: list[Measure],
    cells: Cells,
    settings: dict[str, Any],
) -> xr.Dataset:
    values = np.array([[cells[row, measure.name] for measure in listed] for row in rows])
    bounds = np.array([[_interval(cell, settings) for cell in line] for line in values])
    kept = np.isfinite(values).any(axis=(0, 2))
    dims = ("explainer", "measure")
    found = xr.Dataset(
        {
            "mean": (dims, bounds[..., 0]),
            "low": (dims, bounds[..., 1]),
            "high": (dims, bounds[..., 2]),
            "count": (dims, np.isfinite(values).sum(-1).astype(np.int64)),
            "values": ((*dims, "text"), values),
        },
        coords={
            "explainer": strings(rows),
            "measure": strings([measure.name for measure in listed]),
            "better": ("measure", strings([measure.better for measure in listed])),
            "meaning": ("measure", strings([measure.meaning for measure in listed])),
        },
    ).isel(measure=np.flatnonzero(kept))
    found.attrs = {
        "kind": "measure_table",
        "explainer": "evaluate",
        "title": "Faithfulness of saliency methods",
        "parameters": json.dumps(settings),
        "references": [
            "DeYoung et al., ERASER, ACL 2020 (arXiv 1911.03429)",
            "Samek et al., 2017 (arXiv 1509.06321); Petsiuk et al., RISE, 2018 (arXiv 1806.07421)",
            "Zhao, Aletras, ACL 2023 (arXiv 2305.10496); Adebayo et al., NeurIPS 2018 (arXiv 1810.03292)",
        ],
        "unit": "1",
        "value": "mean",
        "model": str(loaded.name),
        "texts": len(texts),
        "level": settings["level"],
    }
    check_result(found)
    return found


def _interval(values: Floats, settings: dict[str, Any]) -> tuple[float, float, float]:
    """Mean and percentile bootstrap interval over the finite values; NaN without two of them."""
    from scipy.stats import bootstrap

    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return (float("nan"),) * 3
    mean = float(finite.mean())
    if finite.size < 2 or np.ptp(finite) == 0:
        return (mean, mean, mean) if finite.size > 1 else (mean, float("nan"), float("nan"))
    found = bootstrap(
        (finite,),
        np.mean,
        confidence_level=settings["level"],
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(settings["seed"]),
    ).confidence_interval
    return mean, float(found.low), float(found.high)
