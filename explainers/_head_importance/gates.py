"""Gates on the heads' outputs: the derivative of the score by each, and the score without some heads."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from probe.errors import ModelError
from probe.explainers._saliency.subject import Subject, open_subject

if TYPE_CHECKING:
    from probe.models.load import LoadedModel

# the layer that joins the heads' outputs, as the families of transformers name it
_JOIN = re.compile(
    r"(?:attn|attention|self_attn|self_attention|self)\.(?:output\.dense|o_proj|out_proj|out_lin|c_proj|dense)$"
)
_SIZES = ("num_attention_heads", "n_head", "n_heads")


def importance_of(
    model: "LoadedModel",
    text: str,
    target: str | None,
    ablate: float,
    n_random: int,
    seed: int,
    max_tokens: int,
) -> xr.Dataset:
    """The result of `head_importance`; the arguments are its own."""
    with torch.inference_mode(False), torch.enable_grad():
        subject = open_subject(model, text, target, max_tokens, 1)
        joins, heads = _joins(subject.model)
        gates = torch.ones(len(joins), heads, device=subject.embeddings.device, requires_grad=True)
        with _gated(joins, gates):
            score = subject.score(subject.embeddings)[0]
            (gradient,) = torch.autograd.grad(score, gates)
    importance = gradient.double().cpu().numpy()
    result = xr.Dataset(
        {"importance": (("layer", "head"), importance)},
        coords={"layer": np.arange(len(joins)), "head": np.arange(heads)},
    )
    result.attrs = {
        "unit": "nat",
        "value": "importance",
        "model": str(model.name),
        "input": text,
        "target": subject.target.name,
        "score_explained": subject.target.score_explained,
        "score_value": float(score.detach()),
    }
    result.attrs |= _tested(subject, joins, importance, ablate, n_random, seed)
    return result


def _joins(model: nn.Module) -> tuple[list[nn.Module], int]:
    """The layers that join heads, in the order of the model, and the number of heads."""
    config = getattr(model, "config", None)
    heads = next((getattr(config, name) for name in _SIZES if getattr(config, name, None)), None)
    found = [
        module for name, module in model.named_modules() if _JOIN.search(name) and hasattr(module, "weight")
    ]
    if heads is None or not found:
        raise ModelError(
            f"{type(model).__name__}: no layer is known that joins attention heads; head_importance works where one is "
            "named o_proj, out_proj, c_proj, out_lin or output.dense and the configuration gives the number of heads"
        )
    return found, int(heads)


@contextmanager
def _gated(joins: list[nn.Module], gates: Tensor) -> Iterator[None]:
    """While this lasts, the heads' outputs are multiplied by gates [layers, heads]; the hooks are taken away after."""

    def hook(layer: int) -> Any:
        def multiply(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            joined, heads = args[0], gates.shape[1]
            if joined.shape[-1] % heads:
                raise ModelError(
                    f"{type(module).__name__} takes {joined.shape[-1]} numbers, no multiple of {heads} heads"
                )
            parts = joined.unflatten(-1, (heads, -1)) * gates[layer].to(joined.dtype)[:, None]
            return (parts.flatten(-2), *args[1:])

        return multiply

    with ExitStack() as stack:
        for layer, module in enumerate(joins):
            stack.callback(module.register_forward_pre_hook(hook(layer)).remove)
        yield


def _tested(
    subject: Subject,
    joins: list[nn.Module],
    importance: NDArray[np.float64],
    share: float,
    n_random: int,
    seed: int,
) -> dict[str, float | int]:
    count = max(1, round(share * importance.size))
    draw = np.random.default_rng(seed)
    sets = [np.argsort(-np.abs(importance), axis=None, kind="stable")[:count]]
    sets += [draw.permutation(importance.size)[:count] for _ in range(n_random)]
    with torch.no_grad():
        whole = float(subject.score(subject.embeddings)[0])
        changes = []
        for removed in sets:
            gates = torch.ones(importance.size, device=subject.embeddings.device)
            gates[torch.as_tensor(removed, device=gates.device)] = 0
            with _gated(joins, gates.view(importance.shape)):
                changes.append(abs(whole - float(subject.score(subject.embeddings)[0])))
    own, random = changes[0], np.array(changes[1:])
    return {
        "heads_removed": count,
        "change_important": own,
        "change_random": float(random.mean()),
        "change_random_sd": float(random.std()),
        "random_larger": int((random > own).sum()),
        "n_random": n_random,
    }
