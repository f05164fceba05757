"""Does CARVE repair answers, and does it look at the right thing? On generated scenes, where the truth is known.

    python -m probe.explainers._carve.evaluate --model vqa --questions 300 --clutter 0.8

Prints accuracy without and with each way of cutting out a part, paired with the plain answer (exact McNemar test), how the map
lies on the true mask, the time a question takes, and entropy and accuracy by clutter. The scenes are held out by their seeds.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError
from probe.explainers._carve import build as carving
from probe.explainers._carve.asking import ask, depth, module_of
from probe.explainers._carve.contrast import RegionRule, entropy
from probe.explainers._places import relevance_in_mask

GENERAL = "Write a general description of the image."
WAYS = ("carve", "carve both", "question", "centre", "random", "truth")


def cases(
    count: int, clutter: float, kinds: tuple[str, ...], seed: int, *, held_out: bool = False
) -> list[Any]:
    """(scene, question) pairs with a thing that holds the answer; one question a scene.

    Raises:
        InputError: a kind of question that is about no thing.
    """
    if wrong := {"count", "description"} & set(kinds):
        raise InputError(
            f"kinds: {', '.join(sorted(wrong))} ask about no single thing that can be pointed at"
        )
    from probe.zoo.scenes import make_scene, questions

    rng, found = np.random.default_rng((10**6, seed)), list[Any]()
    while len(found) < count:
        scene = make_scene(rng, clutter, held_out=held_out)
        kind = kinds[len(found) % len(kinds)]
        asked = [q for q in questions(scene, rng, (kind,)) if q.about is not None]
        found += [(scene, q) for q in asked]
    return found[:count]


def moved(box: tuple[int, int, int, int], shape: tuple[int, int], rng: np.random.Generator | None) -> Any:
    """A box of the same size in the middle (no `rng`), or anywhere."""
    high, wide = box[2] - box[0], box[3] - box[1]
    rooms = shape[0] - high, shape[1] - wide
    top, left = (r // 2 if rng is None else int(rng.integers(r + 1)) for r in rooms)
    return top, left, top + high, left + wide


def around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The true box with a little room: what a perfect finder would cut out."""
    from probe.explainers._carve.contrast import box_around

    return box_around(mask, 0.15)


def one(model: Any, scene: Any, question: Any, settings: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Answers of all ways to one question, and how CARVE's map lies on the truth."""
    from PIL import Image

    whole, mask = Image.fromarray(scene.picture), scene.mask(question.about)
    layers, size = carving.layers_of(settings.layers, depth(module_of(model)[0])), mask.shape
    spent, begun = {}, time.perf_counter()
    first = ask(model, [whole], question.text, layers=layers)
    spent["none"] = time.perf_counter() - begun
    general = ask(model, [whole], settings.general, layers=layers)
    told: dict[str, Any] = {"none": first.text, "probability": first.probability}
    mean = first.rows[-1].mean(axis=1)
    told["entropy"], told["mass"] = float(entropy(mean).mean()), float(mean.sum(-1).mean())
    places = {}
    for name in ("carve", "question"):
        map_ = carving.fused(first, general, replace(settings, method=name), size, size)
        places[name] = carving.locate(map_, replace(settings, method=name), (size[0] / 2, size[1] / 2))
        flat = np.nan_to_num(map_)
        kept = places[name].areas > 0
        at = np.unravel_index(int(flat.argmax()), size)
        told[f"{name} pointing"] = bool(mask[at])
        told[f"{name} mass in mask"] = relevance_in_mask(flat, mask)
        told[f"{name} iou"] = float((kept & mask).sum() / (kept | mask).sum())
        told[f"{name} covered"] = float((kept & mask).sum() / mask.sum())
    found = places["carve"]
    told["area"] = float(mask.mean())
    if found.box is None:
        return told | dict.fromkeys(WAYS, first.text) | {"seconds": spent}
    boxes = {
        "centre": moved(found.box, size, None),
        "random": moved(found.box, size, rng),
        "truth": around(mask),
    }
    for way in WAYS:
        begun = time.perf_counter()
        where = places.get(way.split()[0]) or replace(found, box=boxes[way])
        cut = carving.refined(whole, where, settings.fill if way.split()[0] in places else "keep")
        told[way] = ask(model, [whole, cut] if way == "carve both" else [cut], question.text).text
        spent[way] = time.perf_counter() - begun
    return told | {"seconds": spent}


def mcnemar(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Two-sided exact test that as many answers were repaired as spoilt."""
    from scipy.stats import binomtest

    changed = int((before != after).sum())
    return float(binomtest(int((after & ~before).sum()), changed).pvalue) if changed else 1.0


def table(model: Any, pairs: list[Any], settings: Any, seed: int) -> dict[str, Any]:
    """The figures of one set of questions."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    rng = np.random.default_rng(seed)
    lines = [one(model, scene, question, settings, rng) for scene, question in tqdm(pairs, desc="questions")]
    right = {
        way: np.array([line[way] == q.answer for line, (_, q) in zip(lines, pairs, strict=True)])
        for way in ("none", *WAYS)
    }
    figures: dict[str, Any] = {"questions": len(pairs)}
    for way, flags in right.items():
        figures[way] = {
            "accuracy": float(flags.mean()),
            "repaired": int((flags & ~right["none"]).sum()),
            "spoilt": int((~flags & right["none"]).sum()),
            "p": mcnemar(right["none"], flags),
        }
    for name in ("carve", "question"):
        keys = ("pointing", "mass in mask", "iou", "covered")
        figures[f"{name} map"] = {
            key: float(np.nanmean([line[f"{name} {key}"] for line in lines])) for key in keys
        }
    figures["chance (share of the picture that the thing covers)"] = float(
        np.mean([line["area"] for line in lines])
    )
    figures["entropy"] = float(np.mean([line["entropy"] for line in lines]))
    figures["seconds"] = {
        w: float(np.median([line["seconds"][w] for line in lines if w in line["seconds"]]))
        for w in ("none", *WAYS)
    }
    return figures


def main() -> None:
    """Command line."""
    import probe

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vqa")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--questions", type=int, default=300, help="a clutter level and seed")
    parser.add_argument("--clutter", default="0,0.4,0.8", help="levels, joined by commas")
    parser.add_argument("--kinds", default="colour,shape,digit")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--layers", default="auto")
    parser.add_argument("--steps", default="first")
    parser.add_argument("--keep", type=float, default=0.2)
    parser.add_argument("--regions", type=int, default=3)
    parser.add_argument("--lam", type=float, default=1e-8)
    parser.add_argument("--fill", default="black")
    parser.add_argument("--margin", type=float, default=0.0)
    args = parser.parse_args()
    model = probe.load(args.model, device=args.device)
    rule = RegionRule(args.regions, keep=args.keep)
    settings = carving.Settings(
        "",
        GENERAL,
        "carve",
        args.layers,
        args.steps,
        0,
        args.lam,
        False,
        args.keep,
        rule,
        args.margin,
        args.fill,
        "refined",
        32,
    )
    for level in map(float, args.clutter.split(",")):
        for seed in map(int, args.seeds.split(",")):
            pairs = cases(args.questions, level, tuple(args.kinds.split(",")), seed)
            line = {"clutter": level, "seed": seed, **table(model, pairs, settings, seed)}
            sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
