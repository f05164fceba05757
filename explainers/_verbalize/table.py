"""Tables over layers and heads in sentences, each computed from their numbers."""

import json
from collections.abc import Callable

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.statement import Statement

MOST_NAMED = 5


def table_statements(data: xr.Dataset, language: Language) -> list[Statement]:
    """The sentences of any head_table: its extremes and its mean.

    Raises:
        InputError: a table without any finite number.
    """
    name, unit = str(data.attrs["value"]), str(data.attrs["unit"])
    table, suffix = table_of(data), "" if unit == "1" else f" {unit}"
    label, found = name.replace("_", " "), []
    for claim, highest in (("highest", True), ("lowest", False)):
        head, value = head_of(table, highest, language)
        text = language.say(claim, name=label, value=f"{_figure(value, language)}{suffix}", head=head)
        found.append(Statement(claim, text, value))
    mean = float(table.mean())
    text = language.say("mean", value=f"{_figure(mean, language)}{suffix}")
    return [*found, Statement("mean", text, mean)]


def sinks_statements(data: xr.Dataset, language: Language) -> list[Statement]:
    """How much heads give to the first token, and to which later ones."""
    table_of(data)
    settings = json.loads(data.attrs["parameters"])
    first, rate = data["first_token"], data["sink_rate"]
    text = language.say(
        "first_token",
        texts=language.plural(int(data.attrs["samples"]), "text"),
        share=language.percent(float(rate.mean())),
        heads=first.size,
        threshold=language.percent(settings["epsilon"]),
    )
    found = [Statement("first_token", text, float(rate.mean()))]
    by_layer = zip(rate["layer"].values, rate.mean("head").values, strict=True)
    none = [int(layer) for layer, share in by_layer if share == 0]
    if 0 < len(none) < first.sizes["layer"]:
        claim = "layers_without_1" if len(none) == 1 else "layers_without"
        text = language.say(claim, layers=layer_ranges(none, language))
        found.append(Statement("layers_without", text, float(len(none))))
    head, top = head_of(first, True, language)
    found.append(
        Statement("strongest", language.say("strongest", head=head, share=language.percent(top)), top)
    )
    return found + _later(data, settings["rule"], language)


def entropy_statements(data: xr.Dataset, language: Language) -> list[Statement]:
    """How widely heads spread their attention."""
    unit, table, keys = f"{data.attrs['unit']}s", table_of(data), data["effective_keys"]
    mean = float(keys.mean())
    found = [Statement("mean", language.say("entropy_mean", mean=language.number(mean, 1)), mean)]
    for claim, highest in (("most_focused", False), ("widest", True)):
        head, value = head_of(table, highest, language)
        text = language.say(claim, head=head, value=language.number(value), unit=unit)
        found.append(Statement(claim, text, value))
    normal = data["normalized"].mean("head")
    if np.isfinite(normal.values).any():
        layer = int(normal["layer"].values[int(np.nanargmin(normal.values))])
        low = float(normal.min())
        text = language.say("most_focused_layer", layer=layer, share=language.percent(low))
        found.append(Statement("most_focused_layer", text, low))
    return found


def layer_ranges(layers: list[int], language: Language) -> str:
    """Layer numbers with runs drawn together: "0–1, 10 and 12–14"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return language.listing([f"{a}" if a == b else f"{a}–{b}" for a, b in parts])


def table_of(data: xr.Dataset) -> xr.DataArray:
    """The primary variable.

    Raises:
        InputError: it has no finite number.
    """
    table: xr.DataArray = data[data.attrs["value"]]
    if not np.isfinite(table.values).any():
        raise InputError(f"the table {data.attrs['value']!r} has no finite number to put into words")
    return table


def _figure(value: float, language: Language) -> str:
    return f"{value:.3g}".replace(".", language.decimal)


def head_of(table: xr.DataArray, highest: bool, language: Language) -> tuple[str, float]:
    """Name and value of the extreme head."""
    values = np.where(np.isfinite(table.values), table.values, -np.inf if highest else np.inf)
    layer, head = np.unravel_index(int(values.argmax() if highest else values.argmin()), values.shape)
    number = {"layer": int(table["layer"].values[layer]), "head": int(table["head"].values[head])}
    return language.say("head", **number), float(values[layer, head])


def _later(data: xr.Dataset, rule: str, language: Language) -> list[Statement]:
    later = data["later_sinks"]
    mean, (head, most) = float(later.mean()), head_of(later, True, language)
    if most == 0:
        return [Statement("later_sinks", language.say("no_later_sinks", rule=rule), 0.0)]
    figures = {"mean": language.number(mean), "most": language.number(most, 1)}
    found = [Statement("later_sinks", language.say("later_sinks", rule=rule, head=head, **figures), mean)]
    if data.sizes.get("sink", 0):
        tokens, counts = data["sink_text"].values[:MOST_NAMED], data["sink_count"].values[:MOST_NAMED]
        named = [
            f"{language.quoted(str(token))} ({language.count(int(count))})"
            for token, count in zip(tokens, counts, strict=True)
        ]
        claim = "sink_tokens_1" if len(named) == 1 else "sink_tokens"
        text = language.say(claim, tokens=language.listing(named))
        found.append(Statement("sink_tokens", text, float(counts[0])))
    return found


GRAMMAR: dict[str, Callable[..., list[Statement]]] = {
    "head_table": table_statements,
    "sinks": sinks_statements,
    "entropy": entropy_statements,
}
