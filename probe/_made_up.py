"""A tiny input for any transformers model, made up from its config."""

import inspect
from typing import Any

import torch
from torch import Tensor

from probe.errors import InputError
from probe.placement import input_device

_LENGTH = 8


def made_up(model: Any) -> dict[str, Any]:
    """Keyword arguments of its forward: a few ids, a picture of noise, or both sides of an encoder-decoder.

    Args:
        model: a transformers model.

    Raises:
        InputError: its config does not say what it takes.
    """
    config, main = getattr(model, "config", None), str(getattr(model, "main_input_name", ""))
    if config is None or main not in ("input_ids", "pixel_values", "input_features", "input_values"):
        raise InputError(
            f"{type(model).__name__}: what it takes cannot be told (main input {main or 'unknown'}); give inputs of your own"
        )
    place = input_device(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    given: dict[str, Any] = {}
    if main == "input_ids":
        given["input_ids"] = _ids(config, place)
        if "pixel_values" in inspect.signature(model.forward).parameters and not _has_image_tokens(config):
            given["pixel_values"] = _picture(config).to(place, dtype)  # two towers side by side, as in CLIP
    elif main == "pixel_values":
        given["pixel_values"] = _picture(config).to(place, dtype)
    elif main == "input_features":
        length = 2 * int(getattr(config, "max_source_positions", 50))
        given["input_features"] = torch.randn(1, int(getattr(config, "num_mel_bins", 80)), length).to(
            place, dtype
        )
    else:
        given["input_values"] = torch.randn(1, 4000).to(place, dtype)
    if getattr(config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = _ids(config, place)
    return given


def _ids(config: Any, place: torch.device) -> Tensor:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = int(getattr(text, "vocab_size", 0))
    if size < _LENGTH:
        raise InputError(f"{type(config).__name__}: has no vocab_size; give inputs of your own")
    special = {
        v
        for n, v in (*vars(config).items(), *vars(text).items())
        if n.endswith("token_id") and isinstance(v, int)
    }
    plain = [i for i in range(min(size, 100)) if i not in special]
    return torch.tensor([plain[:_LENGTH]], device=place)


def _has_image_tokens(config: Any) -> bool:
    return any(getattr(config, n, None) is not None for n in ("image_token_id", "image_token_index"))


def _picture(config: Any) -> Tensor:
    own = getattr(config, "vision_config", config)
    size = getattr(own, "image_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
    return torch.randn(1, int(getattr(own, "num_channels", 3)), int(height), int(width))
