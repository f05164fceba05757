"""Tables over layers and heads in sentences, each computed from their numbers."""

import json
from collections.abc import Callable

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.calibrated import act_statements
from probe.explainers._verbalize.calibration import search_statements
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, percent, plural, quoted


def table_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a head_table; `sinks` and `entropy` have their own, others name their extremes.

    Raises:
        InputError: a table without any finite number.
    """
    value = data[data.attrs["value"]]
    if not np.isfinite(value.values).any():
        raise InputError(f"the table {data.attrs['value']!r} has no finite number to put into words")
    special: dict[str, Callable[[xr.Dataset], list[Statement]]] = {
        "sinks": _sinks,
        "entropy": _entropy,
        "act": act_statements,
        "act_heads": search_statements,
    }
    return special.get(str(data.attrs["explainer"]), _extremes)(data)


def layer_ranges(layers: list[int]) -> str:
    """Layer numbers with runs drawn together: "0–1, 10 and 12–14"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return listing([f"{a}" if a == b else f"{a}–{b}" for a, b in parts])


def _head(table: xr.DataArray, highest: bool) -> tuple[str, float]:
    """Name and value of the extreme head."""
    values = np.where(np.isfinite(table.values), table.values, -np.inf if highest else np.inf)
    layer, head = np.unravel_index(int(values.argmax() if highest else values.argmin()), values.shape)
    name = f"layer {int(table['layer'].values[layer])}, head {int(table['head'].values[head])}"
    return name, float(values[layer, head])


def _sinks(data: xr.Dataset) -> list[Statement]:
    settings = json.loads(data.attrs["parameters"])
    first, rate = data["first_token"], data["sink_rate"]
    heads, mean = first.size, float(rate.mean())
    texts = plural(int(data.attrs["samples"]), "text")
    threshold = percent(settings["epsilon"])
    text = (
        f"Over {texts}, {percent(mean)} of the {heads} heads give the first token more than {threshold} "
        "of the attention of an average query."
    )
    found = [Statement("first_token", text, mean)]
    by_layer = rate.mean("head")
    none = [
        int(layer) for layer, share in zip(rate["layer"].values, by_layer.values, strict=True) if share == 0
    ]
    if 0 < len(none) < first.sizes["layer"]:
        noun = "layer" if len(none) == 1 else "layers"
        found.append(
            Statement("layers_without", f"No head does so in {noun} {layer_ranges(none)}.", float(len(none)))
        )
    name, top = _head(first, highest=True)
    found.append(Statement("strongest", f"The strongest is {name}, where it receives {percent(top)}.", top))
    return found + _later(data, settings["rule"])


def _later(data: xr.Dataset, rule: str) -> list[Statement]:
    later = data["later_sinks"]
    mean, (name, most) = float(later.mean()), _head(later, highest=True)
    if most == 0:
        return [Statement("later_sinks", f"No later token is a sink ({rule} rule).", 0.0)]
    text = f"Later sinks ({rule} rule): {mean:.2f} per head and text on average, most in {name} ({most:.1f})."
    found = [Statement("later_sinks", text, mean)]
    if data.sizes.get("sink", 0):
        tokens, counts = data["sink_text"].values[:5], data["sink_count"].values[:5]
        named = [f"{quoted(str(token))} ({count:,})" for token, count in zip(tokens, counts, strict=True)]
        verb = "token is" if len(named) == 1 else "tokens are"
        found.append(
            Statement("sink_tokens", f"The most frequent {verb} {listing(named)}.", float(counts[0]))
        )
    return found


def _entropy(data: xr.Dataset) -> list[Statement]:
    unit, table, keys = data.attrs["unit"], data["entropy"], data["effective_keys"]
    mean = float(keys.mean())
    found = [Statement("mean", f"An average head spreads its attention like {mean:.1f} equal keys.", mean)]
    for claim, highest, words in (
        ("most_focused", False, "most focused"),
        ("widest", True, "most widely spread"),
    ):
        name, value = _head(table, highest)
        found.append(Statement(claim, f"The {words} head is {name} (entropy {value:.2f} {unit}s).", value))
    normal = data["normalized"].mean("head")
    if np.isfinite(normal.values).any():
        layer = int(normal["layer"].values[int(np.nanargmin(normal.values))])
        low = float(normal.min())
        text = (
            f"The most focused layer is {layer}: on average {percent(low)} of the highest entropy possible."
        )
        found.append(Statement("most_focused_layer", text, low))
    return found


def _extremes(data: xr.Dataset) -> list[Statement]:
    name, unit = str(data.attrs["value"]), str(data.attrs["unit"])
    table, suffix = data[name], "" if unit == "1" else f" {unit}"
    label = name.replace("_", " ")
    found = []
    for claim, highest in (("highest", True), ("lowest", False)):
        head, value = _head(table, highest)
        found.append(Statement(claim, f"The {claim} {label} is {value:.3g}{suffix} ({head}).", value))
    mean = float(table.mean())
    found.append(Statement("mean", f"The mean over all heads is {mean:.3g}{suffix}.", mean))
    return found
