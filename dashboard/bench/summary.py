"""What follows from the measured times alone: ratios, exponents, and which goals are met."""

from __future__ import annotations

import math
from typing import Any

Document = dict[str, Any]
_LONGEST = 3


def complete(document: Document) -> Document:
    """Add ratios, fits and goals to what was measured so far.

    Args:
        document: As the package describes it; changed in place.

    Returns:
        The same document.
    """
    measured = document["measurements"]
    for one in measured:
        one["ratio"] = {
            other["name"]: one["seconds"] / other["seconds"]
            for other in measured
            if one["kind"] == "statistic" and other["kind"] == "peer" and _place(other) == _place(one)
        }
    document["fits"] = [fit for key in _curves(measured) if (fit := _fit(measured, *key))]
    document["goals"] = [] if document["partial"] and not measured else goals(document)
    return document


def _place(one: Document) -> tuple[str, int]:
    return one["pattern"], one["n"]


def _curves(measured: list[Document]) -> dict[tuple[str, str], None]:
    return dict.fromkeys((one["pattern"], one["name"]) for one in measured)


def _fit(measured: list[Document], pattern: str, name: str) -> Document | None:
    points = sorted((m["n"], m["seconds"]) for m in measured if (m["pattern"], m["name"]) == (pattern, name))
    points = points[-_LONGEST:]
    if len(points) < 2:
        return None
    lengths = [n for n, _ in points]
    slope = exponent(lengths, [seconds for _, seconds in points])
    return {"pattern": pattern, "name": name, "exponent": slope, "lengths": lengths}


def exponent(lengths: list[int], seconds: list[float]) -> float:
    """The p of time ~ N^p: the slope of least squares in log-log.

    Args:
        lengths: At least two different ones.
        seconds: Times, positive.
    """
    x, y = [math.log(n) for n in lengths], [math.log(t) for t in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def find(document: Document, pattern: str, n: int, name: str) -> Document | None:
    """The measurement of one name at one place, or None."""
    wanted = (pattern, n, name)
    return next((m for m in document["measurements"] if (m["pattern"], m["n"], m["name"]) == wanted), None)


_SHAPE = {"batch": 1, "heads": 32, "key_heads": 8, "head_size": 128, "dtype": "bf16"}
_CPU_SHAPE = {"batch": 1, "heads": 9, "key_heads": 3, "head_size": 64, "dtype": "fp32"}
_K = 1024
_GIVEN = "columns + 512×512 map ÷ cuDNN, log-sum-exp given (and no other row statistic), causal, 128k"


def goals(document: Document) -> list[Document]:
    """The project's goals beside what was measured; `met` is None where this run cannot tell."""
    if document["device"]["type"] == "cpu":
        why = None if document["shape"] == _CPU_SHAPE else "another shape than 9/3 heads, d 64, fp32"
        return [_ratio(document, why, "rows", "sdpa", 4 * _K, 1.5, "row pass ÷ SDPA forward, 4,096 tokens")]
    why = None
    if document["shape"] != _SHAPE:
        why = "another shape than 32/8 heads, d 128, bf16"
    elif "H100" not in document["device"]["name"]:
        why = f"set for an H100, this is {document['device']['name']}"
    half = {**_SHAPE, "head_size": 64}  # flash-colsum reads no more of a head
    apart = None if document["shape"] == half and "H100" in document["device"]["name"] else why
    everything = "rows + columns + 512×512 map ÷ cuDNN"
    return [
        _ratio(document, why, "map", "cudnn", 128 * _K, 1.0, f"{everything}, causal, 128k"),
        _ratio(document, why, "map", "cudnn", 32 * _K, 1.1, f"{everything}, causal, 32k"),
        _ratio(document, why, "map", "cudnn", 8 * _K, 1.2, f"{everything}, causal, 8k"),
        _ratio(
            document, why, "map-lse", "cudnn", 128 * _K, 0.7, f"{everything}, log-sum-exp given, causal, 128k"
        ),
        _faster(document, apart, "causal", 6.0),
        _faster(document, apart, "full", 1.0),
        _fused(document, why),
        _limit(document, why, "map", "extra_bytes", 1 << 30, "peak extra memory at 128k, bytes"),
        _limit(document, why, "tile", "seconds", 2e-3, "tile 1024×1024 at 128k, seconds"),
    ]


def _goal(
    goal: str,
    value: float | None,
    limit: float,
    why: str | None,
    *,
    least: bool = False,
    at: Document | None = None,
) -> Document:
    met = None
    if value is None:
        why = why or "not measured in this run"
    elif why is None:
        met = value >= limit if least else value <= limit
    return {"goal": goal, "value": value, "limit": limit, "at_least": least, "met": met, "why": why, "at": at}


def _ratio(
    document: Document, why: str | None, name: str, peer: str, n: int, limit: float, goal: str
) -> Document:
    one = find(document, "causal", n, name)
    at = {"pattern": "causal", "n": n, "name": name, "peer": peer}
    return _goal(goal, one["ratio"].get(peer) if one else None, limit, why, at=at)


def _faster(document: Document, why: str | None, pattern: str, limit: float) -> Document:
    both = [
        (m["n"], 1 / m["ratio"]["flash-colsum"])
        for m in document["measurements"]
        if m["pattern"] == pattern and m["name"] == "mass" and "flash-colsum" in m["ratio"]
    ]
    at = f", {max(both)[0]:,} tokens" if both else ""
    goal = f"column mass with its row pass, times faster than flash-colsum, {pattern}{at}"
    return _goal(goal, max(both)[1] if both else None, limit, why, least=True)


def _fused(document: Document, why: str | None) -> Document:
    goal = "statistics fused with the output ÷ statistics + fastest separate forward, causal, longest"
    found = [m for m in document["measurements"] if m["pattern"] == "causal" and m["name"] == "rows-output"]
    if not found:
        return _goal(goal, None, 1.0, why)
    one = max(found, key=lambda m: float(m["n"]))
    rows = find(document, "causal", one["n"], "rows")
    forwards = [
        m["seconds"]
        for m in document["measurements"]
        if m["kind"] == "peer" and _place(m) == _place(one) and m["name"] != "flash-colsum"
    ]
    separate = rows["seconds"] + min(forwards) if rows and forwards else None
    return _goal(goal, one["seconds"] / separate if separate else None, 1.0, why)


def _limit(document: Document, why: str | None, name: str, field: str, limit: float, goal: str) -> Document:
    one = find(document, "causal", 128 * _K, name)
    return _goal(goal, float(one[field]) if one else None, limit, why)
