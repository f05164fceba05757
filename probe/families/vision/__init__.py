"""Where positions of vision towers and image tokens of texts lie in the original pictures, exactly.

Everything that an image processor and a model do to a picture on its way (resize, crop, pad, tiles, frames, order, merging)
is undone from the processor's settings, the model's configuration and the sizes of the pictures; where the inputs state
sizes or grids themselves, they must agree. What is not known exactly is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from probe.errors import InputError, ModelError
from probe.families.vision import anyres, fixed, idefics, qwen, whisper
from probe.families.vision._paint import paint

__all__ = ["FAMILIES", "TEXTS", "image_tokens", "paint", "patches"]

#: Families whose vision (or audio) tower is known, by config.model_type.
FAMILIES: dict[str, Callable[..., xr.Dataset]] = {
    "vit": fixed.patches,
    "deit": fixed.patches,
    "dinov2": fixed.patches,
    "dinov2_with_registers": fixed.patches,
    "clip": fixed.patches,
    "clip_vision_model": fixed.patches,
    "siglip": fixed.patches,
    "siglip_vision_model": fixed.patches,
    "llava": fixed.patches,
    "paligemma": fixed.patches,
    "llava_next": anyres.patches,
    "idefics3": idefics.patches,
    "smolvlm": idefics.patches,
    "qwen2_vl": qwen.patches,
    "qwen2_5_vl": qwen.patches,
    "qwen3_vl": qwen.patches,
    "whisper": whisper.patches,
}
#: Those of them whose text holds image tokens.
TEXTS: dict[str, Callable[..., xr.Dataset]] = {
    "llava": fixed.tokens,
    "paligemma": fixed.tokens,
    "llava_next": anyres.tokens,
    "idefics3": idefics.tokens,
    "smolvlm": idefics.tokens,
    "qwen2_vl": qwen.tokens,
    "qwen2_5_vl": qwen.tokens,
    "qwen3_vl": qwen.tokens,
}


def patches(
    model_config: Any, inputs: Mapping[str, Any], images: Sequence[Any], processor_settings: object
) -> xr.Dataset:
    """Where the positions of the vision tower lie, in the order in which its attention sees them.

    Args:
        model_config: the model's configuration.
        inputs: what the model is given: `pixel_values` and, by family, `image_grid_thw`, `image_sizes`, ….
        images: the original sizes in order of appearance, (height, width); a video of Qwen is (frames, height, width); for
            Whisper the number of samples of each recording.
        processor_settings: the processor, its image processor, or the `to_dict()` of either.

    Returns:
        A table over (sample, token). One sample is one square of the tower's batch; Qwen's tower has one packed sample for all
        pictures and, called a second time, one for all videos. Variables: image, frame, frame_end, tile, row, column (−1 where
        there is none), role ("cls", "distillation", "register", "patch", "pad"), the rectangle x0, y0, x1, y1 in pixels of the
        original (float64; where the processor padded it lies partly outside the picture) and inside, the share of it that is
        picture. Whisper: start_s, end_s, reach_start_s, reach_end_s in seconds instead.

    Raises:
        ModelError: a family, tower or processor that is not known exactly.
        InputError: sizes, settings and inputs that contradict one another.
    """
    return _family(model_config, images)(model_config, inputs, images, processor_settings)


def image_tokens(
    model_config: Any,
    input_ids: Any,
    inputs: Mapping[str, Any],
    images: Sequence[Any],
    processor_settings: object,
) -> xr.Dataset:
    """Which tokens of the text stand for a part of a picture, and where that part lies.

    Args:
        model_config: the model's configuration.
        input_ids: token ids with all placeholders in place, [B, N].
        inputs: as for `patches`.
        images: as for `patches`, over all prompts of the batch.
        processor_settings: as for `patches`.

    Returns:
        A table over (sample, token) with the variables of `patches`. role is "patch" for a token with a rectangle, "cls" for
        LLaVA's first token under the strategy "full", "newline" for the end of a row, "border" and "position" around squares of
        Idefics3 and SmolVLM, "vision_start" and "vision_end" of Qwen, and "" for all other tokens. tile, row and column are
        those of the tower's square; where the model merges patches, they count merged blocks.

    Raises:
        ModelError: as for `patches`, or a family whose text holds no image tokens.
        InputError: as for `patches`, or placeholders that do not fit the pictures.
    """
    _family(model_config, images)
    kind = model_config.model_type
    if kind not in TEXTS:
        raise ModelError(f"{kind}: its text holds no image tokens; expected one of {', '.join(TEXTS)}")
    return TEXTS[kind](model_config, input_ids, inputs, images, processor_settings)


def _family(config: Any, images: Sequence[Any]) -> Callable[..., xr.Dataset]:
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise ModelError(
            f"{kind}: where its image tokens come from is not known; expected one of {', '.join(FAMILIES)}"
        )
    if isinstance(images, str) or not len(images):
        raise InputError("images: got no sizes, expected one per picture in order of appearance")
    return FAMILIES[kind]
