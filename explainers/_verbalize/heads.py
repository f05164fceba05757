"""Head types, ranks and sink tokens in sentences, each computed from their numbers."""

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, percent, plural, quoted

_CALLED = {
    "previous_token": "previous-token",
    "induction": "induction",
    "duplicate_token": "duplicate-token",
    "separator": "separator",
    "offset": "positional",
    "first_token": "first-token",
    "local": "local",
}
_NAMED = 4


def head_type_statements(data: xr.Dataset) -> list[Statement]:
    """One sentence a kind: how many heads, and the clearest of them with their scores."""
    kinds, heads = data["type"].values.astype(object), data["score"].size
    found = []
    for kind, called in _CALLED.items():
        layer, head = np.nonzero(kinds == kind)
        if not len(layer):
            continue
        values = data[kind].values[layer, head]
        order = np.argsort(-values, kind="stable")[:_NAMED]
        named = [
            f"{data['layer'].values[layer[i]]}.{data['head'].values[head[i]]} ({values[i]:.2f})"
            for i in order
        ]
        more = ", the clearest" if len(layer) > len(order) else ":"
        text = f"{called.capitalize()} heads: {len(layer)} of {heads}{more} {listing(named)}."
        found.append(Statement(kind, text, float(len(layer))))
    none = int((kinds == "").sum())
    found.append(Statement("none", f"Of no kind: {plural(none, 'head')} of {heads}.", float(none)))
    top = np.unravel_index(int(np.nanargmax(data["score"].values)), kinds.shape)
    where = f"layer {data['layer'].values[top[0]]}, head {data['head'].values[top[1]]}"
    value = float(data["score"].values[top])
    found.append(
        Statement("clearest", f"The clearest of all is {where}: {value:.2f} of its attention.", value)
    )
    absent = [called for kind, called in _CALLED.items() if not (kinds == kind).any()]
    if absent:
        found.append(Statement("absent", f"Not found: {listing(absent)} heads.", float(len(absent))))
    return found


def rank_statements(data: xr.Dataset) -> list[Statement]:
    """The mean and the extremes of the measure, with errors where there are some, and what it is out of."""
    name, n = str(data.attrs["value"]), int(data.attrs["tokens"])
    table, label = data[name], name.replace("_", " ")
    error = data.get(f"{name}_error")
    mean = float(table.mean())
    out = f"Over {n:,} tokens, the {label} of an attention map is {mean:.1f} on average"
    found = [Statement("mean", f"{out}, {percent(mean / n)} of the most possible.", mean)]
    for claim, best in (("highest", np.nanargmax), ("lowest", np.nanargmin)):
        at = np.unravel_index(int(best(table.values)), table.shape)
        value = float(table.values[at])
        off = "" if error is None else f" ± {float(error.values[at]):.2g}"
        where = f"layer {table['layer'].values[at[0]]}, head {table['head'].values[at[1]]}"
        found.append(Statement(claim, f"The {claim} is {value:.3g}{off} ({where}).", value))
    by_layer = table.mean("head")
    layer = int(by_layer["layer"].values[int(np.nanargmin(by_layer.values))])
    low = float(by_layer.min())
    found.append(Statement("lowest_layer", f"The lowest layer is {layer} (mean {low:.3g}).", low))
    return found


def feature_statements(data: xr.Dataset) -> list[Statement]:
    """Softmax beside linear outputs, and what the token weights change."""
    measure = str(data.attrs["measure"]).replace("_", " ")
    soft, linear = data["softmax_output"], data["linear_output"]
    higher = float((soft > linear).mean())
    first = (
        f"The {measure} of a head's output is {float(soft.mean()):.1f} with softmax and {float(linear.mean()):.1f} "
        "with linear attention, on average."
    )
    found = [Statement("outputs", first, float(soft.mean()))]
    found.append(
        Statement("higher", f"Softmax has the higher one in {percent(higher)} of the heads.", higher)
    )
    plain, weighted = data["kv_buffer"], data["weighted_kv_buffer"]
    text = f"RALA's token weights take the KV buffer from {float(plain.mean()):.1f} to {float(weighted.mean()):.1f}"
    raised = float((weighted > plain).mean())
    found.append(Statement("weights", f"{text} and raise it in {percent(raised)} of the heads.", raised))
    if "weighted_output" in data:
        mean = float(data["weighted_output"].mean())
        found.append(Statement("weighted_output", f"With them the linear output has {mean:.1f}.", mean))
    return found


def sink_strip_statements(data: xr.Dataset) -> list[Statement]:
    """The tokens that receive most, and how many receive more than an even spread.

    Raises:
        InputError: a strip without any finite ratio.
    """
    ratio = data["ratio"].values
    there = np.flatnonzero(np.isfinite(ratio))
    if not there.size:
        raise InputError("no token of the strip has a finite ratio to put into words")
    texts = [str(t) for t in data["text"].values]
    order = [int(i) for i in there[np.argsort(-ratio[there], kind="stable")][:3]]
    named = [f"{quoted(texts[i])} ({ratio[i]:.1f} times)" for i in order]
    beside = "an even map" if data.attrs["reference"] == "even map" else "a share of 1/T"
    text = f"Beside {beside}, most attention is received by {listing(named)}."
    found = [Statement("strongest", text, float(ratio[order[0]]), tuple(order))]
    above = int((ratio[there] > 1).sum())
    text = f"More than {beside} would give them is received by {plural(above, 'token')} of {there.size}."
    found.append(Statement("above", text, float(above)))
    heads = data["sink_heads"].values
    top = int(there[np.argmax(heads[there])])
    share = float(heads[top])
    text = f"{quoted(texts[top])} is a sink in {percent(share)} of the {data.attrs['heads']} heads."
    if share == 0:
        text = "No token is a sink in any head by the rule that was asked for."
    found.append(Statement("sink_heads", text, share, (top,)))
    return found


GRAMMAR = {
    "rank": rank_statements,
    "feature_rank": feature_statements,
    "head_types": head_type_statements,
    "sink_tokens": sink_strip_statements,
}
