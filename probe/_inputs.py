"""From what the user gives to what a model's forward takes, and what is known of its positions."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probe import placement
from probe.errors import InputError
from probe.families.text import Prepared, describe, encode
from probe.taps.streams import source_of


def parts(model: Any) -> tuple[torch.nn.Module, Any | None]:
    """The module of what `probe.load` gave, and its processor; or a bare module.

    Raises:
        InputError: neither.
    """
    if isinstance(model, torch.nn.Module):
        return model, None
    inner = getattr(model, "model", None)
    if not isinstance(inner, torch.nn.Module):
        raise InputError(
            f"model: got {type(model).__name__}, expected what probe.load gives, or a torch.nn.Module"
        )
    return inner, getattr(model, "processor", None)


def tokenizer_of(processor: Any | None) -> Any | None:
    """What reads ids: the tokenizer that a processor of pictures or sounds and text holds, or what is one itself."""
    return getattr(processor, "tokenizer", processor)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module wants its inputs."""
    return placement.input_device(module)


def prepare(inputs: Any, module: torch.nn.Module, processor: Any | None, device: torch.device) -> Prepared:
    """Texts become ids (padded on the tokenizer's own side); keyword arguments stay what they are; a tensor is the first one.

    Raises:
        InputError: an empty or unknown input, ids that the model does not know, texts without a tokenizer.
    """
    group, tokenizer = source_of(module), tokenizer_of(processor)
    if isinstance(inputs, Tensor):
        inputs = {next(iter(inspect.signature(module.forward).parameters)): inputs}
    if isinstance(inputs, Mapping):
        moved = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in inputs.items()}
        if _is_textless(moved, module):
            return Prepared(moved, {}, None, group)
        prepared = describe(moved, tokenizer, group)
        _check_ids(prepared, module)
        return prepared
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, Sequence) or not texts:
        raise InputError(
            f"inputs: got {type(inputs).__name__} (empty or unknown), expected texts or prepared inputs"
        )
    if tokenizer is None:
        raise InputError(
            "inputs: texts need a tokenizer; give what probe.load returns, or prepared inputs (input_ids)"
        )
    if group == "source":
        raise InputError(
            f"inputs: {type(module).__name__} reads one text and writes another; give input_ids and decoder_input_ids"
        )
    prepared = encode(texts, tokenizer, _limit(module, tokenizer), device, group)
    _check_ids(prepared, module)
    padded_left = not bool(prepared.valid[:, 0].all())
    if padded_left and accepts(module, "position_ids") and _generates(module):
        # As `generate` does: learned positions count from the first token, not from the padding.
        positions = prepared.inputs["attention_mask"].cumsum(-1) - 1
        prepared.inputs["position_ids"] = positions.clamp(min=0)
    return prepared


def _is_textless(inputs: Mapping[str, Any], module: torch.nn.Module) -> bool:
    """Whether a model of pictures or sounds, or one that is not of transformers, got its own input, and no text."""
    texts = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
    if any(name in inputs for name in texts):
        return False
    main = getattr(module, "main_input_name", None)
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.numel()]
    return bool(tensors) if main is None else main != "input_ids" and main in inputs


def _check_ids(prepared: Prepared, module: Any) -> None:
    ids = prepared.inputs.get("input_ids")
    try:
        embed = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    except NotImplementedError:  # CLIP and others with a table of embeddings in each tower
        return
    known = getattr(embed, "num_embeddings", None)
    if isinstance(ids, Tensor) and known is not None and (int(ids.min()) < 0 or int(ids.max()) >= known):
        raise InputError(
            f"input_ids: got ids from {int(ids.min())} to {int(ids.max())}, expected 0 to {known - 1}; "
            "is this the model's own tokenizer?"
        )


def _limit(module: Any, tokenizer: Any) -> int | None:
    config: Any = getattr(module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    limits = [int(n) for n in found if isinstance(n, int) and 0 < n < 1 << 40]
    return min(limits, default=None)


def accepts(module: torch.nn.Module, argument: str) -> bool:
    """Whether a module's forward has an argument of that name."""
    return argument in inspect.signature(module.forward).parameters


def run(module: torch.nn.Module, inputs: Mapping[str, Any]) -> None:
    """One forward pass; a TransformerLens bridge calls the ids its `input`."""
    given = dict(inputs)
    if "input_ids" in given and not accepts(module, "input_ids") and accepts(module, "input"):
        given["input"] = given.pop("input_ids")
    module(**extras(module, given), **given)


def _generates(module: Any) -> bool:
    return bool(module.can_generate()) if hasattr(module, "can_generate") else False


def extras(module: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """No cache, and the logits of one position only, where the model can; neither touches attention."""
    asked = {"use_cache": False} | (
        {} if "labels" in inputs else {"logits_to_keep": 1}
    )  # a loss needs all logits
    return {name: value for name, value in asked.items() if name not in inputs and accepts(module, name)}
