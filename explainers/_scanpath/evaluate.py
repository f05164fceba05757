"""The tables of real people: searches of the STI covers by cross-validation, free viewing of the OSIE photographs."""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._places import fixation_auc, nss
from probe.explainers._scanpath.decode import predict_paths
from probe.explainers._scanpath.floors import local_walk, marginal_paths, random_paths
from probe.explainers._scanpath.measures import (
    behavioural_delta,
    density,
    edit_distance,
    scanmatch,
    sequence_score,
)
from probe.explainers._scanpath.tables import table_of
from probe.gaze.scene import Trial
from probe.gaze.trials import Photo, photos, sti_trials

Progress = Callable[[int, int], None] | None
Named = Sequence[tuple[str, Trial]]
STI_LONGEST = 40
_MAP = (75, 100)


def fit_oat(
    trials: Sequence[Trial], shape: Any, *, tell_place: bool, epochs: int, seed: int, batch: int = 32
) -> Any:
    """An OAT trained on some trials alone; the random state of torch is left as it was.

    Args:
        trials: at least one.
        shape: of the network.
        tell_place: whether it is told where the target is.
        epochs: how often it sees each trial.
        seed: of weights, dropout and order.
        batch: trials in a step.
    """
    import torch

    from probe.zoo.oat.networks import OAT
    from probe.zoo.oat.train import one_step, rate_of

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OAT(shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
        draw, steps, step = np.random.default_rng(seed), epochs * -(-len(trials) // batch), 0
        for _ in range(epochs):
            order = draw.permutation(len(trials))
            order = order[
                np.argsort([len(trials[i].path) for i in order], kind="stable")
            ]  # batches of like length
            for start in (draw.permutation(-(-len(order) // batch)) * batch).tolist():
                for group in optimizer.param_groups:
                    group["lr"] = 2e-3 * rate_of(step, steps, warm=min(50, steps // 4))
                one_step(
                    model,
                    optimizer,
                    [trials[i] for i in order[start : start + batch]],
                    tell_place,
                    STI_LONGEST,
                )
                step += 1
    return model.eval()


def sti_table(
    data: str | Path,
    *,
    folds: int = 5,
    epochs: int = 20,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> xr.Dataset:
    """OAT trained on people's searches of the Amazon covers, tested on collages it has not seen, beside floors and people.

    The collages' pictures are not published: the network knows places alone. Place blind it has no way to know where the target
    is until it stands on it; place given it is told, as the published model is. Nothing trained here is kept.

    Args:
        data: Amazon.json, or its folder.
        folds: parts of the collages; each is tested by a network trained on the others.
        epochs: of each training.
        limit: only so many collages.
        seed: of folds, trainings and draws.
        progress: called with the trainings done and in all.

    Returns:
        value(prediction, measure): sequence score, edit distance (plain, normalised), ScanMatch and delta, each predicted path
        against every person of its collage; for people each pair of them.

    Raises:
        InputError: no data, or fewer collages than folds.
    """
    from probe.zoo.oat.networks import Shape

    named = sti_trials(data)
    pictures = list(dict.fromkeys(name for name, _ in named))
    order = np.random.default_rng(seed).permutation(len(pictures))[:limit]
    if not 2 <= folds <= len(order):
        raise InputError(f"{folds} folds of {len(order)} collages, expected 2 to {len(order)}")
    shape = Shape(features=0, width=64, encoder=2, decoder=2, feedforward=128)
    names = ("OAT, place given, sampled", "OAT, place given, greedy", "OAT, place blind, sampled", "OAT, place blind, greedy",
             "local walk, ends on target", "marginal frequencies", "random objects")  # fmt: skip
    told: dict[str, list[tuple[str, Trial, list[int]]]] = {name: [] for name in names}
    tested: list[tuple[str, Trial]] = []
    for fold in range(folds):
        out = {pictures[i] for i in order[fold::folds]}
        inside = {pictures[i] for i in order} - out
        learn, test = [t for n, t in named if n in inside], [(n, t) for n, t in named if n in out]
        tested += test
        scenes, lengths = [t.scene for _, t in test], _lengths(learn, len(test), seed + fold)
        made = {
            "local walk, ends on target": local_walk(scenes, lengths, learn, seed),
            "marginal frequencies": marginal_paths(scenes, lengths, learn, seed),
            "random objects": random_paths(scenes, lengths, seed),
        }
        for number, way in enumerate(("given", "blind")):
            model = fit_oat(learn, shape, tell_place=way == "given", epochs=epochs, seed=seed + fold)
            rules: dict[str, Any] = {"tell_place": way == "given", "longest": STI_LONGEST, "seed": seed}
            made[f"OAT, place {way}, sampled"] = predict_paths(model, scenes, sample=True, **rules)
            made[f"OAT, place {way}, greedy"] = predict_paths(model, scenes, **rules)
            if progress is not None:
                progress(2 * fold + number + 1, 2 * folds)
        for name, paths in made.items():
            told[name] += [(n, t, p) for (n, t), p in zip(test, paths, strict=True)]
    rows = {"another person": _people(tested)} | {
        name: _against(entries, tested) for name, entries in told.items()
    }
    note = f"{len(tested)} searches of {len(order)} collages, {folds} folds by collage, {epochs} epochs each, places only"
    return table_of(rows, note)


def _lengths(trials: Sequence[Trial], count: int, seed: int) -> list[int]:
    draw = np.random.default_rng(seed)
    return [int(n) for n in draw.choice([len(t.path) for t in trials], count)]


def _measures(pairs: Sequence[tuple[Sequence[int], Sequence[int], Any]]) -> dict[str, float]:
    found = {
        "SS": [sequence_score(a, b) for a, b, _ in pairs],
        "edit distance": [edit_distance(a, b) for a, b, _ in pairs],
        "normalised": [edit_distance(a, b, normalised=True) for a, b, _ in pairs],
        "ScanMatch": [scanmatch(a, b, places, threshold=0.25) for a, b, places in pairs],
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def _people(tested: Named) -> dict[str, float]:
    pairs = [
        (a.path, b.path, a.scene.places)
        for name in dict.fromkeys(n for n, _ in tested)
        for a, b in combinations([t for n, t in tested if n == name], 2)
    ]
    return {**_measures(pairs), "delta": 0.0}


def _against(entries: Sequence[tuple[str, Trial, list[int]]], tested: Named) -> dict[str, float]:
    """Each path against every person of its picture."""
    people: dict[str, list[Trial]] = {}
    for name, trial in tested:
        people.setdefault(name, []).append(trial)
    pairs = [(path, t.path, t.scene.places) for name, _, path in entries for t in people[name]]
    ours = [(path, trial.scene.target) for _, trial, path in entries]
    return {
        **_measures(pairs),
        "delta": behavioural_delta(ours, [(t.path, t.scene.target) for _, t in tested]),
    }


def viewing_table(
    model: Any,
    data: str | Path,
    *,
    limit: int | None = None,
    draws: int = 60,
    seed: int = 0,
    progress: Progress = None,
) -> xr.Dataset:
    """Free viewing of the OSIE photographs that the training left out: maps of fixations and paths, beside baselines.

    Maps: the density of `draws` paths of OAT, a centre prior, context-aware saliency, the fixations on the training's
    photographs, and the other half of the people; all on the fixations of the last 8 people. Paths are over 48 cells.

    Args:
        model: of `load_oat`.
        data: folder with fixations.mat and stimuli/.
        limit: only so many photographs.
        draws: paths drawn for a photograph.
        seed: of the draws.
        progress: called with the photographs done and in all.

    Returns:
        value(prediction, measure): NSS and AUC of the maps, sequence score and normalised edit distance of the paths.
    """
    held = photos(data, keep=lambda n: n % 5 == 0, limit=limit)
    known = photos(data, keep=lambda n: n % 5 != 0, limit=None if limit is None else 4 * limit)
    elsewhere = density([t.path for p in known for t in p.trials], known[0].objects.boxes, _MAP, 3)
    learnt = [t for p in known for t in p.trials]
    found: dict[str, list[dict[str, float]]] = {}
    for done, photo in enumerate(held, 1):
        for name, row in _photo_rows(photo, model, learnt, elsewhere, draws, seed + done).items():
            found.setdefault(name, []).append(row)
        if progress is not None:
            progress(done, len(held))
    rows = {name: {m: float(np.mean([r[m] for r in each])) for m in each[0]} for name, each in found.items()}
    note = f"{len(held)} photographs left out of the training; maps on the fixations of the last 8 people, paths over 48 cells"
    return table_of(rows, note)


def _photo_rows(
    photo: Photo, model: Any, learnt: Sequence[Trial], elsewhere: Any, draws: int, seed: int
) -> dict[str, dict[str, float]]:
    from scipy.ndimage import gaussian_filter, zoom

    from probe._pictures import read_picture
    from probe.explainers._relevance.context import Rules, context_saliency
    from probe.gaze.appearance import shrunk

    paths = predict_paths(model.model, [photo.trials[0].scene] * draws, sample=True, seed=seed)
    cut = len(photo.people) - 8
    judges, others = photo.trials[cut:], photo.trials[:cut]
    cells = _cells([one.places[1:] for one in photo.people[cut:]])
    saliency = context_saliency(shrunk(read_picture(photo.path)), Rules(size=128))
    y, x = np.mgrid[: _MAP[0], : _MAP[1]] / (np.array(_MAP)[:, None, None] - 1) - 0.5
    seen = np.zeros(_MAP)
    np.add.at(seen, tuple(_cells([one.places[1:] for one in photo.people[:cut]]).T), 1)
    maps = {
        "other people": gaussian_filter(seen, 3),
        "OAT": density(paths, photo.objects.boxes, _MAP, 3),
        "fixations on other photographs": elsewhere,
        "centre prior (σ a quarter)": np.exp(-(y**2 + x**2) / (2 * 0.25**2)),
        "context-aware saliency": zoom(saliency, np.array(_MAP) / saliency.shape, order=1),
    }
    rows: dict[str, dict[str, float]] = {
        n: {"NSS": nss(m, cells), "AUC": fixation_auc(m, cells)} for n, m in maps.items()
    }
    lengths = [len(t.path) for t in judges]
    scenes = [photo.scene] * len(judges)
    made: dict[str, Sequence[Sequence[int]]] = {
        "other people": [t.path for t in others],
        "OAT": paths[:12],
        "OAT, greedy": predict_paths(model.model, [photo.trials[0].scene]),
        "fixations on other photographs": marginal_paths(scenes, lengths, learnt, seed),
        "local walk": local_walk(scenes, lengths, learnt, seed),
        "random objects": random_paths(scenes, lengths, seed),
    }
    for name, ours in made.items():
        pairs = [(a, t.path) for a in ours for t in judges]
        own = {
            "SS": float(np.mean([sequence_score(a, b) for a, b in pairs])),
            "normalised edit": float(np.mean([edit_distance(a, b, normalised=True) for a, b in pairs])),
        }
        rows[name] = {"NSS": np.nan, "AUC": np.nan} | rows.get(name, {}) | own
    return {name: {"SS": np.nan, "normalised edit": np.nan} | row for name, row in rows.items()}


def _cells(places: Sequence[Any]) -> Any:
    """Row and column of the fixations inside the picture, in pixels of the map."""
    at = np.concatenate(places)
    inside = at[((at >= 0) & (at < 1)).all(1)]
    return np.floor(inside * _MAP).astype(int)


__all__ = ["fit_oat", "sti_table", "viewing_table"]
