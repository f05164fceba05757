"""The rule of a mask whose origin is unknown: read off its rows, then proven against every entry."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.errors import ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.rules.masks import Mismatch, first_mismatch, reader

#: Below this a weight beside a visible key is 0 in the softmax's own precision: e^-104 in float32, e^-746 in float64.
_VANISHES = {torch.float64: 760.0}


class Proofs:
    """Derives rules from masks; remembers which masks are proven, since layers share them."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[weakref.ref[Tensor], int, ScoreSpec]] = {}

    def derive(
        self, spec: ScoreSpec, visible: Bool[Tensor, "b h Nq Nk"], name: str, mask: Tensor | None = None
    ) -> ScoreSpec:
        """The rules of `spec` and those that the mask shows.

        Args:
            spec: scale, padding, sink; no rule of visibility.
            visible: True where a key is attended to; b and h may be 1.
            name: the module's name, for messages.
            mask: the tensor that `visible` was read from, if other layers may come with the very same one.

        Raises:
            ModelError: the mask follows no known rule.
        """
        padding = tuple(id(x) for x in (spec.query_valid, spec.key_valid))
        key = (id(mask), tuple(visible.shape), padding)
        if mask is not None and not mask.is_inference():
            known = self._known.get(key)
            if known is not None and known[0]() is mask and known[1] == mask._version:
                return _with_rule(spec, known[2])
        rule = _prove(spec, visible, name)
        _refuse_blind(spec, visible, name)
        if mask is not None and not mask.is_inference() and padding == (id(None), id(None)):
            self._known[key] = (weakref.ref(mask), mask._version, rule)
        return rule


def read_mask(
    mask: Tensor, q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"], scale: float, name: str
) -> Bool[Tensor, "b h Nq Nk"]:
    """What a mask of `scaled_dot_product_attention` shows: True where attended; b and h may be 1.

    An additive mask may hold 0 and numbers so negative that the softmax gives exactly 0 beside any visible key, whatever the
    scores are.

    Raises:
        ModelError: it holds other numbers (a bias), or its shape does not fit.
    """
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    while mask.ndim < 4:
        mask = mask[None]
    fits = mask.ndim == 4 and all(m in (1, n) for m, n in zip(mask.shape, shape, strict=True))
    if not fits:
        raise ModelError(f"{name}: a mask of shape {list(mask.shape)}, expected one that fits {list(shape)}")
    if mask.dtype == torch.bool:
        seen = mask
    else:
        norms = [torch.linalg.vector_norm(x, dim=3, dtype=torch.float32).amax() for x in (q, k)]
        floor = -(2 * abs(scale) * float(norms[0] * norms[1]) + _VANISHES.get(q.dtype, 110.0))
        seen = mask == 0
        between = ~seen & ~(mask < floor)
        if bool(between.any()):
            at = tuple(int(i) for i in between.nonzero()[0])
            raise ModelError(
                f"{name}: its mask adds {float(mask[at]):g} at query {at[2]}, key {at[3]}: a bias, not a rule of "
                "visibility; of a transformers model the slow route writes such maps out (probe.taps.eager)"
            )
    return seen.expand(-1, -1, shape[2], shape[3])


def refuse_not_finite(x: Float[Tensor, "B H N D"], valid: Tensor | None, name: str, what: str) -> None:
    """Refuse NaN and infinity at valid positions.

    Raises:
        ModelError: names the first place.
    """
    bad = ~torch.linalg.vector_norm(x, ord=torch.inf, dim=(1, 3)).isfinite()
    bad = bad if valid is None else bad & valid.to(x.device)
    if bool(bad.any()):
        sample, position = (int(i) for i in bad.nonzero()[0])
        raise ModelError(
            f"{name}: NaN or infinity in the {what} of sample {sample}, position {position}; check the model's weights"
        )


def attend(
    module: torch.nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    s_aux: Tensor | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "B Nq H Dv"], Float[Tensor, "B H Nq Nk"]]:
    """Attention written out, in the form of a transformers eager function: for the parity check.

    Args:
        module: not looked at.
        query: [B, H, Nq, D].
        key: [B, Hkv, Nk, D].
        value: [B, Hkv, Nk, Dv].
        attention_mask: added to the scores, or None.
        scaling: factor on q·k.
        s_aux: a logit per head that takes mass and has no value.
        softcap: scores become cap·tanh(score / cap).
    """
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    if s_aux is not None:
        extra = s_aux.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, extra], -1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores.to(exact), -1).to(query.dtype)[..., : key.shape[2]]
    return (weights @ value).transpose(1, 2), weights


Eager = Callable[..., tuple[Tensor, Tensor | None]]


def describe(spec: ScoreSpec) -> str:
    """The rule of visibility in words."""
    parts = ["causal" if spec.causal else "full"]
    parts += [f"offset {spec.offset}"] if spec.offset else []
    parts += [f"window {spec.window}"] if spec.window is not None else []
    return " ".join(parts)


def _with_rule(spec: ScoreSpec, rule: ScoreSpec) -> ScoreSpec:
    return replace(spec, causal=rule.causal, offset=rule.offset, window=rule.window)


def _prove(spec: ScoreSpec, visible: Tensor, name: str) -> ScoreSpec:
    batch, n_queries, n_keys = visible.shape[0], visible.shape[2], visible.shape[3]
    flags = [x for x in (spec.query_valid, spec.key_valid) if x is not None]
    batch = flags[0].shape[0] if flags else batch
    read = reader(visible, n_queries, n_keys, torch.float32)
    if read is None:
        raise ModelError(f"{name}: cannot read a mask of shape {list(visible.shape)}")
    first: Mismatch | None = None
    tries = _candidates(spec, visible)
    for rule in tries:
        mismatch = first_mismatch(read, rule, batch, n_queries, n_keys)
        if mismatch is None:
            return rule
        first = first or mismatch
    hidden = bool((~visible.any(2)).any()) and spec.key_valid is None
    advice = (
        "some keys are seen by nobody: if they are padding, say so (query_valid=…)"
        if hidden
        else "packed, block and other custom masks are not supported"
    )
    tried = ", ".join(dict.fromkeys(describe(rule) for rule in tries))
    raise ModelError(
        f"{name}: the mask follows none of the rules tried ({tried}); {describe(tries[0])!r} differs first at {first}; {advice}"
    )


def _candidates(spec: ScoreSpec, visible: Tensor) -> list[ScoreSpec]:
    """Rules worth trying: full, causal, and the windows that the first and the last valid row of the longest sample show."""
    n_queries, n_keys = visible.shape[2], visible.shape[3]
    rows, longest = list(range(n_queries)), 0
    if spec.query_valid is not None:
        longest = int(spec.query_valid.sum(1).argmax())
        rows = spec.query_valid[longest].nonzero()[:, 0].tolist() or [0]
    shown = visible[min(longest, visible.shape[0] - 1), 0]
    tries = [spec]
    for offset in dict.fromkeys(x for x in (n_keys - n_queries, 0) if 0 <= x <= n_keys - n_queries):
        back = _reach(shown[rows[-1]], rows[-1] + offset, backwards=True)
        ahead = _reach(shown[rows[0]], rows[0] + offset, backwards=False)
        causal = replace(spec, causal=True, offset=offset)
        tries += [causal, replace(causal, window=back)]
        tries += [replace(spec, offset=offset, window=w) for w in dict.fromkeys((back, ahead))]
    return tries


def _refuse_blind(spec: ScoreSpec, visible: Tensor, name: str) -> None:
    """Refuse valid queries that see no key: what a backend makes of them is its own affair."""
    blind = ~visible.any(3).any(1)
    blind = blind if spec.query_valid is None else blind & spec.query_valid.to(blind.device)
    if bool(blind.any()):
        sample, query = (int(i) for i in blind.nonzero()[0])
        raise ModelError(
            f"{name}: query {query} of sample {sample} sees no key; if it is padding, say so (query_valid=…)"
        )


def _reach(row: Tensor, at: int, *, backwards: bool) -> int:
    """How far a row sees, its own position counted."""
    seen = row.nonzero()[:, 0]
    if not len(seen):
        return 1
    return max(1, at - int(seen[0]) + 1 if backwards else int(seen[-1]) - at + 1)
