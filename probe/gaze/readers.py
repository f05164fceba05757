"""Files of eye movements: COCO-Search18 JSON, OSIE mat, STI JSON and plain CSV, as one kind of record."""

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.gaze.scene import Floats


@dataclass(frozen=True, eq=False)
class Scanpath:
    """One person's fixations on one picture.

    Attributes:
        picture: its file name, or name.
        person: who looked.
        places: [n, 2], row and column as parts of height and width; those outside lie beyond 0 to 1.
        seconds: [n], durations; NaN where the file has none.
        size: height and width in pixels.
        target: what was searched, in words; None for free viewing.
        box: [4], of the target: top, left, bottom, right as parts; None where unknown.
    """

    picture: str
    person: str
    places: Floats
    seconds: Floats
    size: tuple[int, int]
    target: str | None = None
    box: Floats | None = None


def read_scanpaths(
    path: str | Path, form: str = "auto", size: tuple[int, int] | None = None
) -> list[Scanpath]:
    """All scanpaths of a file, those without any fixation left out.

    Args:
        path: the file, or the folder of OSIE (fixations.mat) or STI (Amazon.json).
        form: "coco-search18", "osie", "sti" or "csv" (columns picture, person, x, y[, duration in ms]); "auto" goes by content.
        size: height and width of the pictures in pixels, where the file does not say it (COCO-Search18: 1050, 1680;
            OSIE: 600, 800).

    Raises:
        InputError: no such file, another form, or no scanpath in it.
    """
    file = Path(path)
    if file.is_dir():
        named = [file / name for name in ("fixations.mat", "Amazon.json") if (file / name).is_file()]
        if not named:
            raise InputError(f"{file} holds neither fixations.mat (OSIE) nor Amazon.json (STI)")
        file = named[0]
    if not file.is_file():
        raise InputError(f"no such file: {file}")
    kind = _form(file) if form == "auto" else form
    if kind not in _READERS:
        raise InputError(f"form {kind!r}, expected one of {', '.join(_READERS)}")
    try:
        found = [one for one in _READERS[kind](file, size) if len(one.places)]
    except (KeyError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{file} is not of the form {kind}: {type(error).__name__} {error}") from error
    if not found:
        raise InputError(f"{file} holds no scanpath")
    return found


def _form(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in (".mat", ".csv"):
        return {".mat": "osie", ".csv": "csv"}[suffix]
    try:
        first = json.loads(file.read_text("utf-8"))
        entry = first[0] if isinstance(first, list) else next(iter(first.values()))
        return "coco-search18" if "X" in entry else "sti"
    except (ValueError, LookupError, TypeError, StopIteration) as error:
        raise InputError(f"{file} is no file of eye movements that we know (JSON, mat, CSV)") from error


def _places(x: Any, y: Any, size: tuple[int, int]) -> Floats:
    return np.stack([np.atleast_1d(y) / size[0], np.atleast_1d(x) / size[1]], -1).astype(np.float64)


def _coco_search(file: Path, size: tuple[int, int] | None) -> list[Scanpath]:
    shown, found = size or (1050, 1680), []
    for one in json.loads(file.read_text("utf-8")):
        x, y, w, h = one.get("bbox") or (np.nan,) * 4
        box = np.array([y / shown[0], x / shown[1], (y + h) / shown[0], (x + w) / shown[1]])
        places, took = (
            _places(np.array(one["X"]), np.array(one["Y"]), shown),
            np.array(one["T"], float) / 1000,
        )
        known = box if np.isfinite(box).all() and one.get("condition", "present") == "present" else None
        found.append(Scanpath(one["name"], str(one["subject"]), places, took, shown, one.get("task"), known))
    return found


def _osie(file: Path, size: tuple[int, int] | None) -> list[Scanpath]:
    from scipy.io import loadmat

    shown, found = size or (600, 800), []
    for record in np.atleast_1d(loadmat(file, squeeze_me=True, struct_as_record=False)["fixations"]):
        for number, subject in enumerate(np.atleast_1d(record.subjects)):
            places, took = (
                _places(subject.fix_x, subject.fix_y, shown),
                np.atleast_1d(subject.fix_duration) / 1000,
            )
            found.append(Scanpath(str(record.img), str(number), places, took, shown))
    return found


def _sti(file: Path, size: tuple[int, int] | None) -> list[Scanpath]:
    data, found = json.loads(file.read_text("utf-8")), []
    for name, one in data.items() if isinstance(data, dict) else enumerate(data):
        shown = size or _sti_size(one["size"])
        box = _sti_box(one["ground_truth"], shown)
        people = one["fixations"]
        for person, points in people.items() if isinstance(people, dict) else enumerate(people):
            at = np.array(points, float).reshape(-1, 2)
            places = _places(at[:, 0], at[:, 1], shown)
            found.append(
                Scanpath(
                    str(name), str(person), places, np.full(len(at), np.nan), shown, str(one["target"]), box
                )
            )
    return found


def _sti_size(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    return int(size[1]), int(size[0])


def _sti_box(boxes: Any, size: tuple[int, int]) -> Floats:
    first = boxes[0] if isinstance(boxes, list) else boxes
    if isinstance(first, dict):
        first = [first[side] for side in ("xmin", "xmax", "ymin", "ymax")]
    left, right, top, bottom = (float(v) for v in first)
    return np.array([top / size[0], left / size[1], bottom / size[0], right / size[1]])


def _csv(file: Path, size: tuple[int, int] | None) -> list[Scanpath]:
    if size is None:
        raise InputError(
            f"{file}: a CSV does not say how large the pictures are; give their height and width"
        )
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            took = float(row["duration"]) / 1000 if row.get("duration") else np.nan
            rows[row["picture"], row["person"]].append((float(row["x"]), float(row["y"]), took))
    found = []
    for (picture, person), points in rows.items():
        x, y, took = np.array(points).T
        found.append(Scanpath(picture, person, _places(x, y, size), took, size))
    return found


_READERS: dict[str, Callable[[Path, tuple[int, int] | None], list[Scanpath]]] = {
    "coco-search18": _coco_search, "osie": _osie, "sti": _sti, "csv": _csv,
}  # fmt: skip
