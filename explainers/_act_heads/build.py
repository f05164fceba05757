"""From a model and a task to the labelled result: split, search, test, and say what it cost."""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._act_heads.evidence import evidence
from probe.explainers._act_heads.journal import Head, Journal
from probe.explainers._act_heads.search import FEWEST_ITEMS, Found, Plan, find, slices
from probe.explainers._act_heads.trials import Trials, act_on
from probe.explainers._tasks import read_task
from probe.explainers._tasks.items import Task, with_shots

SCHEMA = 1
ENOUGH_FOR_ACCURACY = 300
HELD_OUT = "held-out"
Progress = Callable[[int, int, str], None]


def searched(
    loaded: Any,
    source: Any,
    plan: Plan,
    steering: Mapping[str, Any],
    scoring: Mapping[str, Any],
    drawn: Mapping[str, Any],
    progress: Progress | None,
    journal: Path | None,
) -> xr.Dataset:
    """The result of `ex.act_heads`; its parameters in groups.

    Args:
        loaded: the model.
        source: the task.
        plan: how to search.
        steering: of `ex.act`.
        scoring: normalise, batch_size.
        drawn: held_out, n_random, shots, seed, layers.
        progress: as there.
        journal: as there.
    """
    whole = source if isinstance(source, Task) else read_task(source)
    seed = int(drawn["seed"])
    task = with_shots(whole, int(drawn["shots"]), seed)
    known, unseen = split(task, float(drawn["held_out"]), seed)
    metric = plan.metric
    if metric == "auto":
        metric = "accuracy" if len(known.items) >= ENOUGH_FOR_ACCURACY else "loss"
    plan = Plan(plan.search, plan.select, metric, plan.least_z)
    pieces = {f"{a}:{b}": known.take(range(a, b)) for a, b in slices(len(known.items), plan.search)}
    settings = {**vars(plan), **steering, **scoring, **drawn}
    key = _key(loaded, whole, settings)
    trials = Trials(
        loaded,
        {**pieces, HELD_OUT: unseen},
        act_on(loaded, steering),
        Journal(journal, key),
        scoring,
        progress,
    )
    candidates = candidates_of(trials.layout, drawn["layers"])
    found = find(trials, candidates, list(pieces), plan)
    searched_passes = trials.cost.passes
    held_out = evidence(trials, found.chosen, candidates, HELD_OUT, metric, int(drawn["n_random"]), seed)
    trials.journal.close()
    document = {
        "schema": SCHEMA,
        "model": _model(loaded, trials),
        "task": {
            "name": whole.name,
            "sha256": whole.digest,
            "items": len(whole.items),
            "calibration": len(known.items),
            "held_out": len(unseen.items),
        },
        "settings": settings,
        "heads": {
            str(layer): [h for x, h in found.chosen if x == layer]
            for layer in sorted({x for x, _ in found.chosen})
        },
        "calibration_gain": found.gain_together,
        "held_out": held_out,
        "cost": _cost(trials, searched_passes, len(candidates) * len(known.items)),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return _dataset(trials, found, document)


def split(task: Task, held_out: float, seed: int) -> tuple[Task, Task]:
    """The items in two disjoint parts at random, both in random order.

    Raises:
        InputError: one part would have fewer than 8 items.
    """
    n = len(task.items)
    unseen = round(n * held_out)
    if min(unseen, n - unseen) < FEWEST_ITEMS:
        raise InputError(
            f"{task.name}: {n} items with held_out={held_out:g} make {n - unseen} to search on and {unseen} to test on, "
            f"expected at least {FEWEST_ITEMS} of each: give more items"
        )
    order = np.random.default_rng(seed).permutation(n)
    return task.take(order[unseen:].tolist()), task.take(order[:unseen].tolist())


def candidates_of(layout: Mapping[int, tuple[str, int]], layers: str | None) -> list[Head]:
    """The heads of the layers to search.

    Args:
        layout: layer → (module, heads).
        layers: numbers and ranges joined by commas; None for all but the first two.

    Raises:
        InputError: no such layer, or a text that is not of this form.
    """
    if layers is None:
        wanted = sorted(layout)[2:] or sorted(layout)
    else:
        wanted = []
        for part in layers.split(","):
            first, dash, last = (piece.strip() for piece in part.partition("-"))
            ends = (first, last if dash else first)
            if not all(end.isdecimal() for end in ends) or not (
                mine := range(int(ends[0]), int(ends[1]) + 1)
            ):
                raise InputError(
                    f"layers: got {part!r}, expected numbers and rising ranges such as 2-28 or 3,5,9"
                )
            wanted += mine
        absent = [layer for layer in wanted if layer not in layout]
        if absent:
            raise InputError(f"layers: got {layers!r}, expected some of {min(layout)} to {max(layout)}")
    return [(layer, head) for layer in sorted(set(wanted)) for head in range(layout[layer][1])]


def _key(loaded: Any, task: Task, settings: Mapping[str, Any]) -> str:
    weights = loaded.model.parameters()
    told = [str(loaded.revision), str(next(weights).dtype), task.digest, dict(settings)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _model(loaded: Any, trials: Trials) -> dict[str, Any]:
    return {
        "name": str(loaded.name),
        "revision": str(loaded.revision),
        "class": type(loaded.model).__name__,
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        "heads_per_layer": {str(layer): heads for layer, (_, heads) in trials.layout.items()},
    }


def _cost(trials: Trials, search_passes: int, one_by_one: int) -> dict[str, Any]:
    cost = trials.cost
    return {
        "trials": cost.trials,
        "search_passes": search_passes,
        "passes_one_by_one": one_by_one,
        "test_passes": cost.passes - search_passes,
        "layers_computed": round(cost.layers / (max(cost.passes, 1) * len(trials.layout)), 3),
        "seconds": round(cost.seconds, 1),
        "trials_from_journal": trials.journal.replayed,
        "whole_passes_because": trials.whole_passes,
    }


def _dataset(trials: Trials, found: Found, document: dict[str, Any]) -> xr.Dataset:
    layers, widest = list(trials.layout), max(heads for _, heads in trials.layout.values())
    shape = (len(layers), widest)
    gain, z = np.full(shape, np.nan), np.full(shape, np.nan)
    items, chosen = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    for (layer, head), value in found.gain.items():
        place = layers.index(layer), head
        gain[place], z[place] = value, found.z[layer, head]
        items[place], chosen[place] = found.items[layer, head], (layer, head) in found.chosen
    dims = ("layer", "head")
    result = xr.Dataset(
        {"gain": (dims, gain), "z": (dims, z), "items": (dims, items), "chosen": (dims, chosen)},
        coords={"layer": layers, "head": np.arange(widest)},
    )
    loss = document["settings"]["metric"] == "loss"
    result.attrs = {
        "unit": "nat" if loss else "1",
        "value": "gain",
        "model": document["model"]["name"],
        "verdict": document["held_out"]["verdict"],
        "calibration": json.dumps(document, ensure_ascii=False),
    }
    return result
