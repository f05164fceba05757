"""One relevance pass: run the model under the engine, check that nothing was overlooked, let relevance flow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import InputError, ModelError
from probe.explainers._lrp.account import Conservation, Relevance
from probe.explainers._lrp.composites import Composite
from probe.explainers._lrp.engine import Engine
from probe.explainers._lrp.nodes import BIASES, POOLING, SOFTMAX, STABILISERS
from probe.explainers._lrp.structure import nodes_between, only_copies

Call = Callable[[Tensor], Any]


def logits_of(found: Any) -> Tensor:
    """Logits [1, classes] of what a model returned: `.logits`, the last position of a language model.

    Raises:
        ModelError: anything else.
    """
    logits = getattr(found, "logits", found)
    if isinstance(logits, Tensor) and logits.ndim == 3:
        logits = logits[:, -1]
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the model gives {came}, expected logits [1, classes]: pass call=, a function from the input to them"
        )
    return logits


def check(model: Any, inputs: Any) -> None:
    """What must hold before any method runs.

    Raises:
        InputError: no tensor, not one input, not finite.
        ModelError: not a module, in training mode, compiled, scripted or in half precision.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or inputs.shape[0] != 1:
        came = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(
            f"expected one input with its batch dimension [1, …], got {came}: explain inputs one by one"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise InputError("the input holds NaN or infinite values")
    if any(isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod") for m in model.modules()):
        raise ModelError(
            "the model is compiled or scripted: its functions cannot be seen; pass the plain module"
        )
    if any(module.training for module in model.modules()):
        raise ModelError(
            "the model is in training mode (dropout makes every run differ); call model.eval() first"
        )
    half = {p.dtype for p in model.parameters() if p.is_floating_point()} & {torch.float16, torch.bfloat16}
    if half:
        raise ModelError(
            f"the model computes in {half.pop()}: relevance needs float32; call model.float() first"
        )


def explained(logits: Tensor, target: int | None) -> int:
    """The target, or the model's own prediction.

    Raises:
        InputError: no such output.
        ModelError: logits that are not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's logits are not finite (NaN or infinite)")
    if target is None:
        return int(logits.argmax())
    if not 0 <= target < logits.shape[1]:
        raise InputError(f"target = {target}, expected an output from 0 to {logits.shape[1] - 1}")
    return int(target)


def propagate(
    model: nn.Module, inputs: Tensor, target: int | None, composite: Composite, call: Call
) -> Relevance:
    """Layer-wise relevance propagation; the arguments are those of `relevance_of`.

    Raises:
        ModelError: a layer without a rule, or a part of the model that the engine cannot see.
    """
    ids = None if inputs.is_floating_point() else inputs
    with torch.inference_mode(False), torch.enable_grad():
        with torch.no_grad():
            plain = logits_of(call(inputs)).clone()
        index = explained(plain, target)
        engine = Engine(model, composite, inputs.device, ids)
        leaf = None if ids is not None else inputs.detach().clone().requires_grad_()
        start = inputs if leaf is None else leaf.clone()
        with engine:
            logits = logits_of(call(start))
        leaf = engine.leaf if leaf is None else leaf
        if leaf is None:
            raise ModelError("no embedding of these token ids was met: pass embeddings and call=")
        _check_graph(logits, plain)
        engine.settle()
        f = logits[0, index]
        found, taken = torch.autograd.grad(f, [leaf, engine.taken], f.detach(), allow_unused=True)
    if found is None:
        raise ModelError("the explained output does not depend on the input")
    relevance = found if ids is None else found.sum(-1)
    kept = [0.0] * 4 if taken is None else taken.tolist()
    output = float(f.detach())
    conservation = Conservation(
        output,
        float(relevance.sum(dtype=torch.float64)),
        biases=kept[BIASES],
        stabilisers=kept[STABILISERS],
        softmax=kept[SOFTMAX],
        pooling=kept[POOLING],
    )
    return Relevance(relevance, index, output, conservation, "lrp", composite.name, conserving=True)


def _check_graph(logits: Tensor, plain: Tensor) -> None:
    """Hold the run against the model's own, and every node of its graph against what the engine knows."""
    if logits.grad_fn is None:
        raise ModelError("the logits do not depend on the input in a way that the engine can follow")
    for node in nodes_between([logits.grad_fn], []):
        forward = getattr(type(node), "_forward_cls", None)
        ours = forward is not None and forward.__module__.startswith(__package__ or "-")
        if not ours and not only_copies(node):
            raise ModelError(
                f"LRP has no rule for {type(node).__name__.removesuffix('Backward')}, which the model computes by an "
                "autograd function of its own: use a gradient method"
            )
    error = (logits.detach() - plain).abs().max().item()
    bound = 1e-4 * (1 + plain.abs().max().item())
    if error > bound:
        raise ModelError(
            f"two runs of the model differ by {error:.3g} (at most {bound:.3g} is rounding): it is random, or changes "
            "its inputs in a way that cannot be followed"
        )
