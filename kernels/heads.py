"""A choice of heads: kernels that can leave the other heads of a call untouched read it here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from probe.kernels.score import ScoreSpec


def check_heads(heads: Sequence[int] | None, n_heads: int) -> tuple[int, ...]:
    """The chosen heads as numbers, all of them without a choice.

    Raises:
        ValueError: no head, or a number that is not a head of q.
    """
    if heads is None:
        return tuple(range(n_heads))
    chosen = tuple(int(head) for head in heads)
    if not chosen or min(chosen) < 0 or max(chosen) >= n_heads:
        raise ValueError(
            f"heads: got {list(chosen)}, expected at least one number from 0 to {n_heads - 1}, or None for all heads"
        )
    return chosen


def heads_on(heads: tuple[int, ...], n_heads: int, device: torch.device) -> Int[Tensor, "n"]:
    """The chosen heads for a launch, int32; all heads cost no copy from the host."""
    if heads == tuple(range(n_heads)):
        return torch.arange(n_heads, dtype=torch.int32, device=device)
    return torch.tensor(heads, dtype=torch.int32, device=device)


def by_key_head(heads: tuple[int, ...], group: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """For each key head in use: its number, the places of its query heads in the choice, and their numbers."""
    for key_head in sorted({head // group for head in heads}):
        places = [at for at, head in enumerate(heads) if head // group == key_head]
        yield key_head, places, [heads[at] for at in places]


def of_heads(spec: ScoreSpec, heads: list[int]) -> ScoreSpec:
    """The rules of these heads alone."""

    def pick(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[heads]

    return replace(
        spec, slopes=pick(spec.slopes), distance_bias=pick(spec.distance_bias), sink=pick(spec.sink)
    )
