"""Which tokens of one text are sinks, as coloured text, and how sinks emerge over depth."""

from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers.reading import Floats, Ints, origin_of, received_share, tower_of, uniform_share
from probe.explainers.spec import Choice, Interval, Text, explainer
from probe.record import strings

__all__ = ["sink_depth", "sink_tokens"]

_REFERENCES = (
    "Gu et al., When Attention Sink Emerges in Language Models, ICLR 2025 (arXiv 2410.10781)",
    "Yu et al., Unveiling and Harnessing Hidden Attention Sinks (ACT), ICML 2024 (arXiv 2406.15765)",
)
Rule = Annotated[str, Choice("corrected", "literal", help="times what an even map gives, or times 1/T")]
Sample = Annotated[int, Interval(0, 1_000_000, "index of the sample")]
Tower = Annotated[str, Text("which tower of the record")]


@explainer(title="Sink tokens", shape="reads", kind="token_strip", references=_REFERENCES)
def sink_tokens(
    trace: xr.DataTree,
    *,
    rule: Rule = "corrected",
    factor: Annotated[float, Interval(1, 1000, "how many times the reference share makes a sink")] = 5.0,
    min_queries: Annotated[int, Interval(1, 1_000_000, "leave out tokens that fewer queries see")] = 8,
    sample: Sample = 0,
    tower: Tower = "text",
) -> xr.Dataset:
    """How much more attention each token of one text receives than an even spread would give it, over all heads.

    Args:
        trace: a record with the statistic "received".
        rule: "corrected" divides the mean attention of the queries that see the token by its exact value under an even
            map over the same visible keys; "literal" by 1/T.
        factor: a token is a sink of a head above this.
        min_queries: tokens seen by fewer have no score: theirs would be the mean of few values. Where no token is left (a
            text shorter than this), all have one.
        sample: which text.
        tower: group of the record.

    Returns:
        token_strip: ratio (token), mean over layers and heads, 1 for an even spread; sink_heads (token), share of heads
            in which it
        is a sink; both NaN where it has no score.

    Raises:
        RecordError: no "received" in the record, or a visibility pattern from which the even map does not follow.
    """
    data = tower_of(trace, tower, "received", "seen_by", "keys_seen")
    ratios, seen_by = _ratios(data, sample, rule)
    valid = np.flatnonzero(seen_by > 0)
    enough = seen_by[valid] >= min_queries
    enough = enough if enough.any() else np.ones_like(enough)
    mean = np.where(enough, ratios.mean((0, 1))[valid], np.nan)
    flagged = np.where(enough, (ratios > factor).mean((0, 1))[valid], np.nan)
    names = _names(trace, data, sample, valid, len(seen_by))
    result = xr.Dataset({"ratio": ("token", mean), "sink_heads": ("token", flagged)}, coords=names)
    joined = "".join(str(t) for t in names["text"][1])
    result.attrs = {**origin_of(trace), "unit": "1", "value": "ratio", "sample": sample, "target": ""}
    result.attrs |= {
        "target_probability": 0.0,
        "method": "attention_received",
        "signed": False,
        "input": joined,
    }
    result.attrs |= {
        "heads": int(ratios.shape[0] * ratios.shape[1]),
        "reference": "even map" if rule == "corrected" else "1/T",
    }
    return result


@explainer(title="Sinks over depth", shape="reads", kind="map2d", references=_REFERENCES)
def sink_depth(
    trace: xr.DataTree,
    *,
    rule: Rule = "corrected",
    epsilon: Annotated[
        float, Interval(0, 1, "first-token sink: mean attention above this (Gu et al.)")
    ] = 0.3,
    min_queries: Annotated[int, Interval(1, 1_000_000, "leave out tokens that fewer queries see")] = 8,
    sample: Sample = 0,
    tower: Tower = "text",
) -> xr.Dataset:
    """In which layers sinks emerge, and at which tokens: what each token receives, in every layer.

    Args:
        trace: a record with the statistic "received".
        rule: as of `sink_tokens`.
        epsilon: ε of Gu et al. for the curve beside the map.
        min_queries: as of `sink_tokens`; tokens seen by fewer have no column.
        sample: which text.
        tower: group of the record.

    Returns:
        map2d, rows the layers, columns the tokens: ratio, mean over heads, 1 for an even spread. Over rows:
        first_token_sinks, the share of heads whose first token receives more than ε of the attention of an average query.

    Raises:
        RecordError: as `sink_tokens`.
    """
    data = tower_of(trace, tower, "received", "seen_by", "keys_seen")
    ratios, seen_by = _ratios(data, sample, rule)
    valid = np.flatnonzero(seen_by > 0)
    enough = seen_by[valid] >= min_queries
    columns = valid[enough] if enough.any() else valid
    first = np.stack([_share(data, layer, sample)[0][:, valid[0]] for layer in range(data.sizes["layer"])])
    names = _names(trace, data, sample, columns, len(seen_by))
    result = xr.Dataset(
        {
            "ratio": (("row", "column"), ratios.mean(1)[:, columns]),
            "first_token_sinks": ("row", (first > epsilon).mean(1)),
        },
        coords={"row": data["layer"].values, "column": columns, "text": ("column", names["text"][1])},
    )
    result.attrs = {**origin_of(trace), "unit": "1", "value": "ratio", "sample": sample}
    result.attrs |= {
        "row_title": "layer",
        "column_title": "token",
        "margin": "first_token_sinks",
        "log": True,
    }
    return result


def _share(data: xr.Dataset, layer: int, sample: int) -> tuple[Floats, Ints, Ints]:
    """α [head, key] of one layer, and its counts."""
    if sample >= data.sizes["sample"]:
        raise InputError(f"sample: got {sample}, expected 0 to {data.sizes['sample'] - 1}")
    one = data.isel(layer=layer, sample=sample)
    seen_by = one["seen_by"].values.astype(np.int64)
    keys_seen = one["keys_seen"].values.astype(np.int64)
    return received_share(one["received"].transpose("head", "key").values, seen_by), keys_seen, seen_by


def _ratios(data: xr.Dataset, sample: int, rule: str) -> tuple[Floats, Ints]:
    """α over its reference, [layer, head, key], and how many queries see each key (in the first layer)."""
    known: dict[bytes, Floats] = {}
    rows = []
    for layer in range(data.sizes["layer"]):
        share, keys_seen, seen_by = _share(data, layer, sample)
        if rule == "literal":
            rows.append(share * (seen_by > 0).sum())
            continue
        key = keys_seen.tobytes() + seen_by.tobytes()
        if key not in known:
            known[key] = uniform_share(keys_seen, seen_by)
        rows.append(share / known[key])
    first = data.isel(layer=0, sample=sample)["seen_by"].values.astype(np.int64)
    return np.stack(rows), first


def _names(
    trace: xr.DataTree, data: xr.Dataset, sample: int, valid: Ints, count: int
) -> dict[str, tuple[str, Any]]:
    """Text, role, start and end of the valid tokens; numbers and "text" where the record does not say."""
    group = str(data.attrs.get("keys", "tokens"))
    places = trace[group].to_dataset() if group in trace.children else xr.Dataset()
    absent: dict[str, Any] = {
        "text": np.full(count, ""),
        "role": np.full(count, "text"),
        "start": np.full(count, -1),
    }
    absent["end"] = absent["start"]
    found = {n: places[n].values[sample] if n in places else absent[n] for n in absent}
    texts = [str(found["text"][i]) or f"{i} " for i in valid]
    roles = [str(found["role"][i]) for i in valid]
    plain = ["text" if "text" not in roles else role for role in roles]  # patches have roles of their own
    edges = {n: ("token", np.asarray(found[n])[valid].astype(np.int32)) for n in ("start", "end")}
    return {"text": ("token", strings(texts)), "role": ("token", strings(plain)), **edges}
