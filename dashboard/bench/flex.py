"""FlexAttention, compiled, with its block mask made from the pattern's intervals: no N×N on the way."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from probe.dashboard.bench.case import valid_of, window_of
from probe.dashboard.bench.gate import LENGTH
from probe.dashboard.bench.peers import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import Tensor

    from probe.dashboard.bench.case import Case

_BLOCK, _SHORTEST = 128, 8192


def flex_attention_of(case: Case) -> Callable[[], Tensor]:
    """The compiled call; a pattern starts with an empty compiler cache, so that its limit is never met.

    Args:
        case: Any pattern; 512 tokens (the gate), or at least 8,192.

    Raises:
        UnavailableError: A length in between.
    """
    from torch.nn.attention.flex_attention import flex_attention

    if LENGTH < case.n < _SHORTEST:
        raise UnavailableError(f"it compiles for every length: measured from {_SHORTEST:,} tokens on")
    torch._dynamo.reset()
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    mask = None if case.pattern == "full" else block_mask(case)
    return partial(compiled, case.q, case.k, case.v, block_mask=mask, scale=case.spec.scale, enable_gqa=True)


def block_mask(case: Case) -> Any:
    """The block mask of a case: blocks that some query sees in part, and those that all of theirs see whole.

    Args:
        case: Any pattern; the intervals of its valid queries move only forwards.
    """
    from torch.nn.attention.flex_attention import BlockMask

    rows = -(-case.n // _BLOCK)
    padding = rows * _BLOCK - case.n
    low = torch.nn.functional.pad(case.low, (0, padding)).view(rows, _BLOCK)
    high = torch.nn.functional.pad(case.high, (0, padding)).view(rows, _BLOCK)
    seen = high > low
    first = torch.where(seen, low, case.n).amin(1)[:, None]
    last = torch.where(seen, high, 0).amax(1)[:, None]
    start = torch.arange(rows, device=low.device)[None, :] * _BLOCK
    some = (start < last) & (start + _BLOCK > first)
    whole = (start >= low.amax(1)[:, None]) & (start + _BLOCK <= high.amin(1)[:, None])
    parts = [_listed(some & ~whole), _listed(whole)]
    return BlockMask.from_kv_blocks(
        *parts[0], *parts[1], BLOCK_SIZE=_BLOCK, mask_mod=_rule(case), seq_lengths=(case.n, case.n)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of blocks has, and their numbers first, [1, 1, rows] and [1, 1, rows, rows] int32."""
    order = (~blocks).to(torch.int8).argsort(dim=1, stable=True)
    return blocks.sum(1).int()[None, None], order.int()[None, None].contiguous()


def _rule(case: Case) -> Callable[..., Tensor]:
    """The mask as FlexAttention's users write it."""
    if case.pattern == "window":
        width = window_of(case.n)
        return lambda _b, _h, i, j: (i >= j) & (i - j < width)
    if case.pattern == "padded":
        valid = valid_of(case.n)
        return lambda _b, _h, i, j: (i >= j) & (i < valid)
    if case.pattern == "varlen" and case.spec.documents is not None:
        number = case.spec.documents[0].contiguous()
        return lambda _b, _h, i, j: (i >= j) & (number[i] == number[j])
    return lambda _b, _h, i, j: i >= j
