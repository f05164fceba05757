"""One attention call to be measured: tensors, rules, and which pairs of a query and a key count.

In every pattern a query sees one interval of keys, and the intervals move only forwards; so pairs are counted and block masks
are made without a mask of N×N.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from probe.kernels.score import ScoreSpec

if TYPE_CHECKING:
    from torch import Tensor

    from probe.dashboard.bench.options import Plan

WINDOW, CELLS, TILE, LINKS, SINKS, BETA = 4096, 512, 1024, 8, 4, 0.4


@dataclass(frozen=True)
class Case:
    """Queries [1, H, N, D], keys and values [1, Hkv, N, D] of one mask pattern.

    Attributes:
        pattern: Its name.
        q: Queries.
        k: Keys.
        v: Values, for the forward passes.
        spec: The rules, for the kernels.
        low: First key that each query sees, [N].
        high: One past the last; not above `low` where a query is padding.
    """

    pattern: str
    q: Tensor
    k: Tensor
    v: Tensor
    spec: ScoreSpec
    low: Tensor
    high: Tensor

    @property
    def n(self) -> int:
        """Tokens."""
        return self.q.shape[2]

    @cached_property
    def pairs(self) -> int:
        """Pairs of a valid query and a key that it sees, in one head."""
        return int((self.high - self.low).clamp(min=0).sum())

    def mask(self) -> Tensor:
        """The whole mask [N, N], for sizes where it fits."""
        key = torch.arange(self.n, device=self.low.device)[None, :]
        return (key >= self.low[:, None]) & (key < self.high[:, None])


def window_of(n: int) -> int:
    """The width of the window pattern: 4,096, or a quarter of shorter inputs."""
    return min(WINDOW, n // 4)


def valid_of(n: int) -> int:
    """Tokens that are no padding in the padded pattern: about seven eighths, no multiple of a block."""
    return n - n // 8 - 3


def cuts_of(n: int) -> list[int]:
    """Cumulative lengths of the varlen pattern: documents of about a half, a quarter, an eighth … of the row."""
    return [0, *(n - (n >> i) - 3 * i for i in range(1, 6)), n]


def grid_of(n: int) -> tuple[int, int]:
    """Cells of the pooled map: 512×512, or a quarter of shorter inputs each way."""
    return min(CELLS, n // 4), min(CELLS, n // 4)


def side_of(n: int) -> int:
    """Rows and keys of the tile: 1,024, or half of shorter inputs."""
    return min(TILE, n // 2)


def rectangle(n: int) -> tuple[range, range]:
    """Rows and keys of the tile: the last rows, and keys half a side before them, so that every mask cuts through it."""
    side = side_of(n)
    return range(n - side, n), range(n - side - side // 2, n - side // 2)


def sinks_of(case: Case) -> Tensor:
    """The first four keys of every head as sinks, [1, H, N]."""
    first = torch.arange(case.n, device=case.q.device) < SINKS
    return first.expand(1, case.q.shape[1], case.n).contiguous()


def values_of_queries(case: Case) -> Tensor:
    """Vectors for Aᵀ·Y, one of the head size for every query head and query, [1, H, N, D]."""
    return case.v.repeat_interleave(case.q.shape[1] // case.v.shape[1], 1)


def rules(pattern: str, n: int) -> dict[str, object]:
    """What a pattern adds to a ScoreSpec."""
    valid = (torch.arange(n) < valid_of(n))[None]
    lengths = torch.tensor(cuts_of(n)).diff()
    documents = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[None]
    known: dict[str, dict[str, object]] = {
        "full": {},
        "causal": {"causal": True},
        "window": {"causal": True, "window": window_of(n)},
        "padded": {"causal": True, "key_valid": valid, "query_valid": valid},
        "varlen": {"causal": True, "documents": documents},
    }
    return known[pattern]


def intervals(pattern: str, n: int) -> tuple[Tensor, Tensor]:
    """First key and one past the last that each query sees, from the pattern's definition alone; int64 [N]."""
    i = torch.arange(n)
    low, high = torch.zeros_like(i), i + 1
    if pattern == "full":
        high = torch.full_like(i, n)
    if pattern == "window":
        low = (i - window_of(n) + 1).clamp(min=0)
    if pattern == "padded":
        high = torch.where(i < valid_of(n), high, 0)
    if pattern == "varlen":
        cuts = torch.tensor(cuts_of(n))
        low = cuts[torch.searchsorted(cuts, i, right=True) - 1]
    return low, high


def make(plan: Plan, pattern: str, n: int) -> Case:
    """Fresh random tensors of the run's shape; the same ones every time.

    Args:
        plan: Heads, head size, dtype and device.
        pattern: One of `options.PATTERNS`.
        n: Tokens.
    """
    generator = torch.Generator(plan.device).manual_seed(n)

    def random(heads: int) -> Tensor:
        shape = (1, heads, n, plan.head_size)
        return torch.randn(shape, generator=generator, device=plan.device, dtype=torch.float32).to(plan.dtype)

    q, k, v = random(plan.heads), random(plan.key_heads), random(plan.key_heads)
    spec = ScoreSpec(scale=plan.head_size**-0.5, **rules(pattern, n))  # type: ignore[arg-type]
    low, high = (x.to(plan.device) for x in intervals(pattern, n))
    return Case(pattern, q, k, v, spec.to(plan.device), low, high)
