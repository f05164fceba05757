"""Attention: AttnLRP around the model's own attention function, so that no N × N map is needed.

Achtibat et al., AttnLRP, ICML 2024 (arXiv 2402.05602). A product of two tensors gives half of the relevance to each
and softmax hands on R_i = x_i (R_i − p_i Σ R). For o = softmax(q kᵀ) v that is: with
g the gradients of the attention function itself at R / o, R_v = v g_v / 2, R_q = q g_q / 4, R_k = k g_k / 4. So one call
of the backend's own backward suffices, in the memory that it needs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from probe.explainers._lrp.engine import Engine
from probe.explainers._lrp.nodes import SOFTMAX, STABILISERS, account, node, product, shares, total_of
from probe.explainers._lrp.structure import carries

Func = Callable[..., Any]


class Attention(torch.autograd.Function):
    """o = attention(q, k, v) as one node."""

    @staticmethod
    def forward(ctx: Any, op: Func, taken: Tensor, epsilon: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`op(q, k, v)`."""
        ctx.save_for_backward(taken, q, k, v)
        ctx.op, ctx.epsilon = op, epsilon
        found: Tensor = op(q, k, v)
        return found

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """A quarter to the queries, a quarter to the keys, half to the values; what softmax keeps is accounted."""
        taken, q, k, v = ctx.saved_tensors
        (of_q, of_k, of_v), z, s = shares(ctx.op, [q, k, v], relevance, ctx.epsilon)
        kept = (total_of(s * z) - total_of(of_q)) / 2  # Σ q g_q = Σ k g_k = Σ z g_z over the scores z
        amounts = {SOFTMAX: kept, STABILISERS: total_of(relevance - product(z, s))}
        return None, account(taken, amounts), None, of_q / 4, of_k / 4, of_v / 2


class Softmax(torch.autograd.Function):
    """Softmax of scores that carry relevance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taken: Tensor, dim: int, value: Callable[[Tensor], Tensor]) -> Tensor:
        """`value(x)`."""
        found = value(x)
        ctx.save_for_backward(x, taken, found)
        ctx.dim = dim
        return found

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        """R_i = x_i (R_i − p_i Σ_j R_j)."""
        x, taken, p = ctx.saved_tensors
        found = product(x, (relevance - p * relevance.sum(ctx.dim, keepdim=True)).to(x.dtype))
        return found, account(taken, {SOFTMAX: total_of(relevance) - total_of(found)}), None, None


def softmax(engine: Engine, name: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Softmax, by the composite's choice."""
    del name
    x, *rest = args if args else (kwargs.pop("input"),)
    dim = rest[0] if rest else kwargs.get("dim")
    if engine.composite.attention == "cp":
        with torch.no_grad():
            constant: Tensor = func(x, *rest, **kwargs)
        return constant
    found: Tensor = node(Softmax, x, engine.taken, dim, lambda v: func(v, *rest, **kwargs))
    return found


def scaled_dot_product_attention(
    engine: Engine, name: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """PyTorch's attention function, whichever kernel it takes."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = dict(zip(names, args, strict=False)) | kwargs
    q, k, v = (given.pop(part) for part in names[:3])
    if carries(given.get("attn_mask")) or given.get("dropout_p"):
        raise engine.refuse(f"{name} with dropout, or with a bias that depends on the input")
    if engine.composite.attention == "cp" or not (carries(q) and carries(k)):
        if not carries(v):
            raise engine.refuse(f"{name} whose values do not depend on the input")
        q, k = q.detach(), k.detach()
        return engine.proportional(lambda values: func(q, k, values, **given), v)
    v = v if carries(v) else engine.constant(v)
    return node(Attention, lambda *x: func(*x, **given), engine.taken, engine.composite.stabiliser, q, k, v)


def multi_head_attention(
    engine: Engine, name: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """The function behind nn.MultiheadAttention [N, B, D], taken apart into its dense layers and its attention."""
    import inspect

    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    a = given.arguments
    odd = [part for part in ("bias_k", "bias_v", "static_k", "static_v") if a[part] is not None]
    if odd or a["add_zero_attn"] or (a["training"] and a["dropout_p"]) or a["query"].ndim != 3:
        raise engine.refuse(f"{name} with {', '.join(odd) or 'zero attention, dropout or unbatched input'}")
    with engine:
        weights = (
            (a["q_proj_weight"], a["k_proj_weight"], a["v_proj_weight"])
            if a["use_separate_proj_weight"]
            else a["in_proj_weight"].chunk(3)
        )
        biases = (None,) * 3 if a["in_proj_bias"] is None else a["in_proj_bias"].chunk(3)
        heads = a["num_heads"]

        def split(x: Tensor) -> Tensor:
            parted: Tensor = x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)  # [B, heads, N, d]
            return parted

        q, k, v = (
            split(F.linear(x, w, b))
            for x, w, b in zip((a["query"], a["key"], a["value"]), weights, biases, strict=True)
        )
        mask = _mask(a, q)
        if a["need_weights"]:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            p = (scores if mask is None else scores + mask).softmax(-1)
            out = p @ v
        else:
            p, out = None, F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = F.linear(out.permute(2, 0, 1, 3).flatten(2), a["out_proj_weight"], a["out_proj_bias"])
        return out, p.mean(1) if p is not None and a["average_attn_weights"] else p


def _mask(given: Any, q: Tensor) -> Tensor | None:
    """The two masks of nn.MultiheadAttention as one that is added to the scores [B or 1, heads or 1, N or 1, M]."""
    found: Tensor | None = None
    for mask, shape in ((given["attn_mask"], None), (given["key_padding_mask"], (q.shape[0], 1, 1, -1))):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf)
        shape = shape or (
            (1, 1, *mask.shape) if mask.ndim == 2 else (q.shape[0], q.shape[1], *mask.shape[1:])
        )
        mask = mask.view(shape)
        found = mask if found is None else found + mask
    return found
