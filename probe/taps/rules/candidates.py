"""Rules worth trying on a mask: from the call's arguments, and from what single rows of the mask show.

Nothing here is believed: every rule is held against every entry of the mask afterwards (`rules`).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.taps.interface import Observed
from probe.taps.rules.masks import Reader, row_ends


def causal_flag(seen: Observed) -> bool:
    """What a backend takes for causality where it got no mask: the argument `is_causal`, else the module's."""
    flag = seen.arguments.get("is_causal")
    return bool(getattr(seen.module, "is_causal", True) if flag is None else flag)


def simple(seen: Observed, spec: ScoreSpec, read: Reader, *, cross: bool) -> list[ScoreSpec]:
    """Full, causal, windows and chunks, the likeliest first.

    transformers counts a bidirectional window inclusively (|i - j| ≤ w) but some models pass it exclusively; both are tried.

    Args:
        seen: the call.
        spec: its other rules.
        read: the mask.
        cross: the keys are positions of another group; then no rule speaks of i and j.
    """
    if cross:
        return [spec]
    n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
    config = getattr(seen.module, "config", None)
    windows = [seen.arguments.get("sliding_window"), getattr(config, "sliding_window", None)]
    sizes = list(dict.fromkeys(int(w) for w in windows if isinstance(w, int) and w > 0))
    chunk = getattr(config, "attention_chunk_size", None)
    chunk = chunk if isinstance(chunk, int) and chunk > 0 else None
    q = seen.arguments["query"]
    ends = _last_rows(read, spec, q.shape[0], n_queries)
    one_way, both_ways = [], []
    for offset in _offsets(spec, ends, n_queries, n_keys):
        full = replace(spec, offset=offset)
        causal = replace(full, causal=True)
        one_way += [*(replace(causal, window=w) for w in sizes), causal]
        if chunk is not None:
            one_way.append(replace(causal, chunk=chunk, origin=_chunk_start(ends, q.device)))
        both_ways += [full, *(replace(full, window=w + extra) for w in sizes for extra in (1, 0))]
    return one_way + both_ways if causal_flag(seen) else both_ways + one_way


def structured(
    bases: list[ScoreSpec], read: Reader, shape: tuple[int, int, int], device: torch.device
) -> Iterator[ScoreSpec]:
    """The rules of `bases` with documents, with groups and with both, as the rows of the mask suggest them.

    A document begins at a position that sees nothing before itself. A group ends at the last key that a query sees beyond
    itself, and has all queries that see up to there (prefixes of a language model, image blocks).

    Args:
        bases: rules that did not hold.
        read: the mask.
        shape: (B, Nq, Nk) of the call.
        device: of the call.
    """
    usable = [base for base in bases if base.chunk is None and base.offset + shape[1] <= shape[2]]
    if not usable:
        return
    first, last = row_ends(read, usable[0], *shape)
    for base in usable:
        documents = _documents(first, base.offset, shape[2])
        groups = _groups(last, base.offset, shape[2]) if base.causal else None
        documents = None if documents is None else documents.to(device)
        groups = None if groups is None else groups.to(device)
        if documents is not None:
            yield replace(base, documents=documents)
        if groups is not None:
            yield replace(base, groups=groups)
        if documents is not None and groups is not None:
            yield replace(base, documents=documents, groups=groups)


def _last_rows(
    read: Reader, spec: ScoreSpec, batch: int, n_queries: int
) -> list[tuple[int, int, int] | None]:
    """The last query of each sample that is no padding and sees something: its row, its first and its last key."""
    found: list[tuple[int, int, int] | None] = []
    for sample in range(batch):
        row = n_queries - 1
        if spec.query_valid is not None:
            there = spec.query_valid[sample].nonzero()
            row = int(there[-1]) if len(there) else row
        keys = read(sample, range(row, row + 1)).any(0)[0].nonzero()
        found.append((row, int(keys[0]), int(keys[-1])) if len(keys) else None)
    return found


def _offsets(
    spec: ScoreSpec, ends: list[tuple[int, int, int] | None], n_queries: int, n_keys: int
) -> list[int]:
    """Where query 0 may stand among the keys: as the last row shows, at the end (a cache that grows), or at key 0."""
    if n_queries >= n_keys:
        return [0]
    shown = [end[2] - end[0] for end in ends if end is not None]
    filled = n_keys
    if spec.key_valid is not None:
        filled = int(spec.key_valid.any(0).nonzero().amax()) + 1 if bool(spec.key_valid.any()) else n_keys
    tries = [*shown, filled - n_queries, n_keys - n_queries, 0]
    return [x for x in dict.fromkeys(tries) if 0 <= x <= n_keys - n_queries]


def _chunk_start(ends: list[tuple[int, int, int] | None], device: torch.device) -> Int[Tensor, "B"] | None:
    """Where a chunk starts, per sample: at the first key of the last row, whatever a cache has dropped before it."""
    starts = [0 if end is None else end[1] for end in ends]
    return torch.tensor(starts, device=device) if any(starts) else None


def _documents(first: Int[Tensor, "B Nq"], offset: int, n_keys: int) -> Int[Tensor, "B Nk"] | None:
    batch, n_queries = first.shape
    here = torch.arange(n_queries) + offset
    starts = torch.zeros(batch, n_keys, dtype=torch.int64)
    starts[:, offset : offset + n_queries] = (first == here).long()
    if offset:  # what the first query sees of a cache is its document
        starts.scatter_(1, first[:, :1].clamp(max=n_keys - 1), 1)
    return starts.cumsum(1) if bool((starts.sum(1) > 1).any()) else None


def _groups(last: Int[Tensor, "B Nq"], offset: int, n_keys: int) -> Int[Tensor, "B Nk"] | None:
    batch, n_queries = last.shape
    here = torch.arange(n_queries) + offset
    beyond = last > here
    if not bool(beyond.any()):
        return None
    groups = torch.full((batch, n_keys), -1)
    for sample in range(batch):
        rows = beyond[sample].nonzero()[:, 0]
        groups[sample, rows + offset] = last[sample, rows]
        groups[sample, last[sample, rows]] = last[sample, rows]
    return groups
