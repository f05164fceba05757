"""The residual stream of a model, block by block, while it runs once."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import xarray as xr

from probe.errors import ModelError
from probe.explainers.layers import Layer, each_layer

if TYPE_CHECKING:
    from torch import Tensor

#: From hidden states [B, N, D], and which tokens are no padding [B, N], to anything small.
Look = Callable[["Tensor", "Tensor"], Any]


def residual_stream(
    model: Any, inputs: Any, tower: str, look: Look
) -> tuple[list[Any], list[str], xr.Dataset | None, "Tensor", dict[str, str]]:
    """Look at the residual stream before the first block and after each; the model is left as it was.

    A block is a numbered module around an attention module (`model.layers.3` around `model.layers.3.self_attn`), whose input
    and output are [B, N, D].

    Args:
        model: as `probe.capture` takes it.
        inputs: of the model.
        tower: whose blocks.
        look: called with hidden states of every candidate and the valid tokens; what it returns is kept.

    Returns:
        What `look` said of the input of the first block and of the output of each; the blocks' names; places of the
        tokens; which of them are no padding, [B, N]; attributes of the result.

    Raises:
        ModelError: no block around the attention.
        InputError: as `each_layer`.
    """
    import torch

    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    heard: list[Layer] = []

    def hook(name: str) -> Callable[..., None]:
        def look_at(_: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            entered = given[0] if given else named.get("hidden_states")
            left = output[0] if isinstance(output, tuple) else output
            if not heard or not isinstance(entered, torch.Tensor) or not isinstance(left, torch.Tensor):
                return  # a block is left after its attention has been heard
            valid = validity()
            if left.ndim == 3 and left.shape[:2] == valid.shape and entered.shape == left.shape:
                before[name], after[name] = look(entered.detach(), valid), look(left.detach(), valid)

        return look_at

    def hear(layer: Layer) -> None:
        from dataclasses import replace

        small = layer.q[:, :1, :, :1].clone()  # its lengths and rules are needed, its numbers are not
        heard.append(replace(layer, q=small, k=small, v=small, call=None))

    def validity() -> torch.Tensor:
        return torch.stack([heard[0].valid(s)[0] for s in range(len(heard[0].q))])

    module = model if isinstance(model, torch.nn.Module) else getattr(model, "model", None)
    with ExitStack() as hooks:
        if isinstance(module, torch.nn.Module):
            for name, part in module.named_modules():
                if re.search(r"(^|\.)\d+$", name):
                    handle = part.register_forward_hook(hook(name), with_kwargs=True)
                    hooks.callback(handle.remove)
        origin = each_layer(model, inputs, tower, hear)
    blocks = list(dict.fromkeys(name for layer in heard if (name := _block(layer.module, after)) is not None))
    if not blocks:
        raise ModelError(
            f"{type(module).__name__}: its attention ({heard[0].module}) stands in no numbered block with hidden states "
            "[batch, tokens, width], so there is no residual stream to follow"
        )
    seen = [before[blocks[0]], *(after[name] for name in blocks)]
    return seen, blocks, heard[0].queries, validity(), origin


def _block(name: str, known: dict[str, Any]) -> str | None:
    """The innermost numbered module around an attention module of which hidden states were seen."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].isdigit() and (found := ".".join(parts[:end])) in known:
            return found
    return None
