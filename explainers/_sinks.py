"""Attention sinks: tokens that receive far more attention than an even spread would give them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import RecordError
from probe.explainers.reading import Floats, Ints, origin_of, received_share, tower_of, uniform_share
from probe.explainers.spec import Choice, Interval, Text, explainer
from probe.record import strings

__all__ = ["sinks"]

Flags = NDArray[np.bool_]


@explainer(
    title="Attention sinks",
    shape="reads",
    kind="head_table",
    references=(
        "Gu et al., When Attention Sink Emerges in Language Models, ICLR 2025 (arXiv 2410.10781)",
        "Yu et al., Unveiling and Harnessing Hidden Attention Sinks (ACT), ICML 2024 (arXiv 2406.15765)",
    ),
)
def sinks(
    trace: xr.DataTree,
    *,
    rule: Annotated[
        str,
        Choice(
            "corrected", "literal", help="a token is a sink above factor × a uniform map's share, or × 1/T"
        ),
    ] = "corrected",
    factor: Annotated[
        float, Interval(1, 1000, "how many times the reference share makes a sink (ACT's a)")
    ] = 5.0,
    epsilon: Annotated[
        float, Interval(0, 1, "first-token sink: mean attention above this (Gu et al.)")
    ] = 0.3,
    min_queries: Annotated[int, Interval(1, 1_000_000, "leave out tokens that fewer queries see")] = 8,
    top_tokens: Annotated[int, Interval(1, 1000, "how many sink tokens to list")] = 20,
    tower: Annotated[str, Text("which tower of the record")] = "text",
) -> xr.Dataset:
    """Which heads send their attention to the first token, and which later tokens act as sinks.

    α_k is the mean attention that key k receives from the queries that see it. Gu et al. call a head a
    first-token sink if α_0 > ε. ACT flags any token with α_k > a/T ("literal"); on a causal map this flags
    early tokens even when attention is uniform (α_0 = Har_T/T exceeds 5/T from T = 83 on), so "corrected"
    compares α_k with its exact value E_k under a uniform map over the same visible keys. With few tokens
    α_0/E_0 cannot reach the factor at all (its ceiling is 1/E_0): `first_token` and `sink_rate` carry the
    first token's story there.

    Args:
        trace: a record with the statistic "received".
        rule: which reference counts for later sinks. "literal" is possible for every attention pattern.
        factor: a of ACT, default 5.
        epsilon: ε of Gu et al., default 0.3.
        min_queries: tokens seen by fewer queries are no candidates for later sinks: their α is a mean of few
            values.
        top_tokens: length of the list of sink tokens.
        tower: group of the record.

    Returns:
        head_table, means over samples with equal weight (attribute `samples` says how many): first_token (α_0
        of the first valid token), sink_rate (share of samples with α_0 > ε), later_sinks (mean count per
        sample), first_flagged_literal; with rule "corrected" also first_ratio (α_0/E_0) and
        first_flagged_corrected. Per `sink`: sink_text, sink_count (flags over samples, layers, heads),
        sink_frequency (flags per occurrence and head). All unit 1.

    Raises:
        RecordError: no "received" in the record, or a visibility pattern from which E_k does not follow.
    """
    data = tower_of(trace, tower, "received", "seen_by", "keys_seen")
    group = str(data.attrs.get("keys", "tokens"))
    texts = np.asarray(trace[f"{group}/text"]) if group in trace.children else None
    texts = texts if texts is not None and (texts != "").any() else None  # patches have no text
    count = _Count(rule == "corrected", factor, epsilon, min_queries, texts)
    for layer in range(data.sizes["layer"]):
        count.add_layer(data.isel(layer=layer))
    result = xr.Dataset(
        count.table(), coords={c: data[c] for c in ("layer", "head", "module") if c in data.coords}
    )
    result = result.assign(count.sink_tokens(top_tokens))
    result.attrs = {
        **origin_of(trace),
        "unit": "1",
        "value": "first_token",
        "averaging": "mean over samples, equal weight",
    }
    result.attrs["samples"] = data.sizes["sample"]
    if texts is None:
        result.attrs["note"] = "the record has no token texts, so sink tokens are not listed"
    return result


@dataclass
class _Count:
    """Sums over one record, layer by layer, so that one layer at a time is in memory."""

    corrected: bool
    factor: float
    epsilon: float
    min_queries: int
    texts: NDArray[np.str_] | None
    rows: list[dict[str, Floats]] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)
    chances: Counter[str] = field(default_factory=Counter)
    expectations: dict[bytes, Floats] = field(default_factory=dict)

    def add_layer(self, layer: xr.Dataset) -> None:
        """Add one layer: received (sample, head, key), seen_by (sample, key), keys_seen (sample, query)."""
        received = layer["received"].transpose("sample", "head", "key").values
        seen_by = layer["seen_by"].transpose("sample", "key").values.astype(np.int64)
        keys_seen = layer["keys_seen"].transpose("sample", "query").values.astype(np.int64)
        samples = [self._sample(s, received[s], keys_seen[s], seen_by[s]) for s in range(len(received))]
        self.rows.append({name: np.mean([row[name] for row in samples], axis=0) for name in samples[0]})

    def table(self) -> dict[str, tuple[tuple[str, ...], Floats]]:
        """The variables over (layer, head)."""
        return {
            name: (("layer", "head"), np.stack([row[name] for row in self.rows])) for name in self.rows[0]
        }

    def sink_tokens(self, top: int) -> dict[str, tuple[str, NDArray[Any]]]:
        """The most frequent later sinks by token text; empty lists where no token was flagged."""
        if self.texts is None:
            return {}
        common = [item for item in self.flags.most_common(top) if item[1]]
        return {
            "sink_text": ("sink", strings([text for text, _ in common])),
            "sink_count": ("sink", np.array([count for _, count in common], dtype=np.int64)),
            "sink_frequency": (
                "sink",
                np.array([count / self.chances[text] for text, count in common], dtype=np.float64),
            ),
        }

    def _sample(self, sample: int, received: Floats, keys_seen: Ints, seen_by: Ints) -> dict[str, Floats]:
        share = received_share(received, seen_by)
        valid = np.flatnonzero(seen_by > 0)
        if not valid.size or not np.isfinite(share[:, valid]).all():
            raise RecordError(f"'received' of sample {sample} has no valid token, or no finite number at one")
        literal = share * len(valid)
        found = {"first_token": share[:, valid[0]], "sink_rate": share[:, valid[0]] > self.epsilon}
        found["first_flagged_literal"] = literal[:, valid[0]] > self.factor
        ratio = literal
        if self.corrected:
            ratio = share / self._expected(keys_seen, seen_by)
            found |= {
                "first_ratio": ratio[:, valid[0]],
                "first_flagged_corrected": ratio[:, valid[0]] > self.factor,
            }
        later = valid[1:][seen_by[valid[1:]] >= self.min_queries]
        flagged = ratio[:, later] > self.factor
        found["later_sinks"] = flagged.sum(axis=1)
        self._remember(sample, later, flagged)
        return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}

    def _expected(self, keys_seen: Ints, seen_by: Ints) -> Floats:
        key = keys_seen.tobytes() + seen_by.tobytes()
        if key not in self.expectations:
            self.expectations[key] = uniform_share(keys_seen, seen_by)
        return self.expectations[key]

    def _remember(self, sample: int, later: Ints, flagged: Flags) -> None:
        if self.texts is None:
            return
        for token, heads in zip(self.texts[sample, later], flagged.sum(axis=0), strict=True):
            self.chances[str(token)] += len(flagged)
            self.flags[str(token)] += int(heads)
