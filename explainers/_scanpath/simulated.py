"""OAT on simulated search that it has not seen: how soon it finds the target, beside the searcher itself and floors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from probe.explainers._scanpath.decode import predict_paths
from probe.explainers._scanpath.floors import local_walk, random_paths
from probe.explainers._scanpath.measures import (
    behavioural_delta,
    edit_distance,
    search_efficiency,
    sequence_score,
)
from probe.explainers._scanpath.tables import table_of
from probe.gaze.scene import Trial

UNSEEN = 1 << 41


def search_table(
    model: Any, *, trials: int = 400, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> xr.Dataset:
    """New layouts and new targets of the simulator, whose seeds the training never drew.

    Args:
        model: of `load_oat`.
        trials: how many, all with their target present.
        seed: of the trials and the draws.
        progress: called with the rows done and in all.

    Returns:
        value(prediction, measure): sequence score, edit distance and delta against the searcher's path, and how often the
        target has been fixated by steps 1, 3, 5 and 10. "another searcher" is a second run of the simulator on the scene.
    """
    from probe.zoo.oat.simulate import search, simulated_trial

    drawn = (simulated_trial(np.random.default_rng([seed, UNSEEN, n])) for n in range(2 * trials))
    kept = [t for t in drawn if t.scene.target is not None][:trials]
    scenes, lengths = [t.scene for t in kept], [len(t.path) for t in kept]
    again = np.random.default_rng([seed, UNSEEN + 1])
    network = model.model
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "another searcher": lambda: [search(s, again) for s in scenes],
        "OAT, place blind, sampled": lambda: predict_paths(network, scenes, sample=True, seed=seed),
        "OAT, place blind, greedy": lambda: predict_paths(network, scenes),
        "OAT, place given, sampled": lambda: predict_paths(
            network, scenes, tell_place=True, sample=True, seed=seed
        ),
        "local walk, ends on target": lambda: local_walk(scenes, lengths, kept, seed),
        "random objects": lambda: random_paths(scenes, lengths, seed),
    }
    rows = {}
    for done, (name, make) in enumerate(ways.items(), 1):
        rows[name] = _row(make(), kept)
        if progress is not None:
            progress(done, len(ways))
    return table_of(
        rows, f"{len(kept)} simulated searches unseen in training; found by n: target fixated by step n"
    )


def _row(paths: list[list[int]], trials: list[Trial]) -> dict[str, float]:
    targets = [int(t.scene.target or 0) for t in trials]
    curve = search_efficiency(paths, targets, 10)
    pairs = list(zip(paths, trials, strict=True))
    return {
        "SS": float(np.mean([sequence_score(p, t.path) for p, t in pairs])),
        "edit distance": float(np.mean([edit_distance(p, t.path) for p, t in pairs])),
        "delta": behavioural_delta(
            list(zip(paths, targets, strict=True)), [(t.path, t.scene.target) for t in trials]
        ),
        **{f"found by {n}": float(curve[n - 1]) for n in (1, 3, 5, 10)},
    }
