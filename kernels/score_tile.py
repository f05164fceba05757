"""The one Triton function that computes a tile of scores under every rule, and what a launch hands to it.

Scores leave in base 2 (times log2 e), because the hardware's exponential is 2^x. Nobody else writes a mask.
"""

from functools import lru_cache
from typing import Any, NamedTuple

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


class View(NamedTuple):
    """A tensor [B, H, N, D] as a kernel argument; the last dimension is contiguous."""

    at: Any
    sample: int
    head: int
    token: int


class Rules(NamedTuple):
    """A ScoreSpec as a kernel argument; `Flags` say which of these mean something."""

    n_queries: int
    n_keys: int
    offset: int
    before: int
    positions: int
    scale: float
    window: int
    chunk: int
    origin: Any
    groups: Any
    starts: Any
    ends: Any
    softcap: float
    slopes: Any
    table: Any
    reach: int
    key_valid: Any
    span: Any


class Flags(NamedTuple):
    """Which rules a kernel is compiled for; UPCAST lifts tiles to float32, for Triton's interpreter."""

    CAUSAL: bool
    WINDOW: bool
    CHUNK: bool
    GROUPS: bool
    DOCUMENTS: bool
    SOFTCAP: bool
    SLOPES: bool
    TABLE: bool
    KEY_VALID: bool
    UPCAST: bool


@triton.jit
def rows_of(x, sample, head, token, d, SIZE: tl.constexpr, n):
    """Tokens `token` of one head of a `View` as a tile [tokens, d]; 0 outside of [0, n) and beyond the head size."""
    at = x.at + sample.to(tl.int64) * x.sample + head.to(tl.int64) * x.head
    inside = (token < n)[:, None] & (d < SIZE)[None, :]
    return tl.load(at + token.to(tl.int64)[:, None] * x.token + d[None, :], mask=inside, other=0.0)


@triton.jit
def inner_rows_of(x, sample, head, token, d, SIZE: tl.constexpr):
    """As `rows_of`, for tokens that are all there."""
    at = x.at + sample.to(tl.int64) * x.sample + head.to(tl.int64) * x.head
    at += token.to(tl.int64)[:, None] * x.token + d[None, :]
    return tl.load(at) if d.shape[0] == SIZE else tl.load(at, mask=(d < SIZE)[None, :], other=0.0)


@triton.jit
def score_tile(
    q, k_t, row, key, sample, head, rules, MASK: tl.constexpr, F: tl.constexpr, TURNED: tl.constexpr = False
):
    """Scores [M, N] in base 2 of query rows `row` [M] and keys `key` [N]; -inf where a key is not seen.

    `q` is [M, D], `k_t` is [D, N]. MASK is false only where the caller knows that every pair is visible. `scale`, `softcap`,
    `slopes` and `table` hold log2 e already (see `describe`): one rounding less for each score. TURNED gives the tile as
    [N, M], keys down, from `q` [D, M] and `k_t` [N, D].
    """
    if F.UPCAST:
        q, k_t = q.to(tl.float32), k_t.to(tl.float32)
    if TURNED:
        q, k_t = k_t, q
    s = tl.dot(q, k_t, input_precision="ieee") * rules.scale
    if F.SOFTCAP:
        s = tanh(s) * rules.softcap
    i, j = _places(row + rules.offset, key, TURNED)
    if F.SLOPES:
        s += tl.load(rules.slopes + head) * (j - i).to(tl.float32)
    if F.TABLE:
        away = tl.minimum(tl.maximum(j - i, -rules.reach), rules.reach) + rules.reach
        s += tl.load(rules.table + head * (2 * rules.reach + 1) + away)
    if MASK:
        s = tl.where(visible_tile(row, key, sample, rules, F, TURNED), s, float("-inf"))
    return s


@triton.jit
def _places(row, key, TURNED: tl.constexpr):
    """Values of the rows and of the keys, laid out to meet in a tile."""
    if TURNED:
        row, key = row[None, :], key[:, None]
    else:
        row, key = row[:, None], key[None, :]
    return row, key


@triton.jit
def visible_tile(row, key, sample, rules, F: tl.constexpr, TURNED: tl.constexpr = False):
    """Which keys [N] the query rows [M] see, [M, N], or [N, M] if TURNED."""
    i, j = _places(row + rules.offset, key, TURNED)
    row_inside, key_inside = row < rules.n_queries, key < rules.n_keys
    here, there = _places(row_inside, key_inside, TURNED)
    seen = here & there
    if F.CAUSAL:
        seen = seen & (j <= i)
    if F.WINDOW:
        seen = seen & (i - j < rules.window) & (j - i < rules.window)
    if F.CHUNK:
        start = tl.load(rules.origin + sample)
        seen = seen & (floor_div(i - start, rules.chunk) == floor_div(j - start, rules.chunk))
    # groups and documents cover all positions, of which the keys may be a slice
    row_at = sample * rules.positions + rules.before + rules.offset + row
    key_at = sample * rules.positions + rules.before + key
    if F.GROUPS:
        of_row, of_key = _places(
            tl.load(rules.groups + row_at, mask=row_inside, other=-1),
            tl.load(rules.groups + key_at, mask=key_inside, other=-1),
            TURNED,
        )
        seen = seen | ((of_row == of_key) & (of_row >= 0))
    if F.DOCUMENTS:
        of_row, of_key = _places(
            tl.load(rules.starts + row_at, mask=row_inside, other=-1),
            tl.load(rules.starts + key_at, mask=key_inside, other=-2),
            TURNED,
        )
        seen = seen & (of_row == of_key)
    if F.KEY_VALID:
        valid = tl.load(rules.key_valid + sample * rules.n_keys + key, mask=key_inside, other=0) != 0
        seen = seen & _places(row_inside, valid, TURNED)[1]
    return seen


@triton.jit
def key_span(first, last, sample, rules, F: tl.constexpr):
    """The keys [low, high) outside which no query row of first … last sees anything."""
    low, high = 0, rules.n_keys
    if not F.GROUPS:
        if F.CAUSAL:
            high = tl.minimum(high, last + rules.offset + 1)
        if F.WINDOW:
            low = tl.maximum(low, first + rules.offset - rules.window + 1)
            high = tl.minimum(high, last + rules.offset + rules.window)
        if F.CHUNK:
            start = tl.load(rules.origin + sample)
            low = tl.maximum(low, start + floor_div(first + rules.offset - start, rules.chunk) * rules.chunk)
            high = tl.minimum(
                high, start + (floor_div(last + rules.offset - start, rules.chunk) + 1) * rules.chunk
            )
    if F.DOCUMENTS:
        at = sample * rules.positions + rules.before + rules.offset
        low = tl.maximum(low, tl.load(rules.starts + at + first))
        high = tl.minimum(high, tl.load(rules.ends + at + last))
    if F.KEY_VALID:
        low = tl.maximum(low, tl.load(rules.span + 2 * sample))
        high = tl.minimum(high, tl.load(rules.span + 2 * sample + 1))
    return low, high


@triton.jit
def key_tiles(block, sample, rules, M: tl.constexpr, N: tl.constexpr, F: tl.constexpr):
    """The keys that a block of M query rows takes N at a time: [low, open) need no mask, [open, high) do.

    Without a mask go the keys that the whole block sees by causality alone; `low` and `open` are multiples of N.
    """
    low, high = key_span(block * M, tl.minimum(block * M + M, rules.n_queries) - 1, sample, rules, F)
    low = low // N * N
    open_ = low
    if not (F.WINDOW or F.CHUNK or F.GROUPS or F.DOCUMENTS or F.KEY_VALID):
        open_ = rules.n_keys // N * N
        if F.CAUSAL:  # queries may stand before all keys of a slice, and then see nothing
            open_ = tl.maximum(low, tl.minimum(open_, (block * M + rules.offset + 1) // N * N))
    return low, open_, high


@triton.jit
def row_span(first, last, sample, rules, F: tl.constexpr):
    """The query rows [low, high) outside which nobody sees any key of first … last."""
    low, high = 0, rules.n_queries
    if not F.GROUPS:
        if F.CAUSAL:
            low = tl.maximum(low, first - rules.offset)
        if F.WINDOW:
            low = tl.maximum(low, first - rules.offset - rules.window + 1)
            high = tl.minimum(high, last - rules.offset + rules.window)
        if F.CHUNK:
            start = tl.load(rules.origin + sample)
            low = tl.maximum(low, start + floor_div(first - start, rules.chunk) * rules.chunk - rules.offset)
            high = tl.minimum(
                high, start + (floor_div(last - start, rules.chunk) + 1) * rules.chunk - rules.offset
            )
    if F.DOCUMENTS:
        at = sample * rules.positions + rules.before
        low = tl.maximum(low, tl.load(rules.starts + at + first) - rules.offset)
        high = tl.minimum(high, tl.load(rules.ends + at + last) - rules.offset)
    return low, high


def view(x: Tensor) -> View:
    """Lay a tensor [B, H, N, D] out for a launch; copied only where its last dimension is not contiguous."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return View(x, x.stride(0), x.stride(1), x.stride(2))


def describe(spec: ScoreSpec, q: Tensor, n_keys: int, upcast: bool) -> tuple[Rules, Flags]:
    """Lay a spec out for a launch, scores in base 2; tensors that a rule does not need become a dummy that is never read.

    Args:
        spec: the rules of the call.
        q: its queries [B, H, Nq, D].
        n_keys: Nk of the call.
        upcast: whether tiles are lifted to float32, see `interpreted`.
    """
    batch, _, n_queries, _ = q.shape
    before = spec.before or 0
    dummy = _dummy(q.device)
    origin = dummy
    if spec.chunk is not None:
        origin = (
            torch.zeros(batch, dtype=torch.int32, device=q.device) if spec.origin is None else spec.origin
        )
        origin = (origin - before).int().contiguous()
    span = dummy
    if spec.key_valid is not None:
        flags = spec.key_valid.int()
        last = spec.key_valid.shape[1] - flags.flip(1).argmax(1)
        span = torch.stack([flags.argmax(1), torch.where(spec.key_valid.any(1), last, 0)], 1)
    starts = ends = dummy
    if spec.documents is not None:
        numbers = spec.documents.contiguous()
        starts, ends = (torch.searchsorted(numbers, numbers, right=right) - before for right in (False, True))
    log2e = LOG2E.value
    table = spec.distance_bias
    rules = Rules(
        n_queries=n_queries,
        n_keys=n_keys,
        offset=spec.offset,
        before=before,
        positions=next((x.shape[1] for x in (spec.groups, spec.documents) if x is not None), n_keys),
        scale=spec.scale * log2e if spec.softcap is None else spec.scale / spec.softcap,
        window=spec.window or 0,
        chunk=spec.chunk or 1,
        origin=origin,
        groups=_or(spec.groups, dummy, torch.int32),
        starts=starts.int(),
        ends=ends.int(),
        softcap=(spec.softcap or 1.0) * log2e,
        slopes=_or(None if spec.slopes is None else spec.slopes.double() * log2e, dummy, torch.float32),
        table=_or(None if table is None else table.double() * log2e, dummy, torch.float32),
        reach=0 if table is None else table.shape[1] // 2,
        key_valid=_or(spec.key_valid, dummy, torch.uint8),
        span=span.int().contiguous(),
    )
    present = Flags(
        CAUSAL=spec.causal,
        WINDOW=spec.window is not None,
        CHUNK=spec.chunk is not None,
        GROUPS=spec.groups is not None,
        DOCUMENTS=spec.documents is not None,
        SOFTCAP=spec.softcap is not None,
        SLOPES=spec.slopes is not None,
        TABLE=table is not None,
        KEY_VALID=spec.key_valid is not None,
        UPCAST=upcast,
    )
    return rules, present


@lru_cache(maxsize=16)
def _dummy(device: torch.device) -> Tensor:
    return torch.zeros(1, dtype=torch.int32, device=device)


def _or(tensor: Tensor | None, dummy: Tensor, dtype: torch.dtype) -> Tensor:
    return dummy if tensor is None else tensor.to(dtype).contiguous()


def interpreted(kernel: object) -> bool:
    """Whether Triton runs this kernel in its interpreter (there bf16 is silently wrong, so tiles are lifted to float32)."""
    return not isinstance(kernel, triton.JITFunction)
