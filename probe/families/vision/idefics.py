"""Idefics3 and SmolVLM: tiles in rows and columns, then the whole picture; pixel shuffle joins patches to one token."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError, ModelError
from probe.families.vision._canvas import Canvas, Size, longest_edge
from probe.families.vision._settings import Settings, array, read, required, sizes, square
from probe.families.vision._table import cells, dataset, join, placed

_STATED = ("do_resize", "size", "max_image_size", "do_image_splitting")
KINDS = {"Idefics3ImageProcessor": _STATED, "SmolVLMImageProcessor": _STATED}
LIMIT = 4096  # the processors' own constant: no side becomes longer


def patches(config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object) -> xr.Dataset:
    """The positions of the tower: one sample per square, a picture's tiles before its whole."""
    patch = square(config.vision_config, "patch_size", config.model_type)
    pictures = _squares(inputs, images, read(settings, "image_processor", KINDS))
    return dataset(
        [cells(c.grid(patch), image=n, tile=t) for n, picture in enumerate(pictures) for t, c in picture]
    )


def tokens(
    config: Any, ids: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object
) -> xr.Dataset:
    """The image tokens, one per block of patches, and the tokens that frame them."""
    patch = square(config.vision_config, "patch_size", config.model_type)
    pictures = _squares(inputs, images, read(settings, "image_processor", KINDS))
    block = config.scale_factor
    if not isinstance(block, int) or (pictures[0][0][1].shape[0] // patch) % block:
        raise ModelError(
            f"{config.model_type}: {pictures[0][0][1].shape[0] // patch} patches a side do not divide into blocks of {block!r}"
        )
    features = [
        cells(canvas.grid(patch * block), image=number, tile=tile)
        for number, picture in enumerate(pictures)
        for tile, canvas in picture
    ]
    values = array(ids)
    table = placed(values, {config.image_token_id: join(features)}, {}, len(images))
    role = np.array(table["role"].values, dtype=object)
    for sample, row in enumerate(values):
        _frame(
            row,
            row == config.image_token_id,
            table["image"].values[sample],
            len(features[0]["role"]),
            role[sample],
        )
    table["role"] = (table["role"].dims, role.astype(table["role"].dtype), table["role"].attrs)
    return table


def squares(size: Size, settings: Settings) -> list[tuple[int, Canvas]]:
    """The tiles row by row, then the whole picture (tile −1); only the whole where it is not split.

    Args:
        size: height and width of the picture.
        settings: those of the image processor.

    Raises:
        ModelError: a form of size that is not supported.
    """
    side = settings.sides("max_image_size").get("longest_edge", 0)
    stated = settings.sides("size")
    if not side or set(stated) not in ({"longest_edge"}, {"height", "width"}):
        raise ModelError(
            f"{settings.kind}: size {stated} with tiles of {side} is not supported; expected longest_edge"
        )
    canvas = Canvas.of(size)
    if settings.flag("do_resize"):
        edge = stated.get("longest_edge")
        canvas = canvas.resized(
            longest_edge(size, edge, LIMIT) if edge else (stated["height"], stated["width"])
        )
    if not settings.flag("do_image_splitting"):
        return [(-1, canvas.resized((side, side)))]
    canvas = canvas.resized(_whole_tiles(canvas.shape, side))
    high, wide = (n // side for n in canvas.shape)
    if high == wide == 1:
        return [(-1, canvas)]
    corners = [(row * side, column * side) for row in range(high) for column in range(wide)]
    tiles = [(n, canvas.cut(top, left, (side, side))) for n, (top, left) in enumerate(corners)]
    return [*tiles, (-1, canvas.resized((side, side)))]


def _whole_tiles(shape: Size, side: int) -> Size:
    """The next height and width that are whole numbers of tiles: first the longer one, then what its proportions ask."""
    height, width = shape
    aspect = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        return math.ceil(int(width / aspect) / side) * side, width
    height = math.ceil(height / side) * side
    return height, math.ceil(int(height * aspect) / side) * side


def _squares(
    inputs: Mapping[str, Any], images: Sequence[Any], settings: Settings
) -> list[list[tuple[int, Canvas]]]:
    """Per picture its squares, checked against the pixels of the batch."""
    pictures = [squares(size, settings) for size in sizes(images)]
    side = pictures[0][0][1].shape[0]
    pixels = required(inputs, "pixel_values", 5)
    if tuple(pixels.shape[-2:]) != (side, side):
        raise InputError(
            f"pixel_values: got {list(pixels.shape)}, expected squares of {side} pixels from this processor"
        )
    there = ~array((pixels == 0).all(-1).all(-1).all(-1))  # the model takes a square of zeros for padding
    _check_count(there.sum(1).tolist(), [len(picture) for picture in pictures])
    mask = inputs.get("pixel_attention_mask")
    if mask is not None and not bool((array(mask) != 0)[there].all()):
        raise InputError(
            "pixel_attention_mask: got padding inside a square, expected none; this processor makes none"
        )
    return pictures


def _check_count(there: Sequence[int], counts: Sequence[int]) -> None:
    ends = np.concatenate([[0], np.cumsum(counts)])
    if sum(there) != ends[-1] or not set(np.cumsum(there).tolist()) <= set(ends.tolist()):
        raise InputError(
            f"pixel_values: got {list(there)} squares that are not all zero, expected {list(counts)} for these pictures; "
            "give the sizes and settings that belong to these inputs"
        )


def _frame(
    ids: NDArray[Any], places: NDArray[np.bool_], image: NDArray[np.int32], run: int, role: NDArray[Any]
) -> None:
    r"""Name the tokens around the squares of each picture, where the prompt has the form that the processor writes.

    That form is: for each square a border token, a token that names the square, and its `run` image tokens; "\n" after the
    tiles of each row; a last border. `role` is changed in place; a prompt of another form keeps its roles.
    """
    starts = np.flatnonzero(places)[::run]
    for number in np.unique(image[starts]):
        own = starts[image[starts] == number]
        whole = all(places[s : s + run].all() and (s + run == len(ids) or not places[s + run]) for s in own)
        end = own[-1] + run
        if not whole or own[0] < 2 or end >= len(ids) or len({*ids[own - 2].tolist(), int(ids[end])}) != 1:
            continue
        names = ids[own - 1]
        if len(set(names.tolist())) != len(names) or places[own - 1].any():
            continue
        for before, start in pairwise(own):
            role[before + run : start - 2] = "newline"
        role[own - 2] = role[end] = "border"
        role[own - 1] = "position"
