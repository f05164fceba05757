"""Biases on the scores: proven, entry by entry, to be a function of the distance from the query to the key.

T5 adds a learned number per head and bucket of j - i (Raffel et al. 2020, §2.1), ALiBi a slope times j - i (Press et al. 2022).
Both, and whatever else depends on j - i alone, become a table per head. Memory: the table and one block of rows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.visible import visible_block
from probe.taps.rules.masks import Adder, row_blocks


@dataclass(eq=False)
class BiasMismatch(Exception):
    """The first entry that differs from another one at the same distance."""

    sample: int
    head: int
    query: int
    key: int
    value: float
    expected: float

    def __str__(self) -> str:
        return (
            f"sample {self.sample}, head {self.head}, query {self.query}, key {self.key}: it adds {self.value:g}, "
            f"and {self.expected:g} elsewhere at that distance"
        )


def distance_table(
    adders: list[Adder],
    rule: ScoreSpec,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "H R2"] | None:
    """The table that adds the same as `adders` to every score that counts; None if it is 0 everywhere.

    Args:
        adders: what is added, one after the other.
        rule: which scores count: visible under this rule, and of queries that are no padding.
        shape: (B, H, Nq, Nk) of the call.
        dtype: of the table, at least as fine as what is added.
        device: of the table.

    Returns:
        A value per distance from -R to R, as `ScoreSpec.distance_bias` wants it; R is the smallest that says all.

    Raises:
        BiasMismatch: two entries at the same distance differ; what is added is no number.
    """
    batch, heads, n_queries, n_keys = shape
    # place d + n_queries - 1 holds the value at key - row = d
    table = torch.zeros(heads, n_queries + n_keys - 1, dtype=dtype, device=device)
    known = torch.zeros_like(table, dtype=torch.bool)
    for sample in range(batch):
        for rows in row_blocks(n_queries, n_keys, heads):
            values, counts = _block(adders, rule, sample, rows, heads, n_keys, dtype, device)
            _fill(table, known, values, counts, rows, n_queries)
            have = _rows_of(table, rows, n_queries, n_keys)
            wrong = counts & ~(values == have)
            if bool(wrong.any()):
                head, row, key = (int(i) for i in wrong.nonzero()[0])
                value, expected = float(values[head, row, key]), float(have[head, row, key])
                raise BiasMismatch(sample, head, rows.start + row, key, value, expected)
    return _centred(table, known, n_queries - 1 + rule.offset)


def _block(
    adders: list[Adder],
    rule: ScoreSpec,
    sample: int,
    rows: range,
    heads: int,
    n_keys: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Float[Tensor, "H rows keys"], Bool[Tensor, "1 rows keys"]]:
    total = torch.zeros((), dtype=dtype, device=device)
    for read in adders:
        total = total + read(sample, rows).to(device, dtype)
    counts = visible_block(rule, sample, rows, range(n_keys), device)
    if rule.query_valid is not None:
        counts = counts & rule.query_valid[sample, rows.start : rows.stop, None].to(device)
    return total.expand(heads, len(rows), n_keys), counts[None]


def _fill(table: Tensor, known: Tensor, values: Tensor, counts: Tensor, rows: range, n_queries: int) -> None:
    """Enter the values at distances that were not seen before; a row has each distance once."""
    n_keys = values.shape[2]
    reach = slice(n_queries - rows.stop, n_queries - 1 - rows.start + n_keys)
    if bool(known[:, reach].all()):
        return
    for place, row in enumerate(rows):
        mine = slice(n_queries - 1 - row, n_queries - 1 - row + n_keys)
        new = counts[:, place] & ~known[:, mine]
        table[:, mine] = torch.where(new, values[:, place], table[:, mine])
        known[:, mine] |= new


def _rows_of(table: Tensor, rows: range, n_queries: int, n_keys: int) -> Float[Tensor, "H rows keys"]:
    """The block of the map that the table says; row r begins n_queries - 1 - r places into the table."""
    views = table.unfold(1, n_keys, 1)[:, n_queries - rows.stop : n_queries - rows.start]
    return views.flip(1)


def _centred(table: Tensor, known: Tensor, zero: int) -> Tensor | None:
    """The table from -R to R around the place `zero` of distance 0; beyond the distances that occur it goes on as it ends."""
    if not bool(table.any()):
        return None
    seen = known.any(0).nonzero()[:, 0]
    low, high = int(seen[0]), int(seen[-1])
    # beyond the outermost distances that occur nothing is asked for; between them nothing may be made up, so 0 stays there
    while low < zero - 1 and torch.equal(table[:, low], table[:, low + 1]):
        low += 1
    while high > zero + 1 and torch.equal(table[:, high], table[:, high - 1]):
        high -= 1
    reach = max(zero - low, high - zero, 0)
    places = torch.arange(zero - reach, zero + reach + 1, device=table.device)
    return table[:, places.clamp(low, high)].contiguous()
