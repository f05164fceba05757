"""The tap for TransformerLens: a `TransformerBridge` computes attention itself, and this reads its own hooks.

Where its queries and keys reproduce its pattern under a proven rule, the call is exact as any other (`AttentionCall`); where
not (learned biases, hooks of the user's own that change it), the pattern itself is handed on (`MapCall`), up to a stated size.
"""

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from probe.call import AttentionCall, MapCall
from probe.errors import InputError, ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.hooks import Hooks
from probe.taps.ledger import Face, Ledger, StandIns, Validity
from probe.taps.rules.proof import Proofs, attend

#: Largest pattern of one layer that is handed on as it is, in MiB.
LIMIT = 1024
#: Rows at each end of the pattern that queries and keys have to reproduce.
_ROWS = 64


class LensTap(Face):
    """Listens to the attention of a `TransformerBridge`, while it is open.

    Args:
        model: the bridge.
        receive: called with each `AttentionCall` or `MapCall`, when its attention module is done.
        query_valid: False where a position is padding, [B, N], or a function that tells it of each group of positions; None for
            the `attention_mask` that the bridge is called with.
        layers: numbers of layers, or patterns of names (`"blocks.1?.attn"`); None for all.
        towers: names of towers; None for all.
        stream: tower of the record for the main tower; None for what `probe.taps.streams` says.
        limit: largest pattern of one layer that may be handed on as it is, in MiB.

    Layers are called as in the bridge's hooks (`blocks.0.attn`; `encoder.blocks` for `encoder_blocks`). Open the tap after
    hooks of your own were added to patterns: it records what they make of them.

    Raises:
        ModelError: the model is no bridge, or has no hooks of attention patterns.
        InputError: `layers` or `towers` names nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        receive: Callable[[AttentionCall | MapCall], None],
        *,
        query_valid: Tensor | Validity | None = None,
        layers: Sequence[int | str] | None = None,
        towers: Sequence[str] | None = None,
        stream: str | None = None,
        limit: int = LIMIT,
    ) -> None:
        self._model: Any = model
        self._sites = sites_of(model)
        if not self._sites:
            raise ModelError(
                f"{type(model).__name__}: no hook_pattern in it; expected a TransformerBridge (probe.taps.lens.bridge_of)"
            )
        self._given = query_valid
        self._ledger = Ledger(model, self._sites, layers, query_valid, stream, towers)
        self._receive = receive
        self._proofs = Proofs()
        self._limit = limit

    @classmethod
    def finds(cls, model: torch.nn.Module) -> list[str]:
        """Names of the modules that this tap could hear; none if the model is not its business."""
        return [name for name, _ in sites_of(model)]

    def __enter__(self) -> "LensTap":
        self._ledger.restart()
        self._mask: Tensor | None = None
        with Hooks() as hooks:
            stand_ins = StandIns()
            hooks.callback(stand_ins.remove)
            stand_ins.place(self._model, self._whole)
            for name, owner in self._sites:
                self._listen(name, owner, hooks)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        if kind is None:
            self._ledger.finish()

    def _whole(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One forward pass: what its mask says, unless the user said it before."""
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        given = {**given.get("kwargs", {}), **given}
        first = given.get("input")
        if isinstance(first, list) and len(first) > 1 and self._given is None:
            raise ModelError(
                "several texts at once are padded inside the bridge, and where is not said; give tokens and attention_mask"
            )
        mask = given.get("attention_mask", given.get("one_zero_attention_mask"))
        if self._given is None and isinstance(mask, Tensor) and mask.ndim == 2:
            self._ledger.say(mask.bool())
        self._ledger.next_pass()
        return original(*args, **kwargs)

    def _listen(self, name: str, owner: Any, hooks: Hooks) -> None:
        """Plain PyTorch hooks that return nothing; the bridge's own lists of hooks stay as they are."""
        heard: dict[str, Tensor] = {}

        def keep(key: str) -> Callable[..., None]:
            def hook(_point: Any, _given: Any, value: Tensor) -> None:
                heard[key] = value

            return hook

        for key, point in points_of(owner).items():
            last = hooks.after(point, keep(key))
        pattern = owner.hook_pattern

        def done(_module: Any, _given: Any, _result: Any) -> None:
            taken = self._ledger.take(name)
            own = dict(heard)
            heard.clear()
            if taken is None:
                return
            if "pattern" not in own:
                raise ModelError(
                    f"{name}: its hook_pattern never fired; the wrapped model must run eager attention (bridge_of sees to it)"
                )
            if next(reversed(pattern._forward_hooks)) != last:
                raise ModelError(
                    f"{name}: a hook was added to its pattern after the tap was opened, and might change it; open the tap "
                    "inside bridge.hooks(…), or take statistics_hook"
                )
            with torch.no_grad():
                self._receive(self._call(name, taken, owner, own))

        hooks.after(owner, done)

    def _call(
        self, site: str, taken: tuple[int, str], owner: Any, own: Mapping[str, Tensor]
    ) -> AttentionCall | MapCall:
        layer, name = taken
        weights = own["pattern"]
        shape = (weights.shape[0], weights.shape[2], weights.shape[3])
        queries, keys = self._ledger.padding(site, shape)
        queries, keys = (None if x is None else x.to(weights.device) for x in (queries, keys))
        place = self._ledger.place(site)
        try:
            found = self._exact(name, owner, own, queries, keys)
        except ModelError as reason:
            if keys is None and bool((~visible_in(own)).all(2).any()):
                raise  # padding of which nobody told
            size = weights.numel() * weights.element_size() / 2**20
            if size > self._limit:
                raise ModelError(
                    f"{reason}; its pattern itself takes {size:.0f} MiB, and the limit is {self._limit} MiB (limit=…)"
                ) from None
            source = f"TransformerLens hook_pattern, as it is: {reason}"
            return MapCall(name, owner, layer, weights, queries, keys, source, **place)
        return AttentionCall(
            name=name,
            module=owner,
            layer=layer,
            arguments={
                "scaling": found["spec"].scale,
                "dropout": 0.0,
                "s_aux": found["spec"].sink,
                "softcap": found["spec"].softcap,
            },
            backend="eager",
            eager=attend,
            **place,
            **found,
        )

    def _exact(
        self, name: str, owner: Any, own: Mapping[str, Tensor], queries: Tensor | None, keys: Tensor | None
    ) -> dict[str, Any]:
        """Queries, keys, values, output, mask and rules that reproduce the pattern; a ModelError says why not."""
        pattern = own["pattern"]
        q, k, v, z = _heads(own, pattern, name)
        inner = getattr(owner, "original_component", None)
        sinks, cap = getattr(inner, "sinks", None), getattr(inner, "attn_logit_softcapping", None)
        spec = ScoreSpec(
            scale=float(getattr(inner, "scaling", None) or q.shape[3] ** -0.5),
            softcap=None if cap is None else float(cap),
            sink=None if sinks is None else sinks.detach().float().flatten(),
            query_valid=queries,
            key_valid=keys,
        )
        spec = self._proofs.derive(spec, visible_in(own), name)
        visible = visible_in(own)
        _reproduces(name, q, k, v, visible, spec, pattern, z)
        return {"q": q, "k": k, "v": v, "output": z, "spec": spec, "mask": visible}


def bridge_of(model: torch.nn.Module, tokenizer: Any | None = None) -> Any:
    """A `TransformerBridge` on a deep copy of a Hugging Face model, which itself stays as it is.

    Args:
        model: the model; needs its memory a second time.
        tokenizer: its tokenizer; None for a bridge that takes tokens only.

    Raises:
        ModelError: TransformerLens does not know the architecture.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    twin: Any = copy.deepcopy(model)
    if hasattr(twin, "set_attn_implementation"):
        twin.set_attn_implementation("eager")  # with another one, patterns never come
    first = next((p for p in twin.parameters() if p.is_floating_point()), None)
    try:
        return build_bridge_from_module(
            twin,
            type(model).__name__,
            hf_config=getattr(twin, "config", None),
            tokenizer=tokenizer,
            dtype=None if first is None else first.dtype,
        )
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"{type(model).__name__}: TransformerLens makes no bridge for it: {error}"
        ) from error


def statistics_hook(
    names: Sequence[str],
    sink: Callable[[str, dict[str, Tensor]], None],
    *,
    valid: Tensor | None = None,
) -> Callable[..., None]:
    """Statistics beside a bridge's own hooks: a function for `hook_pattern`s in `run_with_hooks(…, fwd_hooks=[(name, it)])`.

    Args:
        names: statistics of `probe.stats` that need only the map.
        sink: called with the hook's name and its statistics, each [B, H, N].
        valid: False where a position is padding, [B, N]; None without padding.

    Raises:
        InputError: from the hook, if it stands at something that is no pattern.
    """
    from probe.kernels.dense import dense_statistics

    def hook(pattern: Tensor, hook: Any) -> None:
        if not str(hook.name).endswith("hook_pattern") or pattern.ndim != 4:
            raise InputError(f"statistics_hook: it stands at {hook.name}, expected a hook_pattern")
        with torch.no_grad():
            sink(str(hook.name), dense_statistics(pattern, tuple(names), valid, valid))

    return hook


def sites_of(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The bridge's attention modules under the names of their hooks."""
    if not any(base.__name__ == "TransformerBridge" for base in type(model).__mro__):
        return []
    owners = {
        id(module._modules["hook_pattern"]): module
        for module in model.modules()
        if module._modules.get("hook_pattern") is not None
    }
    hooks: Any = model.hook_dict
    found = []
    for name, point in hooks.items():
        owner = owners.pop(id(point), None) if name.endswith(".hook_pattern") else None
        if owner is not None:
            plain = name.removesuffix(".hook_pattern")
            found.append((re.sub(r"^(encoder|decoder)_blocks", r"\1.blocks", plain), owner))
    return found


def points_of(owner: Any) -> dict[str, Any]:
    """The hook points of one attention module that are listened to; the pattern's comes last."""
    own = owner._modules
    found = {"scores": own.get("hook_attn_scores")}
    found |= {f"rotated {n}": own.get(f"hook_rot_{n}") for n in ("q", "k")}
    found |= {n: getattr(own.get(n), "hook_out", None) for n in ("q", "k", "v")}
    found |= {"z": getattr(own.get("o"), "hook_in", None), "pattern": own["hook_pattern"]}
    return {key: point for key, point in found.items() if point is not None}


def _heads(own: Mapping[str, Tensor], pattern: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and the output by heads; the bridge's projections are flat, its rotated ones are not."""
    rotated = "rotated q" in own and "rotated k" in own
    wanted = ("rotated q", "rotated k", "v", "z") if rotated else ("q", "k", "v", "z")
    missing = [key for key in wanted if key not in own]
    if missing:
        raise ModelError(f"{name}: no hook fired for {', '.join(missing)}")
    q, k, v, z = (own[key] for key in wanted)
    batch, heads, n_queries, n_keys = pattern.shape
    if not rotated:
        q = q.reshape(batch, n_queries, heads, -1).transpose(1, 2)
        k = k.reshape(k.shape[0], k.shape[1], -1, q.shape[3]).transpose(1, 2)
    v = v.reshape(v.shape[0], v.shape[1], k.shape[1], -1).transpose(1, 2)
    if (
        q.shape[:3] != pattern.shape[:3]
        or k.shape[2] != n_keys
        or v.shape[2] != n_keys
        or z.numel() != batch * n_queries * heads * v.shape[3]
    ):
        raise ModelError(
            f"{name}: its queries {list(q.shape)} and keys {list(k.shape)} are not those of {list(pattern.shape)}"
        )
    return q, k, v, z.reshape(batch, n_queries, heads, -1)


def visible_in(own: Mapping[str, Tensor]) -> Tensor:
    """What the scores show; where the bridge hands the pattern on in their place, what has any weight."""
    scores = own.get("scores")
    if scores is None or torch.equal(scores, own["pattern"]):
        return own["pattern"] > 0
    return scores > torch.finfo(scores.dtype).min / 2


def _reproduces(
    name: str, q: Tensor, k: Tensor, v: Tensor, visible: Tensor, spec: ScoreSpec, pattern: Tensor, z: Tensor
) -> None:
    """Refuse queries and keys that do not give the pattern, in the first and last rows, as far as rounding explains."""
    n = pattern.shape[2]
    at = torch.tensor(sorted({*range(min(_ROWS, n)), *range(max(0, n - _ROWS), n)}), device=pattern.device)

    def made(dtype: torch.dtype) -> list[Tensor]:
        mask = torch.zeros(visible[:, :, at].shape, dtype=dtype, device=q.device)
        mask = mask.masked_fill_(~visible[:, :, at], torch.finfo(dtype).min)
        given = (q[:, :, at].to(dtype), k.to(dtype), v.to(dtype), mask, spec.scale)
        out, weights = attend(torch.nn.Module(), *given, s_aux=spec.sink, softcap=spec.softcap)
        return [weights.double(), out.double().transpose(1, 2)]

    rows = None if spec.query_valid is None else spec.query_valid[:, at]
    own = [pattern[:, :, at].double(), z[:, at].double().transpose(1, 2)]
    for what, got, exact, plain in zip(
        ("pattern", "output"), own, made(torch.float64), made(q.dtype), strict=True
    ):
        errors = [(x - exact).abs() for x in (got, plain)]
        errors = errors if rows is None else [e.masked_fill(~rows[:, None, :, None], 0) for e in errors]
        size = 1.0 if what == "pattern" else max(1.0, float(v.abs().max()))
        bound = 2 * float(errors[1].max()) + 16 * torch.finfo(pattern.dtype).eps * size
        if not float(errors[0].max()) <= bound:
            raise ModelError(
                f"{name}: its queries and keys do not give its {what} ({float(errors[0].max()):.2g} apart)"
            )
