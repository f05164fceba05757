"""The functions that LRP has a rule for, by name, and how each becomes a node."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from probe.explainers._lrp.attention import multi_head_attention, scaled_dot_product_attention, softmax
from probe.explainers._lrp.engine import Engine, Handler, copies
from probe.explainers._lrp.nodes import AveragePool, Bilinear, Layer, Unpool, node
from probe.explainers._lrp.norms import batch_norm, group_norm, instance_norm, layer_norm
from probe.explainers._lrp.structure import carries

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Func = Callable[..., Any]

CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def bound(names: tuple[str, ...], args: Args, kwargs: Kwargs) -> Kwargs:
    """Arguments by name."""
    return dict(zip(names, args, strict=False)) | kwargs


def convolution(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Convolutions of one to three dimensions, transposed ones, grouped and depthwise ones."""
    transposed = "transpose" in name
    given = bound(TRANSPOSED if transposed else CONVOLUTION, args, kwargs)
    x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    _check_weights(engine, name, x, weight, bias)
    channel = None if transposed and given.get("groups", 1) != 1 else int(transposed)
    layer = _layer(
        engine, x, lambda v, w: func(v, w, None, **given), weight,
        None if bias is None else bias.detach().view(-1, *[1] * (weight.ndim - 2)), "convolution", channel,
    )  # fmt: skip
    return engine.affine(x, lambda v: func(v, weight, bias, **given), layer)


def linear(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Dense layers."""
    given = bound(("input", "weight", "bias"), args, kwargs)
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    _check_weights(engine, name, x, weight, bias)
    layer = _layer(engine, x, lambda v, w: func(v, w), weight, bias, "dense", 0)
    return engine.affine(x, lambda v: func(v, weight, bias), layer)


def addmm(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Bias + x · weight: the dense layer of GPT-2."""
    bias, x, weight = args
    if kwargs or not carries(x):
        raise engine.refuse(name)
    _check_weights(engine, name, x, weight, bias)
    return engine.affine(
        x, lambda v: func(bias, v, weight), _layer(engine, x, torch.matmul, weight, bias, "dense", None)
    )


def matmul(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """A product with a constant matrix on the right is a dense layer, on the left a mixture; of two, half for each."""
    del func
    a, b = args if not kwargs else bound(("input", "other"), args, kwargs).values()
    if name == "rmatmul":
        a, b = b, a
    if carries(a) and carries(b):
        return _bilinear(engine, torch.matmul, a, b)
    if carries(a):
        layer = _layer(engine, a, torch.matmul, b, None, "dense", None)
        return engine.affine(a, lambda v: torch.matmul(v, b), layer)
    return engine.proportional(lambda v: torch.matmul(a.detach(), v), b)


def einsum(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Products of one or two tensors in Einstein's notation."""
    equation, *operands = pytree.tree_leaves(args)
    if not isinstance(equation, str) or len(operands) > 2:
        raise engine.refuse(name)
    if len(operands) == 2 and all(map(carries, operands)):
        return _bilinear(engine, lambda a, b: func(equation, a, b), *operands)
    return linear_in_carriers(engine, name, func, args, kwargs)


def add(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Sums and differences: by what each summand contributes; constants take their own share."""
    del name
    like = next(value for value in args if carries(value))
    args = tuple(v if carries(v) else engine.constant(v, like) for v in args[:2]) + args[2:]
    return engine.proportional(lambda *xs: func(*xs, *args[2:], **kwargs), *args[:2])


def linear_in_carriers(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Functions that are linear in the tensors that carry relevance: means, pooling, interpolation, scaling."""
    del name
    flat, spec = pytree.tree_flatten((args, kwargs))
    places = [place for place, value in enumerate(flat) if carries(value)]
    xs = [flat[place] for place in places]
    kept = [
        v.detach() if isinstance(v, Tensor) and place not in places else v for place, v in enumerate(flat)
    ]

    def op(*values: Tensor) -> Any:
        filled = list(kept)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        new_args, new_kwargs = pytree.tree_unflatten(filled, spec)
        return func(*new_args, **new_kwargs)

    del flat
    for place in places:
        kept[place] = None
    return engine.proportional(op, *xs)


def multiply(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """Times or over a constant: relevance stays. Two that carry it: half for each. In a normalisation: a constant."""
    a, b = bound(("input", "other"), args, {k: v for k, v in kwargs.items() if k == "other"}).values()
    if carries(a) and carries(b):
        if name == "mul":
            return statistic(args) if _in_norm(engine) and a is b else _bilinear(engine, torch.mul, a, b)
        raise engine.refuse("a quotient of two values that depend on the input")
    if name == "div" and not carries(a):
        raise engine.refuse("a division by a value that depends on the input")
    x = a if carries(a) else b
    other = b if carries(a) else a
    if isinstance(other, Tensor) and torch.broadcast_shapes(x.shape, other.shape) != x.shape:
        return linear_in_carriers(engine, name, func, args, kwargs)
    return engine.through(x, lambda v: func(*(v if value is x else value for value in args), **kwargs))


def elementwise(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Activations with f(0) = 0: relevance stays."""
    del name
    x, *rest = args if args else (kwargs.pop("input"),)
    return engine.through(x, lambda v: func(v, *rest, **kwargs))


def power(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """Powers: part of the statistic in a normalisation, else an activation."""
    if _in_norm(engine):
        return statistic(args, func, kwargs)
    return elementwise(engine, name, func, args, kwargs)


def spread(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """Variance and the like: a constant where a normalisation computes it (AttnLRP)."""
    if not _in_norm(engine):
        raise engine.refuse(name)
    return statistic(args, func, kwargs)


def squash(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """tanh, erf: an activation; in an activation written out in Python (GELU) the factor of its argument."""
    if "GELU" in engine.module()[1]:
        return statistic(args, func, kwargs)
    if name != "tanh":
        raise engine.refuse(name)
    return elementwise(engine, name, func, args, kwargs)


def gate(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """sigmoid: a gate, which takes no relevance from the signal that it weights (Arras et al. 2017, arXiv 1706.07206)."""
    del engine, name
    return statistic(args, func, kwargs)


def statistic(args: Args, func: Func = torch.mul, kwargs: Kwargs | None = None) -> Any:
    """The value as a constant: it scales the signal and takes no relevance."""
    with torch.no_grad():
        return func(*args, **(kwargs or {}))


def masked_fill(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Filled places belong to the constant."""
    del name, func
    given = bound(("input", "mask", "value"), args, kwargs)
    x = given["input"]
    value = given["value"] if carries(given["value"]) else engine.constant(given["value"], x)
    return torch.where(given["mask"], value.to(x.dtype), x)


def pad(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Tensor:
    """Padding: what falls on padded places is the constant's; reflection and repetition copy."""
    given = bound(("input", "pad", "mode", "value"), args, kwargs)
    x, value = given["input"], given.get("value") or 0.0
    if given.get("mode", "constant") != "constant":
        copied: Tensor = copies(engine, name, func, args, kwargs)
        return copied
    inside = F.pad(torch.ones_like(x, dtype=torch.bool), given["pad"], value=False)
    return torch.where(inside, F.pad(x, given["pad"]), engine.constant(value, x))


def max_pool(engine: Engine, name: str, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """Max pooling, by the composite's choice."""
    choice = engine.composite.pooling
    given = bound(
        ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"), args, kwargs
    )
    if choice == "winner" or given.get("return_indices"):
        return copies(engine, name, func, args, kwargs)
    x = given.pop("input")
    given.pop("return_indices", None)
    size = name[len("max_pool") :][:2]
    if choice == "unpool":
        pool = getattr(F, f"max_pool{size}")
        return node(Unpool, x, engine.taken, lambda v: pool(v, **given, return_indices=True))
    if given.pop("dilation", 1) not in (1, (1, 1)):
        raise engine.refuse("dilated max pooling by averages", 'choose pooling="winner"')
    mean = getattr(F, f"avg_pool{size}")
    return node(
        AveragePool,
        x,
        engine.taken,
        engine.composite.stabiliser,
        lambda v: func(v, **given),
        lambda v: mean(v, **given),
    )


def _check_weights(engine: Engine, name: str, x: Any, weight: Any, bias: Any) -> None:
    if not carries(x) or carries(weight) or carries(bias):
        raise engine.refuse(f"{name} with weights that depend on the input")


def _layer(
    engine: Engine, x: Tensor, op: Callable[[Tensor, Tensor], Tensor], weight: Tensor, bias: Tensor | None, kind: Any,
    channel: int | None,
) -> Layer:  # fmt: skip
    name = engine.module()[0]
    bias = None if bias is None else bias.detach()
    return Layer(op, weight.detach(), bias, kind, name, len(engine.layers), channel, engine.reads_input(x))


def _bilinear(engine: Engine, op: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    return node(Bilinear, op, engine.taken, engine.composite.stabiliser, a, b)


def _in_norm(engine: Engine) -> bool:
    return "norm" in engine.module()[1].lower()


_BY_HANDLER: dict[Handler, str] = {
    convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    linear: "linear",
    addmm: "addmm",
    matmul: "matmul rmatmul",
    einsum: "einsum",
    add: "add sub rsub",
    multiply: "mul div",
    linear_in_carriers: "mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d interpolate upsample fold",
    elementwise: "relu relu6 hardtanh clamp leaky_relu prelu elu selu celu gelu silu mish hardswish softsign tanhshrink "
    "hardshrink softshrink neg abs rms_norm normalize local_response_norm",
    power: "pow square",
    spread: "var std var_mean std_mean rsqrt sqrt norm vector_norm",
    squash: "tanh erf",
    gate: "sigmoid hardsigmoid",
    masked_fill: "masked_fill",
    pad: "pad",
    max_pool: "max_pool1d max_pool2d max_pool3d",
    softmax: "softmax",
    scaled_dot_product_attention: "scaled_dot_product_attention",
    multi_head_attention: "multi_head_attention_forward",
    batch_norm: "batch_norm",
    layer_norm: "layer_norm",
    group_norm: "group_norm",
    instance_norm: "instance_norm",
}
HANDLERS: dict[str, Handler] = {
    name: handler for handler, names in _BY_HANDLER.items() for name in names.split()
}
