"""One picture, one square: ViT, DeiT, DINOv2, CLIP, SigLIP, and LLaVA 1.5 and PaliGemma on top of CLIP and SigLIP."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError, ModelError
from probe.families.vision._canvas import Canvas, Size, between_edges, shortest_edge
from probe.families.vision._settings import Settings, array, read, required, sizes, square
from probe.families.vision._table import Block, cells, dataset, join, marks, placed, take

_CROPPING = ("do_resize", "size", "do_center_crop")
KINDS = {
    "ViTImageProcessor": ("do_resize", "size"),
    "SiglipImageProcessor": ("do_resize", "size"),
    "DeiTImageProcessor": _CROPPING,
    "BitImageProcessor": _CROPPING,
    "CLIPImageProcessor": _CROPPING,
    "LlavaImageProcessor": (*_CROPPING, "do_pad"),
}
#: Positions before the patches, by the tower's model_type; "registers" stands for config.num_register_tokens of them.
LEADING: dict[str, tuple[str, ...]] = {
    "vit": ("cls",),
    "deit": ("cls", "distillation"),
    "dinov2": ("cls",),
    "dinov2_with_registers": ("cls", "registers"),
    "clip_vision_model": ("cls",),
    "siglip_vision_model": (),
}


def patches(config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object) -> xr.Dataset:
    """The positions of the tower: one sample per picture. See `probe.families.vision.patches`."""
    return dataset(_towers(config, inputs, images, settings))


def tokens(
    config: Any, ids: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object
) -> xr.Dataset:
    """The image tokens of LLaVA and PaliGemma. See `probe.families.vision.image_tokens`."""
    if inputs.get("image_sizes") is not None:
        raise ModelError(
            f"{config.model_type}: image_sizes splits its features in a way that is not supported"
        )
    towers = _towers(config, inputs, images, settings)
    if config.model_type == "llava":
        towers = [selected(config, inputs, block) for block in towers]
    return placed(array(ids), {config.image_token_id: join(towers)}, {}, len(images))


def selected(config: Any, inputs: Mapping[str, Any], block: Block) -> Block:
    """What LLaVA hands from the tower to the text: all positions, or all but the first.

    Raises:
        ModelError: another strategy.
    """
    strategy = inputs.get("vision_feature_select_strategy") or config.vision_feature_select_strategy
    if strategy not in ("default", "full"):
        raise ModelError(
            f"{config.model_type}: vision_feature_select_strategy {strategy!r}, expected default or full"
        )
    return block if strategy == "full" else take(block, np.arange(1, len(block["role"])))


def leading(config: Any, **numbers: int) -> list[Block]:
    """The positions before the patches of one picture.

    Raises:
        ModelError: the tower is of a family that is not known.
    """
    tower = config.model_type
    if tower not in LEADING:
        raise ModelError(f"vision tower {tower!r}: expected one of {', '.join(LEADING)}")
    return [
        marks("register", config.num_register_tokens, **numbers)
        if role == "registers"
        else marks(role, **numbers)
        for role in LEADING[tower]
    ]


def _towers(config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object) -> list[Block]:
    tower = getattr(config, "vision_config", config)
    patch = square(tower, "patch_size", config.model_type)
    shape = required(inputs, "pixel_values", 4).shape
    canvases = processed(sizes(images), read(settings, "image_processor", KINDS))
    if shape[0] != len(canvases):
        raise InputError(
            f"pixel_values: got {shape[0]} pictures, expected {len(canvases)}, one per size in images"
        )
    blocks = []
    for number, canvas in enumerate(canvases):
        if canvas.shape != tuple(shape[-2:]):
            raise InputError(
                f"pixel_values: got {list(shape[-2:])}, but a picture of {list(canvas.original)} comes out of this processor "
                f"as {list(canvas.shape)}; give the sizes and settings that belong to these inputs"
            )
        blocks.append(join([*leading(tower, image=number), cells(canvas.grid(patch), image=number)]))
    return blocks


def processed(images: Sequence[Size], settings: Settings) -> list[Canvas]:
    """What a processor that resizes, crops and pads makes of each picture.

    Raises:
        InputError: settings that contradict each other or do not say enough.
        ModelError: a setting that is not supported.
    """
    pads_square = settings.kind == "LlavaImageProcessor" and settings.flag("do_pad")
    canvases = []
    for size in images:
        canvas = Canvas.of(size)
        if pads_square:
            side = max(size)
            canvas = canvas.cut(-((side - size[0]) // 2), -((side - size[1]) // 2), (side, side))
        if settings.flag("do_resize"):
            canvas = canvas.resized(target(canvas.shape, settings))
        if settings.flag("do_center_crop"):
            canvas = cropped(canvas, settings)
        canvases.append(canvas)
    if not settings.flag("do_pad") or settings.kind == "LlavaImageProcessor":
        return canvases
    largest = (max(c.shape[0] for c in canvases), max(c.shape[1] for c in canvases))
    if settings.values.get("pad_size") is not None:
        sides = settings.sides("pad_size")
        largest = (sides.get("height", 0), sides.get("width", 0))
    if any(c.shape[axis] > largest[axis] for c in canvases for axis in (0, 1)):
        raise InputError(f"{settings.kind}: pad_size {list(largest)} is smaller than a picture")
    return [canvas.cut(0, 0, largest) for canvas in canvases]


def target(shape: Size, settings: Settings) -> Size:
    """Height and width that the processor resizes to.

    Raises:
        ModelError: a form of size that is not supported.
    """
    sides = settings.sides("size")
    if set(sides) == {"shortest_edge", "longest_edge"}:
        return between_edges(shape, sides["shortest_edge"], sides["longest_edge"])
    if set(sides) == {"shortest_edge"}:
        return shortest_edge(shape, sides["shortest_edge"])
    if set(sides) == {"height", "width"}:
        return sides["height"], sides["width"]
    raise ModelError(
        f"{settings.kind}: size {sides} is not supported; expected height and width, or shortest_edge"
    )


def cropped(canvas: Canvas, settings: Settings) -> Canvas:
    """The middle of a picture; where it is too small, the middle of a larger black one.

    Raises:
        InputError: an odd number of black rows or columns, and the settings do not tell on which side the one more is.
    """
    sides = settings.sides("crop_size")
    if set(sides) != {"height", "width"}:
        raise ModelError(f"{settings.kind}: crop_size {sides} is not supported; expected height and width")
    start = []
    for old, new in zip(canvas.shape, (sides["height"], sides["width"]), strict=True):
        missing = new - old
        if missing > 0 and missing % 2 and settings.backend not in ("pil", "torchvision"):
            raise InputError(
                f"{settings.kind}: a crop of {new} from {old} pixels pads one side by one more, PIL the first and torchvision "
                "the last; give the image processor itself instead of its settings"
            )
        more = missing % 2 if settings.backend == "pil" else 0
        start.append(-(missing // 2 + more) if missing > 0 else (old - new) // 2)
    return canvas.cut(start[0], start[1], (sides["height"], sides["width"]))
