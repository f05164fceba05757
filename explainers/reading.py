"""Reading a record: one tower's statistics, and what a uniform map over the same visibility would give."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError, RecordError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def tower_of(trace: xr.DataTree, tower: str, stat: str, *counts: str) -> xr.Dataset:
    """The statistics of one tower.

    Args:
        trace: a record.
        tower: its group, "text" for text models.
        stat: the statistic that the caller needs.
        counts: further variables that it needs, which every record has.

    Raises:
        InputError: `trace` is no record.
        RecordError: the record has no such tower, or lacks the statistic.
    """
    if not isinstance(trace, xr.DataTree):
        raise InputError(
            f"expected a record (probe.capture or probe.open_record), got {type(trace).__name__}"
        )
    if tower not in trace.children:
        towers = [name for name, node in trace.children.items() if "layer" in node.dims]
        raise RecordError(f"the record has no tower {tower!r}; it has: {', '.join(towers) or 'none'}")
    data = trace[tower].to_dataset()
    if stat not in data:
        raise RecordError(
            f"the record lacks the statistic {stat!r}: capture again with --stats {stat} (stats=({stat!r},))"
        )
    absent = [name for name in counts if name not in data]
    if absent:
        raise RecordError(
            f"the record's tower {tower!r} lacks {', '.join(absent)}: it is damaged, capture it again"
        )
    if 0 in data[stat].shape:
        raise RecordError(f"the record's {stat!r} is empty: dims {dict(data[stat].sizes)}")
    return data


def origin_of(trace: xr.DataTree) -> dict[str, str]:
    """The attributes by which a result says where it comes from."""
    source = trace.encoding.get("source") or trace.to_dataset().encoding.get("source") or "in memory"
    return {"model": str(trace.attrs.get("model", "unknown")), "trace": str(source)}


def received_share(received: Floats, seen_by: Ints) -> Floats:
    """Mean attention that each key receives from the queries that see it: α_k = received_k / seen_by_k.

    Args:
        received: [..., K], NaN where absent.
        seen_by: [K], 0 where absent.

    Returns:
        [..., K] in [0, 1], NaN for absent keys and for keys that no query sees.
    """
    count = np.where(seen_by > 0, seen_by, np.nan)
    return np.asarray(received, dtype=np.float64) / count


def uniform_share(keys_seen: Ints, seen_by: Ints) -> Floats:
    """α_k when every query spreads its attention evenly: E_k = (1/seen_by_k) Σ_{i sees k} 1/keys_seen_i.

    Which queries see a key follows exactly from the counts when the visible sets are nested (bidirectional,
    causal, prefix, image blocks in a causal text, decoding): a 0/1 matrix whose row sums have the column sums
    as their conjugate is the only matrix with these sums (Gale-Ryser). Two further patterns are recognised by
    both counts: runs that end at the query (causal windows, chunks) and symmetric windows.

    Args:
        keys_seen: [Q] visible keys of each query, 0 for padded queries.
        seen_by: [K] queries that see each key, 0 for padded keys.

    Returns:
        [K] float64, NaN where `seen_by` is 0.

    Raises:
        RecordError: the counts fit none of these patterns.
    """
    rows, columns = keys_seen[keys_seen > 0], seen_by[seen_by > 0]
    if rows.sum() != columns.sum():
        raise RecordError(
            f"visible pairs counted by queries ({rows.sum()}) and by keys ({columns.sum()}) differ"
        )
    expected = np.full(seen_by.shape, np.nan)
    for rule in (_nested, _runs, _symmetric):
        found = rule(rows, columns)
        if found is not None:
            expected[seen_by > 0] = found
            return expected
    raise RecordError(
        "which query sees which key does not follow from the record's counts (neither nested, nor causal "
        "windows or chunks, nor a symmetric window): no corrected score exists, use rule='literal'"
    )


def _nested(rows: Ints, columns: Ints) -> Floats | None:
    falling = np.sort(rows)[::-1]
    conjugate = np.searchsorted(-falling, -np.arange(1, columns.size + 1), side="right")
    if (falling.size and falling[0] > columns.size) or not np.array_equal(np.sort(columns)[::-1], conjugate):
        return None
    total = np.cumsum(1.0 / falling)
    return np.asarray(total[columns - 1] / columns)


def _runs(rows: Ints, columns: Ints) -> Floats | None:
    if rows.size != columns.size:
        return None
    place = np.arange(rows.size)
    return _band(place - rows + 1, place, rows, columns)


def _symmetric(rows: Ints, columns: Ints) -> Floats | None:
    if rows.size != columns.size or not rows.size:
        return None
    place, reach = np.arange(rows.size), rows[0] - 1
    return _band(np.maximum(place - reach, 0), np.minimum(place + reach, rows.size - 1), rows, columns)


def _band(first: Ints, last: Ints, rows: Ints, columns: Ints) -> Floats | None:
    """E_k when query i sees the keys first_i … last_i, if that agrees with both counts."""
    if (first < 0).any() or not np.array_equal(last - first + 1, rows):
        return None
    steps = np.zeros((2, rows.size + 1))
    for line, weight in zip(steps, (np.ones(rows.size), 1.0 / rows), strict=True):
        np.add.at(line, first, weight)
        np.subtract.at(line, last + 1, weight)
    seen, mass = np.cumsum(steps[:, :-1], axis=1)
    if not np.array_equal(seen.round().astype(np.int64), columns):
        return None
    return np.asarray(mass / columns)
