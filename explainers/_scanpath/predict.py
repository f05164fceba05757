"""The explainer: where a model of people's gaze looks next, over the objects of a picture."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError, ModelError
from probe.explainers._scanpath.decode import WAYS, beam_paths, predict_paths
from probe.explainers._scanpath.measures import sequence_score
from probe.explainers._scanpath.result import path_dataset
from probe.explainers.spec import Choice, Flag, Interval, Text, explainer
from probe.gaze.boxes import PROPOSALS, Objects, propose, read_boxes
from probe.gaze.scene import Scene

if TYPE_CHECKING:
    from probe.zoo.oat.networks import OAT

SHOWN = 640  # longest side of the picture that a result carries
REFERENCES = (
    "Fang, Yu, Zhang, van der Lans and Shi, OAT: Object-level Attention Transformer for Gaze Scanpath Prediction, ECCV 2024 "
    "(arXiv 2407.13335)",
)


@dataclass(frozen=True, eq=False)
class LoadedOAT:
    """The network and where it comes from, with the names that `probe.load` uses."""

    model: "OAT"
    name: str = "oat"
    task: str = "scanpath"
    source: str = "embedded"
    revision: str = "1"
    license: str = "apache-2.0"
    processor: Any = None


@functools.cache
def load_oat(folder: str | None = None) -> LoadedOAT:
    """OAT with our weights, or those of a folder that `python -m probe.zoo.oat.train` wrote.

    Args:
        folder: with model.safetensors and config.json; left open: the embedded ones.

    Raises:
        ModelError: no such folder, or weights of another network.
    """
    from safetensors.torch import load_file

    import probe
    from probe.zoo.oat.networks import OAT, Shape

    home = Path(str(probe.__file__)).parent / "zoo" / "oat" if folder is None else Path(folder)
    if not (home / "model.safetensors").is_file() or not (home / "config.json").is_file():
        raise ModelError(f"{home} holds no OAT: expected model.safetensors and config.json")
    model = OAT(Shape(**json.loads((home / "config.json").read_text("utf-8"))))
    try:
        model.load_state_dict(
            {name: value.float() for name, value in load_file(home / "model.safetensors").items()}
        )
    except RuntimeError as error:
        raise ModelError(f"{home}: the weights are not those of this network: {error}") from error
    return LoadedOAT(model.eval(), source="embedded" if folder is None else "folder")


@explainer(title="Scanpath over objects", shape="runs", kind="path", references=REFERENCES)
def scanpath(
    model: Any,
    picture: Any,
    *,
    boxes: Annotated[
        str | None, Text("file of objects: COCO JSON, or CSV with x, y, width, height[, name]")
    ] = None,
    propose_by: Annotated[str, Choice(*PROPOSALS, help="how objects are proposed without boxes")] = "slic",
    objects: Annotated[int, Interval(1, 200, "about how many objects are proposed")] = 40,
    target: Annotated[
        int | None, Interval(0, 100_000, "number of the object searched, from 0; open: free viewing")
    ] = None,
    way: Annotated[str, Choice(*WAYS, help="how the first path is decoded")] = "typical",
    samples: Annotated[int, Interval(0, 200, "further paths drawn from the model")] = 8,
    tell_place: Annotated[
        bool, Flag("tell the model where the target is, as the published model does")
    ] = False,
    seed: Annotated[int, Interval(0, 2**31, "of the draws")] = 0,
) -> xr.Dataset:
    """Where people would look next: an ordered path over the objects of a picture, in search of one of them or freely.

    Args:
        model: of `ex.load_oat`.
        picture: file, picture of Pillow, or array [H, W, 3].
        boxes: the objects' file; pixels of the picture.
        propose_by: without boxes: "slic" superpixels, merged "regions", or a "grid".
        objects: without boxes: about how many.
        target: number of the object that is searched; left open: free viewing.
        way: "typical": of the drawn paths the one most alike to the others (sequence score); "greedy": the likeliest object
            each time; "sampled": one more draw; or "beam": the likeliest whole path a step, which lingers more than people do.
        samples: how many further paths are drawn.
        tell_place: whether the model is told the target's place, not its appearance alone.
        seed: of the draws.

    Returns:
        stop(path, step), its places, names, and agreement(step), see `path_dataset`.

    Raises:
        InputError: no picture, no objects, boxes outside the picture, or a target that is not among them.
        ModelError: another model.
    """
    from probe._pictures import read_picture
    from probe.gaze.appearance import shrunk

    shown = read_picture(picture)
    if boxes is None:
        found = propose(shown, propose_by, objects)
    else:
        name = Path(picture).name if isinstance(picture, (str, Path)) else None
        found = read_boxes(boxes, shown.height, shown.width, name)
    scene = found.scene(shrunk(shown), target)
    paths = _decoded(_network(model), scene, way, samples, tell_place, seed)
    small = shown.copy()
    small.thumbnail((SHOWN, SHOWN))
    result = path_dataset(found, paths, target, np.asarray(small, np.uint8), shown.height / shown.width)
    return _told(
        result, model, found, target, way, picture if isinstance(picture, (str, Path)) else "picture"
    )


def scanpath_of_trial(
    model: Any,
    data: str | Path,
    picture: str | None = None,
    *,
    samples: int = 8,
    tell_place: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """People's searches of one STI collage beside the model's; the picture itself is not published, its grid is shown.

    Args:
        model: of `ex.load_oat`.
        data: Amazon.json, or its folder.
        picture: name of the collage ("7.jpg"); left open: the first.
        samples: paths drawn from the model.
        tell_place: whether the model is told the target's place; without pictures it knows nothing else of it.
        seed: of the draws.

    Returns:
        A result of kind `path` as of `scanpath`, with people's paths behind the model's.

    Raises:
        InputError: no such data or collage.
    """
    from probe.gaze.trials import sti_trials

    trials = sti_trials(data)
    names = list(dict.fromkeys(name for name, _ in trials))
    chosen = picture or names[0]
    if chosen not in names:
        raise InputError(f"no collage {chosen!r} in {data}; there is {names[0]} to {names[-1]}")
    own = [trial for name, trial in trials if name == chosen]
    scene = own[0].scene
    paths = _decoded(_network(model), scene, "typical", samples, tell_place, seed)
    paths += [(f"person {trial.person}", "person", list(trial.path)) for trial in own]
    half = scene.sizes / 2
    cells = Objects(
        np.hstack([scene.places - half, scene.places + half]), tuple(f"cell {n}" for n in range(scene.count))
    )
    result = path_dataset(cells, paths, scene.target, None, 1600 / 2559)
    result.attrs |= {
        "kind": "path", "explainer": "scanpath", "title": "Scanpath over objects", "references": list(REFERENCES),
        "parameters": json.dumps({"samples": samples, "tell_place": tell_place, "seed": seed}),
    }  # fmt: skip
    return _told(result, model, cells, scene.target, "typical", chosen)


def _network(model: Any) -> "OAT":
    from probe.zoo.oat.networks import OAT

    network = getattr(model, "model", model)
    if not isinstance(network, OAT):
        raise ModelError(f"scanpath runs the OAT of ex.load_oat(), got {type(network).__name__}")
    return network


def _decoded(
    network: "OAT", scene: Scene, way: str, samples: int, tell_place: bool, seed: int
) -> list[tuple[str, str, Sequence[int]]]:
    drawn = (
        predict_paths(network, [scene] * samples, tell_place=tell_place, sample=True, seed=seed + 1)
        if samples
        else []
    )
    if way == "typical":
        if len(drawn) < 2:
            raise InputError(f"{samples} samples, expected at least 2 for the typical path (or another way)")
        alike = [sum(sequence_score(one, other) for other in drawn) for one in drawn]
        first = drawn[int(np.argmax(alike))]
    elif way == "beam":
        first = beam_paths(network, scene, tell_place=tell_place)[0][0]
    else:
        first = predict_paths(network, [scene], tell_place=tell_place, sample=way == "sampled", seed=seed)[0]
    found: list[tuple[str, str, Sequence[int]]] = [(f"model, {way}", "model", first)]
    return found + [(f"model, draw {n}", "model", path) for n, path in enumerate(drawn, 1)]


def _told(
    result: xr.Dataset, model: Any, objects: Objects, target: int | None, way: str, source: Any
) -> xr.Dataset:
    searched = "free viewing" if target is None else f"{objects.names[target]} (number {target})"
    result.attrs |= {
        "model": str(getattr(model, "name", "oat")), "target": searched, "method": way, "input": str(source),
    }  # fmt: skip
    if getattr(model, "source", "") == "embedded":
        learnt = (
            "people's free viewing of photographs"
            if target is None
            else "simulated searchers, not from people"
        )
        result.attrs["note"] = f"The embedded weights learnt this from {learnt}."
    return result
