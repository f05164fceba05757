"""The tap for `nn.MultiheadAttention`, alone or in PyTorch's own encoder and decoder layers, on the slow and on the fast path.

The module gives no queries and keys out, so they are computed again from its own inputs by its own input projection. That they
are what the module used is checked at each call: its output, or that of its whole encoder layer where the fast path leaves the
module out, has to follow from them in float64.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from probe.call import AttentionCall
from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.ledger import Face, Ledger, StandIns, Validity, called
from probe.taps.rules.proof import Proofs, attend, read_mask, refuse_not_finite

#: In how many rows at the beginning and at the end of how many samples outputs are compared, and how many weights at most.
_ROWS = 32
_SAMPLES = 4
_ENTRIES = 1 << 24
_OF_MODULE = inspect.signature(nn.MultiheadAttention.forward)
_OF_LAYER = inspect.signature(nn.TransformerEncoderLayer.forward)


@dataclass(frozen=True, eq=False)
class Given:
    """What one module attended to, batch first.

    Attributes:
        q: [B, H, Nq, D].
        k: [B, H, Nk, D].
        v: [B, H, Nk, D].
        itself: whether queries and keys are the same positions.
        padding: of the keys as the module was told, False where padding, [B, Nk]; None if it was told of none.
        mask: True where attended to, [b, h, Nq, Nk], b and h may be 1; None for all.
    """

    q: Float[Tensor, "B H Nq D"]
    k: Float[Tensor, "B H Nk D"]
    v: Float[Tensor, "B H Nk D"]
    itself: bool
    padding: Bool[Tensor, "B Nk"] | None
    mask: Bool[Tensor, "b h Nq Nk"] | None


class MhaTap(Face):
    """Listens to the `nn.MultiheadAttention` modules of a model, in this thread, while it is open.

    Args:
        model: the model.
        receive: called with each `AttentionCall`, right after it was computed.
        query_valid: False where a position is padding, [B, N], or a function that tells it of each group of positions; None to
            take it from the modules' own `key_padding_mask` (in self-attention it is that of the queries too).
        layers: numbers of layers, or patterns of module names; None for all.
        towers: names of towers; None for all.
        stream: tower of the record for the modules of the main tower; None for what `probe.taps.streams` says.

    A call's `output` is what the module's own queries, keys and values give, before its output projection. On a clean exit, a
    module that should have been called and was not raises a ModelError.

    Raises:
        ModelError: there is no such module, or a part is compiled.
        InputError: `layers` or `towers` names nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        receive: Callable[[AttentionCall], None],
        *,
        query_valid: Tensor | Validity | None = None,
        layers: Sequence[int | str] | None = None,
        towers: Sequence[str] | None = None,
        stream: str | None = None,
    ) -> None:
        self._model = model
        self._sites = _sites(model)
        if not self._sites:
            raise ModelError(
                f"{type(model).__name__}: holds no nn.MultiheadAttention; expected a model that does"
            )
        self._ledger = Ledger(model, self._sites, layers, query_valid, stream, towers)
        self._receive = receive
        self._proofs = Proofs()

    @classmethod
    def finds(cls, model: nn.Module) -> list[str]:
        """Names of the modules that this tap could hear; none if the model is not its business."""
        return [name for name, _ in _sites(model)]

    def __enter__(self) -> "MhaTap":
        self._ledger.restart()
        self._calls = 0
        self._length: int | None = None
        self._stand_ins = StandIns()
        names = {id(module): name for name, module in self._sites}
        self._passed_by: list[str] = []
        for place, module in self._model.named_modules():
            if isinstance(module, nn.TransformerEncoder):
                self._stand_ins.place(module, self._around_stack)
            layer = isinstance(module, nn.TransformerEncoderLayer)
            if layer and type(module).forward is not nn.TransformerEncoderLayer.forward:
                self._passed_by.append(called(place, self._model))
            if (
                layer
                and type(module).forward is nn.TransformerEncoderLayer.forward
                and id(module.self_attn) in names
            ):
                self._stand_ins.place(module, self._around_layer(names[id(module.self_attn)], module))
        for name, module in self._sites:
            self._stand_ins.place(module, self._around(name, module))
        self._stand_ins.place(self._model, self._whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stand_ins.remove()
        if kind is not None:
            return
        try:
            self._ledger.finish()
        except ModelError as missing:
            if not self._passed_by:
                raise
            raise ModelError(
                f"{missing}; PyTorch's fast path may have passed it by in {self._passed_by[0]}, an encoder layer with a "
                "forward of its own: torch.backends.mha.set_fastpath_enabled(False) has it called (outputs move by rounding)"
            ) from None

    def _whole(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._ledger.next_pass()
        return original(*args, **kwargs)

    def _around_stack(self, original: Callable[..., Any], src: Tensor, *args: Any, **kwargs: Any) -> Any:
        """A stack of encoder layers may cut its padding off on the way; what comes out is as long as what came in."""
        before, self._length = self._length, src.shape[1] if src.ndim == 3 else None
        try:
            return original(src, *args, **kwargs)
        finally:
            self._length = before

    def _around(self, name: str, module: Any) -> Callable[..., Any]:
        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._calls += 1
            arguments = _OF_MODULE.bind(module, *args, **kwargs).arguments
            taken = self._ledger.take(name)
            if taken is not None:
                with torch.no_grad():
                    given = _given(module, arguments, taken[1])
                    call = self._call(module, name, taken, given)
                    first = module.batch_first or result[0].ndim == 2
                    output = result[0] if first else result[0].transpose(0, 1)
                    output = output if output.ndim == 3 else output[None]
                    _check(call, output, lambda a, _rows, dtype: _project(module, a, dtype))
                    self._receive(call)
            return result

        return around

    def _around_layer(self, name: str, layer: Any) -> Callable[..., Any]:
        """The fast path computes a whole encoder layer at once and never calls the attention module."""

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            before = self._calls
            result = original(*args, **kwargs)
            if self._calls > before:
                return result
            taken = self._ledger.take(name)
            if taken is not None:
                with torch.no_grad():
                    arguments = _OF_LAYER.bind(layer, *args, **kwargs).arguments
                    x, padding = _dense(arguments["src"], arguments.get("src_key_padding_mask"), self._length)
                    inner = layer.norm1(x) if layer.norm_first else x
                    own = {"query": inner, "key": inner, "value": inner, "key_padding_mask": padding}
                    own["attn_mask"] = arguments.get("src_mask")
                    call = self._call(layer.self_attn, name, taken, _given(layer.self_attn, own, taken[1]))
                    output = _dense(result, None, self._length)[0]
                    _check(call, output, lambda a, rows, dtype: _layer(layer, rows(x), a, dtype))
                    self._receive(call)
            return result

        return around

    def _call(self, module: Any, site: str, taken: tuple[int, str], given: Given) -> AttentionCall:
        layer, name = taken
        q, k, v = given.q, given.k, given.v
        queries, keys = self._ledger.padding(site, (q.shape[0], q.shape[2], k.shape[2]), not given.itself)
        queries, keys = (None if x is None else x.to(q.device) for x in (queries, keys))
        told = given.padding
        if keys is not None and (told is None or not torch.equal(keys, told)) and given.mask is None:
            raise ModelError(
                f"{name}: the input is padded, but the module's key_padding_mask says otherwise, and it attends to padding; "
                "give it the mask, or one sample at a time"
            )
        keys = told if keys is None else keys if told is None else keys & told
        queries = keys if given.itself else queries
        sink = q.new_zeros(q.shape[1], dtype=torch.float32) if module.add_zero_attn else None
        spec = ScoreSpec(scale=q.shape[3] ** -0.5, query_valid=queries, key_valid=keys, sink=sink)
        refuse_not_finite(q, queries, name, "queries")
        refuse_not_finite(k, keys, name, "keys")
        mask = given.mask
        if mask is not None:
            mask = mask if told is None else mask & told[:, None, None, :]
            spec = self._proofs.derive(spec, mask, name)
        shown = (
            mask
            if mask is not None or told is None
            else told[:, None, None, :].expand(-1, -1, q.shape[2], -1)
        )
        return AttentionCall(
            name=name,
            module=module,
            layer=layer,
            q=q,
            k=k,
            v=v,
            output=_attended(q, k, v, shown, sink),
            spec=spec,
            mask=shown,
            arguments={"scaling": spec.scale, "dropout": 0.0, "is_causal": False, "s_aux": sink},
            backend="sdpa",
            eager=attend,
            **self._ledger.place(site),
        )


def _given(module: Any, arguments: dict[str, Any], name: str) -> Given:
    """Queries, keys and values by the module's own projection, and its masks."""
    _refuse(module, arguments, name)
    inputs = [arguments[n] for n in ("query", "key", "value")]
    itself = inputs[0] is inputs[1] or torch.equal(inputs[0], inputs[1])
    flags = arguments.get("key_padding_mask")
    if inputs[0].ndim == 2:
        inputs = [x[None] for x in inputs]
        flags = None if flags is None else flags[None]
    elif not module.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    heads = module.num_heads
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in _projected(module, *inputs)]
    q, k, v = split
    batch, n_queries, n_keys = q.shape[0], q.shape[2], k.shape[2]
    scale = float(q.shape[3]) ** -0.5
    padding = None
    if flags is not None:
        rows = _attended_to(flags)[:, None, None, :]
        padding = read_mask(rows, q, k, scale, name)[:, 0, 0].clone()
    mask = arguments.get("attn_mask")
    if mask is not None:
        shown = _attended_to(mask)
        shown = shown.reshape(batch, heads, n_queries, n_keys) if shown.ndim == 3 else shown
        mask = read_mask(shown, q, k, scale, name)
    return Given(q, k, v, itself, padding, mask)


def _attended_to(mask: Tensor) -> Tensor:
    """In PyTorch's function True means attended to, in this module it means hidden; float masks mean the same."""
    return ~mask if mask.dtype == torch.bool else mask


def _refuse(module: Any, arguments: dict[str, Any], name: str) -> None:
    found = None
    if module.bias_k is not None:
        found = "a learned key and value beside those of the input (add_bias_kv), which belong to no position"
    elif module.training and module.dropout:
        found = f"dropout {module.dropout} is active; call model.eval() first"
    elif any(arguments[n].is_nested for n in ("query", "key", "value")):
        found = "nested tensors outside of an encoder layer; give a padded batch and its mask"
    if found is not None:
        raise ModelError(f"{name} (nn.MultiheadAttention): {found}")


def _projected(module: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    bias = module.in_proj_bias
    if module.in_proj_weight is not None:
        if query is key and key is value:
            q, k, v = functional.linear(query, module.in_proj_weight, bias).chunk(3, -1)
            return q, k, v
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = (
        functional.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    return q, k, v


def _attended(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor | None
) -> Float[Tensor, "B Nq H D"]:
    """Attention before the output projection. A key of zeros with a value of zeros stands in for the sink."""
    if sink is not None:
        k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        mask = None if mask is None else functional.pad(mask, (0, 1), value=True)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _project(module: Any, attended: Tensor, dtype: torch.dtype) -> Tensor:
    out = module.out_proj
    bias = None if out.bias is None else out.bias.to(dtype)
    return functional.linear(attended.flatten(-2), out.weight.to(dtype), bias)


def _layer(layer: Any, x: Tensor, attended: Tensor, dtype: torch.dtype) -> Tensor:
    """What an encoder layer makes of the attention of some of its positions."""

    def norm(module: Any, y: Tensor) -> Tensor:
        weight, bias = (None if w is None else w.to(dtype) for w in (module.weight, module.bias))
        return functional.layer_norm(y, module.normalized_shape, weight, bias, module.eps)

    def feed(y: Tensor) -> Tensor:
        for linear in (layer.linear1, layer.linear2):
            bias = None if linear.bias is None else linear.bias.to(dtype)
            y = functional.linear(y, linear.weight.to(dtype), bias)
            y = layer.activation(y) if linear is layer.linear1 else y
        return y

    x = x.to(dtype) + _project(layer.self_attn, attended, dtype)
    if layer.norm_first:
        return x + feed(norm(layer.norm2, x))
    x = norm(layer.norm1, x)
    return norm(layer.norm2, x + feed(x))


def _check(call: AttentionCall, output: Tensor, follow: Callable[..., Tensor]) -> None:
    """Refuse a call whose queries, keys and values do not lead to the module's own output.

    In the first and last rows of some samples, in float64, within twice the error of the same in the model's own precision and
    64 roundings of the largest value.
    """
    n = call.q.shape[2]
    ends = min(_ROWS, n, max(1, _ENTRIES // (2 * _SAMPLES * call.q.shape[1] * call.k.shape[2])))
    at = torch.tensor(sorted({*range(ends), *range(n - ends, n)}), device=call.q.device)

    def rows(x: Tensor) -> Tensor:
        return x[:_SAMPLES, at]

    def made(dtype: torch.dtype) -> Tensor:
        q, k, v = (x[:_SAMPLES].to(dtype) for x in (call.q[:, :, at], call.k, call.v))
        mask = None
        if call.mask is not None:
            seen = call.mask[:_SAMPLES, :, at]
            mask = torch.zeros(seen.shape, dtype=dtype, device=q.device).masked_fill_(~seen, -torch.inf)
        out, _ = attend(call.module, q, k, v, mask, call.spec.scale, s_aux=call.spec.sink)
        return follow(out, rows, dtype).double()

    exact, plain, own = made(torch.float64), made(call.q.dtype), rows(output).double()
    there = torch.ones(own.shape[:2], dtype=torch.bool, device=own.device)
    if call.spec.query_valid is not None:
        there &= rows(call.spec.query_valid)
    exact, plain, own = (x[there] for x in (exact, plain, own))
    if not exact.numel():
        return
    largest = max(1.0, float(exact.abs().max()))
    bound = 2 * float((plain - exact).abs().max()) + 64 * torch.finfo(call.q.dtype).eps * largest
    error = float((own - exact).abs().max())
    if not error <= bound:
        raise ModelError(
            f"{call.name}: its output does not follow from its own projections ({error:.3g} where rounding explains "
            f"{bound:.3g}); a hook changes it, or its is_causal hint contradicts its mask"
        )


def _dense(x: Tensor, flags: Tensor | None, length: int | None) -> tuple[Tensor, Tensor | None]:
    """A nested batch, as PyTorch's encoder makes from a padding mask, padded to `length`, and its flags (True = padding)."""
    if not x.is_nested:
        return x, flags
    parts = x.unbind()
    lengths = torch.tensor([len(part) for part in parts])
    size = int(lengths.max()) if length is None else length
    dense = torch.nested.to_padded_tensor(x, 0.0, (len(parts), size, parts[0].shape[-1]))
    return dense, (torch.arange(size) >= lengths[:, None]).to(dense.device)


def _sites(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (called(name, model), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward
    ]
