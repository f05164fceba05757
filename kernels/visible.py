"""Which keys a query sees: spans, counts and rectangles of the visibility rules, without scores.

Causality, window, chunk and document each allow an interval of keys, so everything here is O(N) except where groups are in
play, which are counted chunk by chunk.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probe.kernels.score import ScoreSpec

_CHUNK_ROWS = 256


def intervals(
    spec: ScoreSpec,
    sample: int,
    at: Int[Tensor, "n"],
    length: int,
    *,
    backwards: bool = False,
    first: int = 0,
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """The half-open interval of positions that causality, window, chunk and document allow to each position of `at`.

    Args:
        spec: the rules; groups and padding are not looked at.
        sample: index in the batch, for `spec.origin`.
        at: query positions among the keys, or key positions if `backwards`.
        length: how many positions there are on the other side.
        backwards: ask for the queries that see a key, instead of the keys that a query sees.
        first: the first position on the other side, relative to key 0 as all positions here.

    Returns:
        First position and one past the last, clamped to [first, first + length]; empty intervals have last ≤ first.
    """
    before = spec.before or 0
    low, high = torch.full_like(at, first), torch.full_like(at, first + length)
    if spec.causal and backwards:
        low = at.clone()
    elif spec.causal:
        high = torch.minimum(high, at + 1)
    if spec.window is not None:
        low, high = torch.maximum(low, at - spec.window + 1), torch.minimum(high, at + spec.window)
    if spec.chunk is not None:
        origin = (0 if spec.origin is None else int(spec.origin[sample])) - before
        start = origin + torch.div(at - origin, spec.chunk, rounding_mode="floor") * spec.chunk
        low, high = torch.maximum(low, start), torch.minimum(high, start + spec.chunk)
    if spec.documents is not None:
        numbers = spec.documents[sample].to(at.device)
        mine = numbers[at + before]
        low = torch.maximum(low, torch.searchsorted(numbers, mine) - before)
        high = torch.minimum(high, torch.searchsorted(numbers, mine, right=True) - before)
    return low.clamp(first, first + length), high.clamp(first, first + length)


def key_span(spec: ScoreSpec, sample: int, rows: range, n_keys: int) -> tuple[int, int]:
    """The smallest interval of keys outside which no query of `rows` sees anything (padding not looked at).

    Never empty: where nobody sees anything it holds one key.
    """
    if spec.groups is not None:
        return 0, n_keys
    ends = torch.tensor([rows[0] + spec.offset, rows[-1] + spec.offset])
    low, high = intervals(spec, sample, ends, n_keys)
    start = min(int(low.min()), n_keys - 1)
    return start, max(int(high.max()), start + 1)


def visible_block(
    spec: ScoreSpec, sample: int, rows: range, keys: range, device: torch.device | str
) -> Bool[Tensor, "rows keys"]:
    """Which keys of `keys` the queries of `rows` see: one rectangle of the mask of one sample."""
    row = torch.arange(rows.start, rows.stop, device=device)[:, None]
    return visible_pairs(spec, sample, row, torch.arange(keys.start, keys.stop, device=device)[None, :])


def visible_pairs(spec: ScoreSpec, sample: int, rows: Int[Tensor, "..."], keys: Int[Tensor, "..."]) -> Tensor:
    """Whether a query row sees a key, for rows and keys of shapes that broadcast: the mask of one sample.

    Args:
        spec: the rules.
        sample: index in the batch.
        rows: numbers of query rows.
        keys: numbers of keys.
    """
    i, j = rows + spec.offset, keys
    before = spec.before or 0
    seen = torch.ones(torch.broadcast_shapes(i.shape, j.shape), dtype=torch.bool, device=i.device)
    if spec.causal:
        seen &= j <= i
    if spec.window is not None:
        seen &= (i - j).abs() < spec.window
    if spec.chunk is not None:
        origin = (0 if spec.origin is None else int(spec.origin[sample])) - before
        seen &= torch.div(i - origin, spec.chunk, rounding_mode="floor") == torch.div(
            j - origin, spec.chunk, rounding_mode="floor"
        )
    if spec.groups is not None:
        group = spec.groups[sample]
        of_row, of_key = group[i + before], group[j + before]
        seen |= (of_row == of_key) & (of_row >= 0)
    if spec.documents is not None:
        seen &= spec.documents[sample][i + before] == spec.documents[sample][j + before]
    if spec.key_valid is not None:
        seen &= spec.key_valid[sample][j]
    return seen


def visible_counts(
    spec: ScoreSpec, batch: int, n_queries: int, n_keys: int, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "B Nq"], Int[Tensor, "B Nk"]]:
    """How many keys each query sees, and by how many queries each key is seen.

    Returns:
        `keys_seen` [B, Nq] and `seen_by` [B, Nk], int32; 0 for padded queries and keys. Padded queries see nobody.
    """
    keys_seen = torch.zeros(batch, n_queries, dtype=torch.int32, device=device)
    seen_by = torch.zeros(batch, n_keys, dtype=torch.int32, device=device)
    for b in range(batch):
        key_valid = _valid(spec.key_valid, b, n_keys, device)
        query_valid = _valid(spec.query_valid, b, n_queries, device)
        if spec.groups is None:
            at = torch.arange(n_queries, device=device) + spec.offset
            keys_seen[b] = _inside(key_valid, *intervals(spec, b, at, n_keys)) * query_valid
            at = torch.arange(n_keys, device=device)
            low, high = intervals(spec, b, at, n_queries, backwards=True, first=spec.offset)
            seen_by[b] = _inside(query_valid, low - spec.offset, high - spec.offset) * key_valid
        else:
            for first in range(0, n_queries, _CHUNK_ROWS):
                rows = range(first, min(first + _CHUNK_ROWS, n_queries))
                seen = (
                    visible_block(spec, b, rows, range(n_keys), device) & query_valid[first : rows.stop, None]
                )
                keys_seen[b, first : rows.stop] = seen.sum(1)
                seen_by[b] += seen.sum(0).int()
    return keys_seen, seen_by


def _valid(flags: Tensor | None, sample: int, length: int, device: torch.device | str) -> Bool[Tensor, "n"]:
    if flags is None:
        return torch.ones(length, dtype=torch.bool, device=device)
    return flags[sample].to(device)


def _inside(flags: Bool[Tensor, "m"], low: Int[Tensor, "n"], high: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    total = torch.nn.functional.pad(flags.cumsum(0), (1, 0))
    return torch.where(high > low, total[high] - total[low], 0).int()
