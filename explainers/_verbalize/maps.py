"""Maps over rows and columns, and flows, in sentences, each computed from their numbers."""

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, percent, quoted


def map_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a map2d: its highest cell, its course over the rows, and where it ends.

    Raises:
        InputError: a map without any finite number.
    """
    name = str(data.attrs["value"])
    values = data[name].values
    if not np.isfinite(values).any():
        raise InputError(f"the map {name!r} has no finite number to put into words")
    label, title = name.replace("_", " "), str(data.attrs["row_title"])
    texts, rows = [str(t) for t in data["text"].values], data["row"].values
    found = _rollout(data) if data.attrs["explainer"] == "rollout" else []
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    text = f"The highest {label} is {values[row, column]:.3g}: {title} {rows[row]}, {quoted(texts[column])}."
    found.append(Statement("highest", text, float(values[row, column]), (int(column),)))
    margin = str(data.attrs["margin"])
    if margin:
        found += _course(data[margin].values, margin.replace("_", " "), title, rows)
    means = np.nanmean(np.where(np.isfinite(values).any(0), values, 0.0), axis=0)
    top = int(np.argmax(means))
    text = f"Over all rows, it is highest at {quoted(texts[top])} (mean {means[top]:.3g})."
    found.append(Statement("strongest_column", text, float(means[top]), (top,)))
    return found


def _course(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]", label: str, title: str, rows: object
) -> list[Statement]:
    there = np.flatnonzero(np.isfinite(values))
    if not there.size:
        return []
    first, last = int(there[0]), int(there[-1])
    top = int(there[np.argmax(values[there])])
    at = np.asarray(rows)
    text = (
        f"{label.capitalize()}: from {values[first]:.3g} ({title} {at[first]}) to {values[last]:.3g} ({title} {at[last]}), "
        f"highest at {at[top]} ({values[top]:.3g})."
    )
    return [Statement("course", text, float(values[last]))]


def _rollout(data: xr.Dataset) -> list[Statement]:
    settings = data.attrs["parameters"]
    backward = '"direction": "backward"' in settings
    ratio = '"normalise": "uniform"' in settings
    row = data["rollout"].values[0 if backward else -1]
    texts = [str(t) for t in data["text"].values]
    order = [int(i) for i in np.argsort(-np.nan_to_num(row), kind="stable")[:3] if np.nan_to_num(row)[i] > 0]
    told = [
        f"{quoted(texts[i])} ({f'{row[i]:.1f} times an even map' if ratio else percent(float(row[i]))})"
        for i in order
    ]
    token = quoted(str(data.attrs["token"]))
    start = (
        f"Through all layers, the vector of {token} comes most from"
        if backward
        else f"Through all layers, most of {token} is found in"
    )
    value = float(row[order[0]])
    return [Statement("rollout", f"{start} {listing(told)}.", value, tuple(order))]


def flow_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a flow: what the target can be sent, by whom, and on how many paths.

    Raises:
        InputError: a flow without any finite number.
    """
    flow = data["flow"].values
    if not np.isfinite(flow).any():
        raise InputError("the flow has no finite number to put into words")
    texts = [str(t) for t in data["token_text"].values]
    target = quoted(str(data.attrs["target"]))
    order = [int(i) for i in np.argsort(-flow, kind="stable") if i != data.attrs["target_index"]][:3]
    found = []
    if order:
        told = [f"{quoted(texts[i])} ({flow[i]:.2f})" for i in order]
        text = f"Beside itself, {target} can be sent most by {listing(told)}."
        found.append(Statement("senders", text, float(flow[order[0]]), tuple(order)))
    own = float(flow[data.attrs["target_index"]])
    text = f"From its own place {own:.2f} can flow to {target}, where 1 is all that its pipes hold."
    found.append(Statement("own", text, own, (int(data.attrs["target_index"]),)))
    links = int((data[data.attrs["value"]].values > 0).sum())
    origin = quoted(str(data.attrs["origin"]))
    text = f"The flow from {origin} uses {links:,} pipes over {data.attrs['layers']} layers."
    found.append(Statement("pipes", text, float(links)))
    return found


GRAMMAR = {"map2d": map_statements, "flow": flow_statements}
