"""The nodes of the relevance graph: autograd functions whose backward hands on relevance in place of gradients.

The tensor that autograd carries backwards *is* the relevance R of the tensor that it arrives at; where a tensor is
used twice, autograd adds up what comes back, as relevance asks for. Whatever a node does not hand on to its inputs
it puts into `taken`, a leaf of the same graph, so that one backward pass gives the map and the account:
taken = [biases and constants, stabilisers, softmax, pooling].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from probe.explainers._lrp.rules import Pass as PassRule
from probe.explainers._lrp.rules import Rule

BIASES, STABILISERS, SOFTMAX, POOLING = range(4)
Function = torch.autograd.Function


@dataclass(eq=False)
class Layer:
    """A layer with weights, as it ran: output = op(x, weight) + bias. `rule` is set before relevance flows."""

    op: Callable[[Tensor, Tensor], Tensor]  # linear in both
    weight: Tensor
    bias: Tensor | None  # broadcasts to the output
    kind: Literal["convolution", "dense", "scaling"]
    name: str
    index: int  # in the order of running
    channel: int | None  # dimension of the weight that counts outputs; None: no BatchNorm can be merged
    reads_input: bool
    same_shape: bool = False
    rule: Rule | None = None

    def output(self, x: Tensor) -> Tensor:
        """The layer's output."""
        z = self.op(x, self.weight)
        return z if self.bias is None else z + self.bias


class Affine(Function):
    """A layer with weights, by its rule."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, taken: Tensor, layer: Layer, value: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`value(x)`, the layer's output as the model itself computes it."""
        ctx.save_for_backward(x, taken)
        ctx.layer = layer
        output = value(x)
        layer.same_shape = output.shape == x.shape
        return output

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """Share out the output's relevance by `layer.rule`."""
        x, taken = ctx.saved_tensors
        found, biases, stabilisers = distribute(ctx.layer, x, relevance)
        return found, account(taken, {BIASES: biases, STABILISERS: stabilisers}), None, None


def distribute(layer: Layer, x: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of a layer's input, and what its bias and its stabiliser take.

    Args:
        layer: with its rule set.
        x: its input.
        relevance: of its output.
    """
    found, zero = torch.zeros_like(x), relevance.new_zeros((), dtype=torch.float64)
    rule, biases, stabilisers = layer.rule, zero, zero
    if rule is None or isinstance(rule, PassRule):
        return relevance, zero, zero
    for branch in rule.branches(x, layer.weight, layer.bias, lambda: layer.output(x)):
        terms = [(leaf_of(value), weight) for value, weight in branch.terms if bool(value.any())]
        with torch.enable_grad():
            z = sum((layer.op(value, weight) for value, weight in terms), torch.zeros_like(relevance))
        total = z.detach() if branch.bias is None else z.detach() + branch.bias
        owed = relevance * branch.share
        s = quotient(owed, total, rule.stabiliser, getattr(rule, "signed", True))
        if terms:
            pulled = torch.autograd.grad(z, [value for value, _ in terms], s)
            found = sum((value.detach() * g for (value, _), g in zip(terms, pulled, strict=True)), found)
        stabilisers = stabilisers + total_of(owed - s * total)
        if branch.bias is not None:
            kept = s * branch.bias
            found, kept = (found + evenly(layer, x, kept), kept[:0]) if branch.spread else (found, kept)
            biases = biases + total_of(kept)
    return found, biases, stabilisers


def evenly(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of a layer's outputs, evenly over the inputs that each is connected to."""
    ones = leaf_of(torch.ones_like(x))
    with torch.enable_grad():
        count = layer.op(ones, torch.ones_like(layer.weight))
    return torch.autograd.grad(count, ones, relevance / count.detach())[0]


class Proportional(Function):
    """Any function that is linear in all its inputs together (sums, means, pooling): R_k = x_k · ∂z/∂x_k · R / (z ± ε)."""

    @staticmethod
    def forward(ctx: Any, op: Callable[..., Tensor], taken: Tensor, epsilon: float, *xs: Tensor) -> Tensor:
        """`op(*xs)`."""
        ctx.save_for_backward(taken, *xs)
        ctx.op, ctx.epsilon = op, epsilon
        return op(*xs)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """The ε-split."""
        taken, *xs = ctx.saved_tensors
        split, z, s = shares(ctx.op, xs, relevance, ctx.epsilon)
        return None, account(taken, {STABILISERS: total_of(relevance - product(z, s))}), None, *split


class Bilinear(Function):
    """A product of two tensors that both carry relevance (element by element, or of matrices): half for each.

    Achtibat et al., AttnLRP, ICML 2024 (arXiv 2402.05602).
    """

    @staticmethod
    def forward(
        ctx: Any, op: Callable[..., Tensor], taken: Tensor, epsilon: float, a: Tensor, b: Tensor
    ) -> Tensor:
        """`op(a, b)`."""
        ctx.save_for_backward(taken, a, b)
        ctx.op, ctx.epsilon = op, epsilon
        return op(a, b)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """Half of the ε-split, which is whole for each factor."""
        taken, *xs = ctx.saved_tensors
        (of_a, of_b), z, s = shares(ctx.op, xs, relevance, ctx.epsilon)
        return (
            None,
            account(taken, {STABILISERS: total_of(relevance - product(z, s))}),
            None,
            of_a / 2,
            of_b / 2,
        )


class Through(Function):
    """Element by element, f(0) = 0, or times a constant: R stays where it is (AttnLRP)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: list[Tensor]) -> Tensor:
        """What x has become; in a list, as a tensor handed in would come out as a view."""
        del ctx, x
        return value.pop()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """The same relevance."""
        del ctx
        return relevance, None


class Constant(Function):
    """A constant of the model (position embedding, class token, padding) where it enters: it keeps what it gets."""

    @staticmethod
    def forward(ctx: Any, taken: Tensor, value: Tensor) -> Tensor:
        """A copy of the constant."""
        ctx.save_for_backward(taken)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """All of it to the account."""
        (taken,) = ctx.saved_tensors
        return account(taken, {BIASES: total_of(relevance)}), None


class AveragePool(Function):
    """Max pooling in whose windows relevance goes by the values: the ε-split of the average pooling in its place."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        taken: Tensor,
        epsilon: float,
        pool: Callable[[Tensor], Tensor],
        mean: Callable[..., Tensor],
    ) -> Tensor:
        """`pool(x)`."""
        ctx.save_for_backward(x, taken)
        ctx.mean, ctx.epsilon = mean, epsilon
        return pool(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """By the values of the window."""
        x, taken = ctx.saved_tensors
        (share,), z, s = shares(ctx.mean, [x], relevance, ctx.epsilon)
        return share, account(taken, {STABILISERS: total_of(relevance - product(z, s))}), None, None, None


class Unpool(Function):
    """Max pooling undone by un-pooling: where windows share a winner the last one overwrites the others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taken: Tensor, pool: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        """The pooled values; `pool(x)` gives them and their indices in each plane."""
        values, indices = pool(x)
        ctx.save_for_backward(taken, indices)
        ctx.shape = x.shape
        return values

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """Each relevance to the index of its winner, one alone staying where several meet."""
        taken, indices = ctx.saved_tensors
        places = indices.flatten(2)
        planes = relevance.new_zeros((*places.shape[:-1], torch.Size(ctx.shape[2:]).numel()))
        found = planes.scatter(-1, places, relevance.reshape(places.shape)).view(ctx.shape)
        return found, account(taken, {POOLING: total_of(relevance) - total_of(found)}), None


def quotient(relevance: Tensor, z: Tensor, epsilon: float, signed: bool = True) -> Tensor:
    """R / (z ± ε), the sign that of z; 0 where the denominator is 0."""
    if signed and epsilon > 0:
        return relevance / (z + z.new_tensor(epsilon).copysign(z))
    bottom = z + epsilon
    return torch.where(bottom == 0, 0.0, relevance / bottom)


def product(x: Tensor, g: Tensor) -> Tensor:
    """X · g, and 0 where g is 0: a masked score is −∞ and carries no relevance."""
    return torch.where(g == 0, 0.0, x * g)


def leaf_of(x: Tensor) -> Tensor:
    """The same values as a leaf of a graph of their own."""
    return x.detach().requires_grad_()


def shares(
    op: Callable[..., Tensor], xs: list[Tensor], relevance: Tensor, epsilon: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """x_k · ∂z/∂x_k · R / (z ± ε) for each input of z = op(*xs), and z, and the quotient."""
    leaves = [leaf_of(x) for x in xs]
    with torch.enable_grad():
        z = op(*leaves)
    s = quotient(relevance, z.detach(), epsilon)
    pulled = torch.autograd.grad(z, leaves, s)
    return [product(x.detach(), g) for x, g in zip(leaves, pulled, strict=True)], z.detach(), s


def account(taken: Tensor, amounts: dict[int, Tensor]) -> Tensor:
    """The "gradient" of the leaf `taken`: what one node keeps for itself."""
    found = torch.zeros_like(taken)
    for place, amount in amounts.items():
        found[place] = amount
    return found


def total_of(x: Tensor) -> Tensor:
    """Σ x in float64."""
    return x.sum(dtype=torch.float64)


def node(function: type[Function], *inputs: Any) -> Tensor:
    """A node of the graph: the function applied."""
    found: Tensor = function.apply(*inputs)
    return found
