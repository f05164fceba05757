"""Which tower of the record a module's attention belongs to, and what stands along its two sides.

A tower follows from where the module lives: in the vision or audio part, in the encoder or decoder, between the two. The
names are those of the record: text, vision, audio, encoder, decoder, cross.
"""

from dataclasses import dataclass
from typing import Any

import torch

#: Parts of module names that say which modality a tower reads.
_VISION = frozenset({"vision", "visual", "image", "img", "vit", "pixel"})
_AUDIO = frozenset({"audio", "speech", "sound"})
#: Module names of attention from one sequence to another.
_CROSS = frozenset(
    {"crossattention", "cross_attention", "cross_attn", "encoder_attn", "encdecattention", "multihead_attn"}
)
#: What a model's main input is, and the positions that it makes.
_MAIN = {"pixel_values": ("vision", "patches"), "pixel_values_videos": ("vision", "patches")}
_MAIN |= {"input_features": ("audio", "frames"), "input_values": ("audio", "frames")}


@dataclass(frozen=True)
class Stream:
    """A tower of the record.

    Attributes:
        name: of the tower.
        queries: group of positions that its queries are.
        keys: group of positions that its keys are.
    """

    name: str
    queries: str
    keys: str

    @property
    def cross(self) -> bool:
        """Whether queries and keys are different sequences."""
        return self.queries != self.keys


def stream_of(model: torch.nn.Module, name: str, module: torch.nn.Module) -> Stream:
    """The tower of one attention module.

    Args:
        model: the model that was given.
        name: the module's name in it.
        module: the attention module.
    """
    main, positions = _main(model)
    parts = name.lower().split(".")
    if _is_cross(parts, module):
        return Stream("cross", "tokens", _source(model, positions))
    if _has_encoder(model):
        if "decoder" in parts:
            return Stream("decoder", "tokens", "tokens")
        if "encoder" in parts:
            source = _source(model, positions)
            return Stream("encoder", source, source)
    if main == "text":
        if _speaks_of(parts, _VISION):
            return Stream("vision", "patches", "patches")
        if _speaks_of(parts, _AUDIO):
            return Stream("audio", "frames", "frames")
    return Stream(main, positions, positions)


def main_stream(model: torch.nn.Module) -> Stream:
    """The tower that a model's own text (or picture, or sound) runs through."""
    if _has_encoder(model):
        return Stream("decoder", "tokens", "tokens")
    name, positions = _main(model)
    return Stream(name, positions, positions)


def source_of(model: torch.nn.Module) -> str:
    """The group of positions that `input_ids` fill: "source" where an encoder reads them, else "tokens"."""
    return "source" if _has_encoder(model) else "tokens"


def _main(model: torch.nn.Module) -> tuple[str, str]:
    return _MAIN.get(str(getattr(model, "main_input_name", "input_ids")), ("text", "tokens"))


def _source(model: torch.nn.Module, positions: str) -> str:
    """What an encoder's positions are, or what stands at the keys of cross-attention."""
    if positions != "tokens":
        return positions
    config: Any = getattr(model, "config", None)
    return (
        "patches"
        if not _has_encoder(model) and getattr(config, "vision_config", None) is not None
        else "source"
    )


def _has_encoder(model: torch.nn.Module) -> bool:
    if bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False)):
        return True
    return any(isinstance(module, torch.nn.Transformer) for module in model.modules())


def _is_cross(parts: list[str], module: torch.nn.Module) -> bool:
    own = getattr(module, "is_cross_attention", None)
    if isinstance(own, bool):
        return own
    return any(part in _CROSS for part in parts) or "crossattention" in type(module).__name__.lower()


def _speaks_of(parts: list[str], words: frozenset[str]) -> bool:
    return any(word in words for part in parts for word in part.split("_"))
