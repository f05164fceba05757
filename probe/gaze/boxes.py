"""Objects of a picture: boxes of a file (COCO JSON or CSV), equal cells, or proposals of scikit-image."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError
from probe.gaze.appearance import plain_features, shrunk
from probe.gaze.scene import CENTRE, Floats, Scene

PROPOSALS = ("slic", "regions", "grid")


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of one picture: boxes [N, 4] (top, left, bottom, right as parts of height and width), names, labels [H, W]."""

    boxes: Floats
    names: tuple[str, ...]
    labels: NDArray[np.integer[Any]] | None = None

    def scene(self, pixels: NDArray[np.uint8] | None, target: int | None = None) -> Scene:
        """The objects with their plain appearance (`pixels` None: with none), and what is searched."""
        if len(self.boxes) == 0:
            raise InputError(
                "the picture has no objects; give at least one box, or propose some (--propose slic)"
            )
        boxes = np.asarray(self.boxes, dtype=np.float64)
        shown = np.zeros((len(boxes), 0), np.float32)
        if pixels is not None:
            own = self.labels is not None
            shown = plain_features(pixels, self.labels, None) if own else plain_features(pixels, None, boxes)
        return Scene(
            (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], shown, target, None, CENTRE
        )

    def holding(self, place: tuple[float, float]) -> int | None:
        """The object at a place (row and column as parts): of several the smallest, of equal ones the first; None: none."""
        row, column = place
        if not (0 <= row < 1 and 0 <= column < 1):
            return None
        if self.labels is not None:
            height, width = self.labels.shape
            return int(self.labels[int(row * height), int(column * width)])
        top, left, bottom, right = self.boxes.T
        inside = np.flatnonzero((top <= row) & (row < bottom) & (left <= column) & (column < right))
        if not inside.size:
            return None
        area = (bottom - top)[inside] * (right - left)[inside]
        return int(inside[int(area.argmin())])


def read_boxes(path: str | Path, height: int, width: int, image: str | None = None) -> Objects:
    """Boxes of a COCO JSON (`annotations` with `bbox` x, y, width, height) or a CSV (columns x, y, width, height[, name]).

    Boxes are in pixels of the picture; what stands over its border is cut. Boxes that are alike are kept, each with its number.

    Args:
        path: the file; its suffix says which kind.
        height: of the picture.
        width: of the picture.
        image: file name of the picture, where a COCO file holds several.

    Raises:
        InputError: no such file, another form, a box without size or outside the picture, or a file without boxes.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no such file: {file}")
    try:
        rows = _coco(file, image) if file.suffix.lower() == ".json" else _csv(file)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file}: expected a COCO JSON with annotations and bbox, or a CSV with x, y, width, height ({error})"
        ) from error
    if not rows:
        raise InputError(f"{file} holds no boxes" + (f" of {image}" if image else ""))
    boxes = []
    for number, (name, (x, y, w, h)) in enumerate(rows):
        box = np.clip([y / height, x / width, (y + h) / height, (x + w) / width], 0, 1)
        if not (w > 0 and h > 0 and box[2] > box[0] and box[3] > box[1]):
            raise InputError(
                f"{file}: box {number} ({name}: x {x:g}, y {y:g}, width {w:g}, height {h:g}) has no part in the picture of "
                f"{width} × {height} pixels"
            )
        boxes.append(box)
    return Objects(np.array(boxes), tuple(name for name, _ in rows))


def _coco(file: Path, image: str | None) -> list[tuple[str, list[float]]]:
    data = json.loads(file.read_text("utf-8"))
    data = {"annotations": data} if isinstance(data, list) else data
    kinds = {entry["id"]: str(entry["name"]) for entry in data.get("categories", [])}
    files = {entry["id"]: str(entry["file_name"]) for entry in data.get("images", [])}
    chosen = data["annotations"]
    if len(files) > 1:
        wanted = [number for number, name in files.items() if Path(name).name == image]
        if not wanted:
            raise InputError(f"{file} holds {len(files)} pictures, none named {image}")
        chosen = [entry for entry in chosen if entry["image_id"] in wanted]
    return [
        (kinds.get(entry.get("category_id"), f"object {n}"), _four(entry["bbox"]))
        for n, entry in enumerate(chosen)
    ]


def _four(values: list[Any]) -> list[float]:
    x, y, width, height = map(float, values)
    return [x, y, width, height]


def _csv(file: Path) -> list[tuple[str, list[float]]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            (row.get("name") or f"object {n}", [float(row[c]) for c in ("x", "y", "width", "height")])
            for n, row in enumerate(csv.DictReader(lines))
        ]


def propose(picture: Any, how: str = "slic", count: int = 40) -> Objects:
    """Objects of a picture of Pillow, without a file.

    Args:
        picture: in RGB.
        how: "slic" for superpixels, "regions" for neighbouring superpixels merged by colour, "grid" for equal cells.
        count: about how many.

    Raises:
        InputError: another way, or fewer than 1.

    References:
        Achanta et al., SLIC Superpixels, IEEE PAMI 34(11), 2012; both from scikit-image.
    """
    if how not in PROPOSALS or count < 1:
        raise InputError(f"{count} objects by {how!r}, expected at least 1 by one of {', '.join(PROPOSALS)}")
    pixels = shrunk(picture)
    height, width = pixels.shape[:2]
    if how == "grid":
        rows = max(1, round((count * height / width) ** 0.5))
        columns = max(1, round(count / rows))
        each = np.arange(height)[:, None] * rows // height * columns + np.arange(width) * columns // width
        labels = np.unique(each, return_inverse=True)[1].reshape(each.shape)
    else:
        labels = _segments(pixels, how, count)
    boxes = []
    for number in range(int(labels.max()) + 1):
        on_rows, on_columns = np.nonzero(labels == number)
        ends = (
            on_rows.min() / height,
            on_columns.min() / width,
            (on_rows.max() + 1) / height,
            (on_columns.max() + 1) / width,
        )
        boxes.append(ends)
    return Objects(np.array(boxes), tuple(f"{how} {n}" for n in range(len(boxes))), labels)


def _segments(pixels: NDArray[np.uint8], how: str, count: int) -> NDArray[np.integer[Any]]:
    from skimage.graph import cut_threshold, rag_mean_color
    from skimage.segmentation import slic

    fine = slic(pixels, n_segments=count * (4 if how == "regions" else 1), compactness=10, start_label=0)
    if how == "regions":
        fine = cut_threshold(fine, rag_mean_color(pixels, fine), 25)
    return np.asarray(np.unique(fine, return_inverse=True)[1].reshape(fine.shape))
