"""LLaVA-NeXT: the whole picture in one square, then again in a grid of tiles at a higher resolution."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError, ModelError
from probe.families.vision._canvas import Canvas, Size
from probe.families.vision._settings import Settings, array, read, required, sizes, square
from probe.families.vision._table import Block, Index, cells, dataset, join, marks, placed, take
from probe.families.vision.fixed import leading, selected, target

KINDS = {"LlavaNextImageProcessor": ("do_resize", "size", "do_center_crop", "image_grid_pinpoints")}


def patches(config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object) -> xr.Dataset:
    """The positions of the tower: one sample per square, the whole picture before its tiles."""
    return dataset([block for picture in _towers(config, inputs, images, settings) for block in picture])


def tokens(
    config: Any, ids: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object
) -> xr.Dataset:
    """The image tokens: the whole picture, then the tiles row by row across all of them, a "newline" after each row."""
    pictures = _towers(config, inputs, images, settings)
    side = square(config.vision_config, "image_size", config.model_type)
    rows = side // square(config.vision_config, "patch_size", config.model_type)
    blocks = []
    for number, (size, squares) in enumerate(zip(sizes(images), pictures, strict=True)):
        kept = [selected(config, inputs, block) for block in squares]
        if len(kept[0]["role"]) != rows**2 or any(kept[0]["role"] != "patch"):
            raise ModelError(
                f"{config.model_type}: {len(kept[0]['role'])} of {len(squares[0]['role'])} positions of a square "
                f"reach the text, expected its {rows}² patches; set vision_feature_select_strategy to fit the vision tower"
            )
        high, wide = (n // side for n in best_resolution(size, config.image_grid_pinpoints))
        order = np.arange(high * wide * rows**2).reshape(high, wide, rows, rows).transpose(0, 2, 1, 3)
        seen = unpadded(order.reshape(high * rows, wide * rows), size)
        tiles = join(kept[1:])
        lines = [block for line in seen for block in (take(tiles, line), marks("newline", image=number))]
        blocks.append(join([kept[0], *lines]))
    return placed(array(ids), {config.image_token_id: join(blocks)}, {}, len(images))


def _towers(
    config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object
) -> list[list[Block]]:
    """Per picture its squares: the whole, then the tiles."""
    given, read_settings = sizes(images), read(settings, "image_processor", KINDS)
    side = square(config.vision_config, "image_size", config.model_type)
    patch = square(config.vision_config, "patch_size", config.model_type)
    _check_side(side, read_settings)
    stated = array(required(inputs, "image_sizes", 2)).tolist()
    if stated != [list(size) for size in given]:
        raise InputError(f"image_sizes: got {stated}, expected {[list(size) for size in given]} as in images")
    pictures, counts = [], []
    for number, size in enumerate(given):
        best = best_resolution(size, read_settings.values["image_grid_pinpoints"])
        if best != best_resolution(size, config.image_grid_pinpoints):
            raise InputError(
                f"image_grid_pinpoints: for a picture of {list(size)} the processor takes {list(best)}, the model's "
                "configuration something else; give the processor of this model"
            )
        if best[0] % side or best[1] % side:
            raise ModelError(
                f"{config.model_type}: a grid of {list(best)} does not divide into squares of {side} pixels"
            )
        blocks = [
            join(
                [
                    *leading(config.vision_config, image=number, tile=tile),
                    cells(canvas.grid(patch), image=number, tile=tile),
                ]
            )
            for tile, canvas in squares(size, best, side)
        ]
        pictures.append(blocks)
        counts.append(len(blocks))
    _check_pixels(required(inputs, "pixel_values").shape, counts, side)
    return pictures


def squares(size: Size, best: Size, side: int) -> list[tuple[int, Canvas]]:
    """The whole picture (tile −1), then the tiles row by row.

    Args:
        size: height and width of the picture.
        best: height and width that the tiles cover.
        side: side of a square.
    """
    whole = Canvas.of(size)
    inner = fitted(size, best)
    padded = whole.resized(inner).cut(-((best[0] - inner[0]) // 2), -((best[1] - inner[1]) // 2), best)
    corners = [(top, left) for top in range(0, best[0], side) for left in range(0, best[1], side)]
    tiles = [(n, padded.cut(top, left, (side, side))) for n, (top, left) in enumerate(corners)]
    return [(-1, whole.resized((side, side))), *tiles]


def best_resolution(size: Size, choices: Sequence[Sequence[int]]) -> Size:
    """The choice that keeps most of the picture's pixels; among equals the one with the least padding, then the first."""

    def merit(choice: Sequence[int]) -> tuple[int, int]:
        scale = min(choice[1] / size[1], choice[0] / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - choice[0] * choice[1]

    height, width = max(choices, key=merit)
    return int(height), int(width)


def fitted(size: Size, room: Size) -> Size:
    """Height and width of a picture that keeps its proportions and fills the room in one direction."""
    by_height, by_width = room[0] / size[0], room[1] / size[1]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), room[0]), room[1]
    return room[0], min(math.ceil(size[1] * by_height), room[1])


def unpadded(grid: Index, size: Size) -> Index:
    """The rows or columns of a grid of features that the model keeps: it takes off the same number on either side."""
    height, width = grid.shape
    if size[1] / size[0] > width / height:
        off = (height - int(round(size[0] * (width / size[1]), 7))) // 2
        return grid[off : height - off]
    off = (width - int(round(size[1] * (height / size[0]), 7))) // 2
    return grid[:, off : width - off]


def _check_side(side: int, settings: Settings) -> None:
    """All resizing and cropping of a square must leave it as it is, or the tiles overlap in the picture."""
    whole = target((side, side), settings) if settings.flag("do_resize") else (side, side)
    sides = settings.sides("size")
    base = (sides.get("height", sides.get("shortest_edge")), sides.get("width", sides.get("shortest_edge")))
    crop = settings.sides("crop_size") if settings.values.get("crop_size") is not None else {}
    cut = {crop.get("height", side), crop.get("width", side)}
    if whole != (side, side) or base != (side, side) or cut != {side}:
        raise ModelError(
            f"LLaVA-NeXT: the processor's squares (size {sides}, crop_size {crop or None}) are not the model's "
            f"({side} pixels); only equal ones are supported"
        )


def _check_pixels(shape: Sequence[int], counts: Sequence[int], side: int) -> None:
    stacked = len(shape) == 5 and shape[0] == len(counts) and shape[1] >= max(counts)
    joined = len(shape) == 4 and shape[0] == sum(counts)
    if not (stacked or joined) or list(shape[-2:]) != [side, side]:
        raise InputError(
            f"pixel_values: got {list(shape)}, expected {list(counts)} squares of {side} pixels for these pictures; give the "
            "sizes and settings that belong to these inputs"
        )
