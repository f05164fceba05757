"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures and videos of any size in one packed sequence, merged block by block."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError, ModelError
from probe.families.vision._canvas import Canvas, Size
from probe.families.vision._settings import Settings, array, read, required, sizes, square
from probe.families.vision._table import Block, Index, cells, dataset, join, placed, take

_STATED = ("do_resize", "size", "patch_size", "temporal_patch_size", "merge_size")
IMAGES = {"Qwen2VLImageProcessor": _STATED}
VIDEOS = {"Qwen2VLVideoProcessor": _STATED, "Qwen3VLVideoProcessor": _STATED}


@dataclass(frozen=True)
class _Shape:
    """How the tower cuts: side and depth of a patch, patches per side of a merged block, blocks per side of a window."""

    patch: int
    depth: int
    merge: int
    window: int


@dataclass(frozen=True, eq=False)
class _Picture:
    """One picture or video: its number, grid (time, height, width in patches), canvas, and frames (0: a picture)."""

    number: int
    grid: tuple[int, int, int]
    canvas: Canvas
    frames: int


def patches(config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object) -> xr.Dataset:
    """The positions of the tower: one sample for all pictures, one for all videos, in the order of its attention."""
    shape = _shape(config)
    calls = [call for call in _calls(config, inputs, images, settings, shape) if call]
    return dataset([_packed(pictures, shape) for pictures in calls])


def tokens(
    config: Any, ids: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object
) -> xr.Dataset:
    """The image and video tokens, one per merged block row by row, and the tokens that open and close them."""
    shape = _shape(config)
    calls = _calls(config, inputs, images, settings, shape)
    placeholders = (config.image_token_id, config.video_token_id)
    features = {
        token: join(
            [
                block
                for picture in pictures
                for block in _frames(picture, shape.patch * shape.merge, shape.depth)
            ]
        )
        for token, pictures in zip(placeholders, calls, strict=True)
        if pictures
    }
    names = ("vision_start", "vision_end")
    markers = {getattr(config, f"{name}_token_id", None): name for name in names}
    table = placed(array(ids), features, {k: v for k, v in markers.items() if k is not None}, len(images))
    for token, pictures in zip(placeholders, calls, strict=True):
        if not pictures and bool((array(ids) == token).any()):
            raise InputError(
                f"input_ids: got image tokens ({token}), expected none without pictures or videos of that kind"
            )
    return table


def _shape(config: Any) -> _Shape:
    vision, owner = config.vision_config, config.model_type
    patch, depth = (square(vision, name, owner) for name in ("patch_size", "temporal_patch_size"))
    merge = square(vision, "spatial_merge_size", owner)
    if config.model_type != "qwen2_5_vl":
        return _Shape(patch, depth, merge, 0)
    window = int(vision.window_size) // merge // patch
    if window < 1:
        raise ModelError(
            f"{owner}: windows of {vision.window_size} pixels hold no block of {merge * patch} pixels"
        )
    return _Shape(patch, depth, merge, window)


def _calls(
    config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object, shape: _Shape
) -> tuple[list[_Picture], list[_Picture]]:
    """The pictures and the videos, each in order: what the tower gets in its first and in its second call."""
    odd = [name for name in inputs if "window_index" in name]
    if odd:
        raise ModelError(f"{config.model_type}: {odd[0]} overrides the order of its patches; leave it out")
    still = [n for n, size in enumerate(images) if not (isinstance(size, (tuple, list)) and len(size) == 3)]
    moving = [n for n in range(len(images)) if n not in still]
    pictures = _pictures(inputs, images, still, settings, shape)
    videos = _videos(inputs, images, moving, settings, shape)
    return pictures, videos


def _pictures(
    inputs: Mapping[str, Any], images: Sequence[Any], numbers: list[int], settings: object, shape: _Shape
) -> list[_Picture]:
    grids = _grids(inputs, "image_grid_thw", "pixel_values", len(numbers))
    if not numbers:
        return []
    stated = _checked(read(settings, "image_processor", IMAGES), shape)
    pictures = []
    for number, size, grid in zip(numbers, sizes([images[n] for n in numbers]), grids, strict=True):
        least, most = _pixels(stated)
        goal = [fitted(size, shape.patch * shape.merge, least, most)] if stated.flag("do_resize") else [size]
        pictures.append(_Picture(number, grid, _canvas(size, grid, goal, 1, shape), 0))
    return pictures


def _videos(
    inputs: Mapping[str, Any], images: Sequence[Any], numbers: list[int], settings: object, shape: _Shape
) -> list[_Picture]:
    grids = _grids(inputs, "video_grid_thw", "pixel_values_videos", len(numbers))
    if not numbers:
        return []
    stated = _checked(read(settings, "video_processor", VIDEOS), shape)
    videos = []
    for number, grid in zip(numbers, grids, strict=True):
        frames, *rest = images[number]
        size = sizes([rest])[0]
        if not isinstance(frames, (int, np.integer)) or frames < 1:
            raise InputError(
                f"images: got {images[number]!r} as number {number}, expected (frames, height, width)"
            )
        goal = _video_goals(size, int(frames), stated, shape) if stated.flag("do_resize") else [size]
        times = math.ceil(frames / shape.depth)
        videos.append(_Picture(number, grid, _canvas(size, grid, goal, times, shape), int(frames)))
    return videos


def _grids(inputs: Mapping[str, Any], name: str, pixels: str, count: int) -> list[tuple[int, int, int]]:
    given = inputs.get(name)
    grids = [] if given is None else array(given).tolist()
    if len(grids) != count or any(len(grid) != 3 for grid in grids):
        raise InputError(
            f"{name}: got {grids}, expected one (time, height, width) for each of {count}; in images a picture is "
            "(height, width), a video (frames, height, width)"
        )
    patch_count = sum(t * h * w for t, h, w in grids)
    if count and len(required(inputs, pixels, 2)) != patch_count:
        raise InputError(f"{pixels}: got {len(inputs[pixels])} patches, expected {patch_count} from {name}")
    return [(int(t), int(h), int(w)) for t, h, w in grids]


def _checked(settings: Settings, shape: _Shape) -> Settings:
    """Settings that agree with the model."""
    for name, own in (
        ("patch_size", shape.patch),
        ("temporal_patch_size", shape.depth),
        ("merge_size", shape.merge),
    ):
        if settings.number(name) != own:
            raise InputError(
                f"{settings.kind}: got {name} {settings.number(name)}, expected the model's {own}"
            )
    return settings


def _pixels(settings: Settings) -> tuple[int, int]:
    """The least and the most pixels of a picture."""
    sides = settings.sides("size")
    old = [settings.values.get(name) for name in ("min_pixels", "max_pixels")]
    least, most = (
        o or sides.get(side) for o, side in zip(old, ("shortest_edge", "longest_edge"), strict=True)
    )
    if not least or not most:
        raise InputError(f"{settings.kind}: got size {sides}, expected shortest_edge and longest_edge")
    return int(least), int(most)


def _canvas(
    size: Size, grid: tuple[int, int, int], goals: Sequence[Size], times: int, shape: _Shape
) -> Canvas:
    """The picture at the size that its grid states, which must be one that the processor makes."""
    resized = (grid[1] * shape.patch, grid[2] * shape.patch)
    if resized not in goals or grid[0] != times or grid[1] % shape.merge or grid[2] % shape.merge:
        expected = [[times, goal[0] // shape.patch, goal[1] // shape.patch] for goal in goals]
        raise InputError(
            f"grid_thw: got {list(grid)}, expected {' or '.join(map(str, expected))} for a picture of {list(size)}; give the "
            "sizes and settings that belong to these inputs"
        )
    return Canvas.of(size).resized(resized)


def fitted(size: Size, factor: int, least: int, most: int, times: int = 1, frames: int = 1) -> Size:
    """Height and width in whole blocks, near the picture's own, with `least` to `most` pixels over all times.

    Args:
        size: height and width of the picture.
        factor: side of a block in pixels.
        least: least number of pixels.
        most: most of them.
        times: frames that count against the limits.
        frames: frames that the scale is taken from.
    """
    height, width = size
    high, wide = (round(n / factor) * factor for n in size)
    if times * high * wide > most:
        shrink = math.sqrt((frames * height * width) / most)
        high, wide = (max(factor, math.floor(n / shrink / factor) * factor) for n in size)
    elif times * high * wide < least:
        grow = math.sqrt(least / (frames * height * width))
        high, wide = (math.ceil(n * grow / factor) * factor for n in size)
    return high, wide


def _video_goals(size: Size, frames: int, settings: Settings, shape: _Shape) -> list[Size]:
    """What the video processor may resize to; two sizes where it leaves open whether a frame's pixels are capped."""
    least, most = _pixels(settings)
    factor = shape.patch * shape.merge
    third = settings.kind == "Qwen3VLVideoProcessor"
    floor, goals = int(least * 1.05), []
    cap, tokens_stated = (settings.values.get(name) for name in ("cap_pixels_per_frame", "max_video_tokens"))
    for capped in {False, tokens_stated is not None} if cap is None else {bool(cap)}:
        limit = most
        if capped and third:
            limit = (
                max(min(settings.number("max_video_tokens") * factor * factor, most // frames), floor)
                * frames
            )
        elif capped:
            total = int(settings.number("max_video_tokens") * factor * factor * 0.9)
            limit = max(min(most, total * shape.depth // frames), floor)
        if not third:
            goals.append(fitted(size, factor, least, limit))
            continue
        short = max(factor / size[0], factor / size[1])
        scaled = (int(size[0] * short), int(size[1] * short)) if min(size) < factor else size
        times = round(frames / shape.depth) * shape.depth
        goals.append(fitted(scaled, factor, least, limit, times, frames))
    return sorted(set(goals))


def _frames(picture: _Picture, patch: int, depth: int) -> list[Block]:
    """The patches (or merged blocks) of each time of a picture, row by row."""
    grid = picture.canvas.grid(patch)
    if not picture.frames:
        return [cells(grid, image=picture.number)]
    spans = [(t * depth, min((t + 1) * depth, picture.frames)) for t in range(picture.grid[0])]
    return [cells(grid, image=picture.number, frame=a, frame_end=b) for a, b in spans]


def _packed(pictures: Sequence[_Picture], shape: _Shape) -> Block:
    blocks = []
    for picture in pictures:
        order = tower_order(picture.grid[1:], shape.merge, shape.window)
        blocks += [take(block, order) for block in _frames(picture, shape.patch, shape.depth)]
    return join(blocks)


def tower_order(grid: Size, merge: int, window: int) -> Index:
    """Numbers (row by row) of the patches of one frame in the order of the tower.

    Blocks of merge × merge patches follow one another, and within a block its patches row by row; with windows, all blocks
    of one window come before those of the next.

    Args:
        grid: rows and columns of patches.
        merge: patches per side of a block.
        window: blocks per side of a window; 0 without windows.
    """
    row, column = (a.ravel() for a in np.indices(grid))
    block, across = row // merge, column // merge
    keys = [column, row, across, block]
    if window:
        keys += [across // window, block // window]
    return np.lexsort(keys).astype(np.int64)
