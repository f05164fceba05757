"""Normalisations: statistics are constants, what remains is linear (AttnLRP; BatchNorm is merged)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.explainers._lrp.engine import Engine
from probe.explainers._lrp.nodes import Affine, Layer


def batch_norm(
    engine: Engine, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Tensor:
    """A BatchNorm in evaluation: y = x · s + t with s = w / √(var + eps), t = b − mean · s.

    After a layer with weights it becomes part of that layer (weights · s, bias · s + t); elsewhere it is a layer of
    its own. The output is computed from the merged weights: relevance is divided by the same bits that it was
    multiplied with (otherwise float32 lost two digits where outputs are near 0).
    """
    del name, func
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x, mean, variance = given["input"], given["running_mean"], given["running_var"]
    if given.get("training") or mean is None or variance is None:
        raise engine.refuse(
            "BatchNorm with the statistics of the batch", "call model.eval(), or track statistics"
        )
    with torch.no_grad():
        scale = (variance + given.get("eps", 1e-5)).rsqrt()
        scale = scale if given.get("weight") is None else scale * given["weight"]
        shift = -mean * scale if given.get("bias") is None else given["bias"] - mean * scale
        scale, shift = scale.detach(), shift.detach()
    before = x.grad_fn
    if engine.composite.merge and getattr(type(before), "_forward_cls", None) is Affine:
        layer: Layer = before.layer
        if layer.channel is not None and (layer.kind == "convolution") == (x.ndim > 2):
            merged = _merged(layer, scale, shift, x.ndim - 2)
            return engine.affine(before.saved_tensors[0], merged.output, merged)
    shape = (1, -1, *[1] * (x.ndim - 2))
    own = Layer(
        torch.mul, scale.view(shape), shift.view(shape), "scaling", engine.module()[0], len(engine.layers), None,
        engine.reads_input(x),
    )  # fmt: skip
    return engine.affine(x, own.output, own)


def layer_norm(
    engine: Engine, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Tensor:
    """LayerNorm: y = (x − mean x) · w / σ + b with σ a constant."""
    del name, func
    given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    dims = tuple(range(-len(given["normalized_shape"]), 0))
    with torch.no_grad():
        scale = (x.var(dims, correction=0, keepdim=True) + given.get("eps", 1e-5)).rsqrt()
        scale = scale if weight is None else scale * weight
    return _centred(engine, x, dims, scale, bias)


def group_norm(
    engine: Engine, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Tensor:
    """GroupNorm [B, C, *]: LayerNorm over each group of channels."""
    del name, func
    given = dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, groups = given["input"], given["num_groups"]
    split = x.reshape(x.shape[0], groups, -1)
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    with torch.no_grad():
        scale = (split.var(-1, correction=0, keepdim=True) + given.get("eps", 1e-5)).rsqrt().expand_as(split)
        scale = scale.reshape(x.shape)
        scale = scale if given.get("weight") is None else scale * given["weight"].view(per_channel)
    bias = None if given.get("bias") is None else given["bias"].view(per_channel)

    def op(value: Tensor, *rest: Tensor) -> Tensor:
        parts = value.reshape(split.shape)
        return sum(rest, (parts - parts.mean(-1, keepdim=True)).reshape(x.shape) * scale)

    return engine.proportional(op, x, *([] if bias is None else [engine.constant(bias)]))


def instance_norm(
    engine: Engine, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Tensor:
    """InstanceNorm by the statistics of the picture: a GroupNorm with one channel in each group."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    if not given.get("use_input_stats", True):
        raise engine.refuse("InstanceNorm with running statistics")
    x = given["input"]
    known = {"weight": given.get("weight"), "bias": given.get("bias"), "eps": given.get("eps", 1e-5)}
    return group_norm(engine, name, func, (x, x.shape[1]), known)


def _centred(engine: Engine, x: Tensor, dims: tuple[int, ...], scale: Tensor, bias: Tensor | None) -> Tensor:
    def op(value: Tensor, *rest: Tensor) -> Tensor:
        return sum(rest, (value - value.mean(dims, keepdim=True)) * scale.detach())

    return engine.proportional(op, x, *([] if bias is None else [engine.constant(bias)]))


def _merged(layer: Layer, scale: Tensor, shift: Tensor, spatial: int) -> Layer:
    shape = [1] * layer.weight.ndim
    shape[layer.channel or 0] = -1
    bias = shift if layer.bias is None else shift + layer.bias.flatten() * scale
    return replace(layer, weight=layer.weight * scale.view(shape), bias=bias.view(-1, *[1] * max(spatial, 0)))
