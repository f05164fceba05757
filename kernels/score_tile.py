"""The one Triton function that computes a tile of scores under every rule, and what a launch hands to it.

Scores leave in base 2 (times log2 e), because the hardware's exponential is 2^x. Nobody else writes a mask.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from probe.kernels.score import ScoreSpec

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tanh(x):
    """Tanh to a few units in the last place: a polynomial near 0, where 1 - exp(-2x) would cancel, else exponentials."""
    y = x * x
    series = 1.0 + y * (
        -1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835 + y * (-1382.0 / 155925))))
    )
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.25, x * series, tl.where(x < 0, -far, far))


@triton.jit
def floor_div(a, b):
    """Division that rounds down, for b > 0 (integer division on the device rounds towards zero)."""
    quotient = a // b
    return tl.where(a - quotient * b < 0, quotient - 1, quotient)


@triton.jit
def score_tile(
    q, k_t, row, key, n_queries, n_keys, offset, scale, sample, head,
    window, chunk, origin, groups, softcap, slopes, table, reach, key_valid,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr,
    SOFTCAP: tl.constexpr, SLOPES: tl.constexpr, TABLE: tl.constexpr, KEY_VALID: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Scores [M, N] in base 2 of query rows `row` [M] and keys `key` [N]; -inf where a key is not seen.

    `q` is [M, D], `k_t` is [D, N]. MASK is false only where the caller knows that every pair is visible. `scale`, `softcap`,
    `slopes` and `table` hold log2 e already (see `rules`): one rounding less for each score.
    """
    if UPCAST:
        q, k_t = q.to(tl.float32), k_t.to(tl.float32)
    s = tl.dot(q, k_t, input_precision="ieee") * scale
    if SOFTCAP:
        s = tanh(s) * softcap
    i = (row + offset)[:, None]
    j = key[None, :]
    if SLOPES:
        s += tl.load(slopes + head) * (j - i).to(tl.float32)
    if TABLE:
        away = tl.minimum(tl.maximum(j - i, -reach), reach) + reach
        s += tl.load(table + head * (2 * reach + 1) + away)
    if MASK:
        seen = (j < n_keys) & (row < n_queries)[:, None]
        if CAUSAL:
            seen = seen & (j <= i)
        if WINDOW:
            seen = seen & (i - j < window) & (j - i < window)
        if CHUNK:
            start = tl.load(origin + sample)
            seen = seen & (floor_div(i - start, chunk) == floor_div(j - start, chunk))
        if GROUPS:
            of_row = tl.load(groups + sample * n_keys + row + offset, mask=row < n_queries, other=-1)[:, None]
            of_key = tl.load(groups + sample * n_keys + key, mask=key < n_keys, other=-1)[None, :]
            seen = seen | ((of_row == of_key) & (of_row >= 0))
        if KEY_VALID:
            seen = (
                seen & (tl.load(key_valid + sample * n_keys + key, mask=key < n_keys, other=0) != 0)[None, :]
            )
        s = tl.where(seen, s, float("-inf"))
    return s


@triton.jit
def key_span(
    first, last, n_keys, offset, sample, window, chunk, origin, span,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr, KEY_VALID: tl.constexpr,
):  # fmt: skip
    """The keys [low, high) outside which no query row of first … last sees anything."""
    low, high = 0, n_keys
    if not GROUPS:
        if CAUSAL:
            high = tl.minimum(high, last + offset + 1)
        if WINDOW:
            low = tl.maximum(low, first + offset - window + 1)
            high = tl.minimum(high, last + offset + window)
        if CHUNK:
            start = tl.load(origin + sample)
            low = tl.maximum(low, start + floor_div(first + offset - start, chunk) * chunk)
            high = tl.minimum(high, start + (floor_div(last + offset - start, chunk) + 1) * chunk)
    if KEY_VALID:
        low = tl.maximum(low, tl.load(span + 2 * sample))
        high = tl.minimum(high, tl.load(span + 2 * sample + 1))
    return low, high


@triton.jit
def row_span(
    first, last, n_queries, offset, sample, window, chunk, origin,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """The query rows [low, high) outside which nobody sees any key of first … last."""
    low, high = 0, n_queries
    if not GROUPS:
        if CAUSAL:
            low = tl.maximum(low, first - offset)
        if WINDOW:
            low = tl.maximum(low, first - offset - window + 1)
            high = tl.minimum(high, last - offset + window)
        if CHUNK:
            start = tl.load(origin + sample)
            low = tl.maximum(low, start + floor_div(first - start, chunk) * chunk - offset)
            high = tl.minimum(high, start + (floor_div(last - start, chunk) + 1) * chunk - offset)
    return low, high


@dataclass(frozen=True)
class Rules:
    """A ScoreSpec as kernel arguments: `values` at run time, `flags` at compile time."""

    values: dict[str, Any]
    flags: dict[str, bool]


def rules(spec: ScoreSpec, batch: int, q: Tensor) -> Rules:
    """Lay a spec out for a launch, scores in base 2; tensors that a rule does not need become a dummy that is never read."""
    dummy = torch.zeros(1, dtype=torch.int32, device=q.device)
    origin = (
        spec.origin if spec.origin is not None else torch.zeros(batch, dtype=torch.int32, device=q.device)
    )
    span = dummy
    if spec.key_valid is not None:
        flags = spec.key_valid.int()
        last = spec.key_valid.shape[1] - flags.flip(1).argmax(1)
        span = (
            torch.stack([flags.argmax(1), torch.where(spec.key_valid.any(1), last, 0)], 1).int().contiguous()
        )
    log2e = LOG2E.value
    values = {
        "offset": spec.offset,
        "scale": spec.scale * log2e if spec.softcap is None else spec.scale / spec.softcap,
        "window": spec.window or 0,
        "chunk": spec.chunk or 1,
        "origin": origin.int().contiguous(),
        "groups": _or(spec.groups, dummy, torch.int32),
        "softcap": (spec.softcap or 1.0) * log2e,
        "slopes": _or(None if spec.slopes is None else spec.slopes.double() * log2e, dummy, torch.float32),
        "table": _or(
            None if spec.distance_bias is None else spec.distance_bias.double() * log2e, dummy, torch.float32
        ),
        "reach": 0 if spec.distance_bias is None else spec.distance_bias.shape[1] // 2,
        "key_valid": _or(spec.key_valid, dummy, torch.uint8),
        "span": span,
    }
    present = {
        "CAUSAL": spec.causal,
        "WINDOW": spec.window is not None,
        "CHUNK": spec.chunk is not None,
        "GROUPS": spec.groups is not None,
        "SOFTCAP": spec.softcap is not None,
        "SLOPES": spec.slopes is not None,
        "TABLE": spec.distance_bias is not None,
        "KEY_VALID": spec.key_valid is not None,
    }
    return Rules(values, present)


def _or(tensor: Tensor | None, dummy: Tensor, dtype: torch.dtype) -> Tensor:
    return dummy if tensor is None else tensor.to(dtype).contiguous()


def interpreted(kernel: object) -> bool:
    """Whether Triton runs this kernel in its interpreter (there bf16 is silently wrong, so tiles are lifted to float32)."""
    return not isinstance(kernel, triton.JITFunction)
