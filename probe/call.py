"""One call of attention inside a model, as a tap hands it on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.score import ScoreSpec


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one layer computed attention from, and what its own backend made of it. Lives for one call.

    Attributes:
        name: the module's name in the model.
        module: the module itself.
        layer: number of the layer in the record.
        q: queries as the backend got them (rotated, normalised), [B, H, Nq, D].
        k: keys, not repeated for grouped heads, [B, Hkv, Nk, D].
        v: values, [B, Hkv, Nk, Dv].
        output: the backend's own result, [B, Nq, H, Dv].
        spec: the rules, derived from the arguments and proven against the mask.
        mask: the mask as the backend got it.
        arguments: every other argument, by name.
        backend: "eager", "sdpa", "flash", "flex" or the name of a function of the user's own.
        eager: the model's own eager function, for the parity check.
        stream: the tower of the record that the call belongs to ("text", "vision", "cross", …).
        queries: the group of positions that the queries are ("tokens", "patches", …).
        keys: the group of positions that the keys are.
        lengths: of the consecutive pieces that the backend attended to one by one (windows or images of a vision
            tower), queries and keys alike; None if it took all at once.
        step: number of the forward pass, counted while the tap is open.
    """

    name: str
    module: torch.nn.Module
    layer: int
    q: Float[Tensor, "B H Nq D"]
    k: Float[Tensor, "B Hkv Nk D"]
    v: Float[Tensor, "B Hkv Nk Dv"]
    output: Float[Tensor, "B Nq H Dv"]
    spec: ScoreSpec
    mask: Any
    arguments: Mapping[str, Any]
    backend: str
    eager: Callable[..., tuple[Tensor, Tensor | None]]
    stream: str = "text"
    queries: str = "tokens"
    keys: str = "tokens"
    lengths: tuple[int, ...] | None = None
    step: int = 0


@dataclass(frozen=True, eq=False)
class MapCall:
    """One layer's attention as the model itself wrote it out: the slow route, where q and k cannot be had.

    Attributes:
        name: the module's name in the model.
        module: the module itself.
        layer: number of the layer in the record.
        weights: the attention map, [B, H, Nq, Nk].
        query_valid: False where a query is padding, [B, Nq]; None without padding.
        key_valid: False where a key is padding, [B, Nk]; None without padding.
        source: how the weights were got, in words.
        stream: the tower of the record that the call belongs to.
        queries: the group of positions that the queries are.
        keys: the group of positions that the keys are.
        step: number of the forward pass, counted while the tap is open.
    """

    name: str
    module: torch.nn.Module
    layer: int
    weights: Float[Tensor, "B H Nq Nk"]
    query_valid: Bool[Tensor, "B Nq"] | None
    key_valid: Bool[Tensor, "B Nk"] | None
    source: str
    stream: str = "text"
    queries: str = "tokens"
    keys: str = "tokens"
    step: int = 0
