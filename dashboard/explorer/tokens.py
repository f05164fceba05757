"""A value per token of a record's text, as colours; and which tokens attend to which."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.dashboard.explorer.quantities import tower_name
from probe.dashboard.explorer.tiles import map_of
from probe.dashboard.explorer.units import mean_by, unit_of
from probe.errors import InputError, RecordError
from probe.stats import STATS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from probe.dashboard.explorer.state import State
    from probe.dashboard.explorer.store import Store

FULL = 0.995
"""Of the values: the full colour, so that a single sink does not bleach the text; those beyond it have it too."""
LINKS = 12
"""Tokens that are lit at most."""
_SKIPPED = ("max_key", "pooled")


def colourings(state: State, store: Store) -> dict[str, str]:
    """What can colour the tokens of a record's text: names and labels, statistics first."""
    tree = store.open(state.record)
    stats = tree[tower_name(state, tree)].attrs["stats"]
    found = {name: name.replace("_", " ") for name in stats if name not in _SKIPPED}
    return found | {name: entry.title for name, entry in _strips().items()}


def shown(state: State, store: Store) -> str:
    """The colouring that a state names, or the first of received, entropy and what else there is."""
    known = colourings(state, store)
    if state.colour and state.colour not in known:
        raise InputError(f"colour = {state.colour!r}, expected one of {', '.join(known)}")
    return state.colour or next((n for n in ("received", "entropy") if n in known), next(iter(known)))


def token_values(state: State, store: Store) -> xr.Dataset:
    """One value per token of the state's sample, of its head, or the mean of the heads that the state leaves open.

    Returns:
        `value` (token) with the mean of each unit where the state asks for words, sentences or segments; coordinates text,
        role, valid; attributes label, unit, meaning, of, left_out.

    Raises:
        ProbeError: no such head, statistic or sample, or the record cannot be read.
    """
    name = shown(state, store)
    key = ("tokens", name, state.tower, state.sample, state.layer, state.head)
    own: xr.Dataset = store.remember(state.record, key, lambda tree: _values(name, state, tree))
    if state.by == "token":
        return own
    unit = units(state, store)
    return own.assign(value=("token", mean_by(own["value"].values, unit)), unit=("token", unit))


def units(state: State, store: Store) -> NDArray[np.int64]:
    """The unit of each token of the state's sample."""

    def make(tree: xr.DataTree) -> NDArray[np.int64]:
        places = _places(state, tree)
        return unit_of(
            [str(t) for t in places["text"].values], [str(r) for r in places["role"].values], state.by
        )

    return store.remember(state.record, ("units", state.by, state.tower, state.sample), make)


def codes(values: NDArray[np.float32], *, log: bool) -> tuple[NDArray[np.uint8], float, float]:
    """Values as colours: 0 for none, 1 to 255 from the lowest to the full colour; and these two values.

    Args:
        values: one per token.
        log: by decades; values of 0 and below have none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.log10(values) if log else values.astype(np.float64)
    known = np.isfinite(scaled)
    if not known.any():
        return np.zeros(len(values), dtype=np.uint8), 0.0, 0.0
    low = float(scaled[known].min()) if log or (scaled[known] < 0).any() else 0.0
    high = float(np.quantile(scaled[known], FULL))
    high = high if high > low else float(scaled[known].max())
    part = (np.clip(scaled, low, high) - low) / ((high - low) or 1.0)
    found = np.where(known, 1 + np.round(254 * np.nan_to_num(part)), 0).astype(np.uint8)
    return (found, 10**low, 10**high) if log else (found, low, high)


def links(state: State, store: Store, at: int, side: str) -> list[tuple[int, float]]:
    """The tokens that one attends to most, or by which it is attended to most, in the state's head.

    Args:
        state: names record, tower, sample, layer and head.
        store: the records.
        at: position of the token.
        side: "query" for what it attends to, "key" for what attends to it.

    Raises:
        InputError: no head chosen, or no such position.
        RecordError: the record kept neither q, k and v nor the strongest key.
    """
    if state.layer is None or state.head is None:
        raise InputError("choose a layer and a head to see what a token attends to")
    tree = store.open(state.record)
    tower = tower_name(state, tree)
    sizes = tree[tower].sizes
    count = sizes["query" if side == "query" else "key"]
    if side not in ("query", "key") or not 0 <= at < count:
        raise InputError(f"{side} = {at}, expected a position from 0 to {count - 1}")
    if store.entry(state.record).kept:
        head = map_of(store, state.record, tower, state.layer, state.head, state.sample)
        side_of = {"query": at} if side == "query" else {"key": at}
        return [(one["at"], one["weight"]) for one in head.links(**side_of, links=LINKS)]
    weights = _strongest(tree, state, tower, at, side)
    best = np.argsort(-np.nan_to_num(weights, nan=-1.0), kind="stable")[:LINKS]
    return [(int(i), float(weights[i])) for i in best if np.isfinite(weights[i]) and weights[i] > 0]


def _strongest(tree: xr.DataTree, state: State, tower: str, at: int, side: str) -> NDArray[np.float32]:
    data = tree[tower].to_dataset()
    if not {"max_key", "max_prob"} <= set(data.data_vars):
        raise RecordError(
            "this record kept no queries and keys (--keep qkv) and has no max_key and max_prob: capture it again"
        )
    one = {
        "sample": state.sample,
        "layer": _index(data, "layer", state.layer),
        "head": _index(data, "head", state.head),
    }
    key, weight = (data[n].isel(one) for n in ("max_key", "max_prob"))
    if side == "key":
        return np.where(key.values == at, weight.values, np.nan).astype(np.float32)
    found = np.full(data.sizes["key"], np.nan, dtype=np.float32)
    if int(key[at]) >= 0:
        found[int(key[at])] = float(weight[at])
    return found


def _values(name: str, state: State, tree: xr.DataTree) -> xr.Dataset:
    import xarray as xr

    tower = tower_name(state, tree)
    places = _places(state, tree)
    attrs: dict[str, Any] = {
        "value": "value",
        "record": state.record,
        "model": str(tree.attrs.get("model", "")),
    }
    if name in STATS:
        data = tree[tower].to_dataset()
        values, of = _of_heads(data, name, state)
        stat = STATS[name]
        attrs |= {"label": name.replace("_", " "), "unit": stat.unit, "meaning": stat.meaning, "of": of}
    else:
        entry = _strips()[name]
        takes = signature(entry.function).parameters
        strip = entry.function(
            tree, **{n: v for n, v in (("tower", tower), ("sample", state.sample)) if n in takes}
        )
        values = np.full(places.sizes["token"], np.nan, dtype=np.float32)
        valid = np.flatnonzero(places["valid"].values)
        values[valid[: strip.sizes["token"]]] = strip[str(strip.attrs["value"])].values
        attrs |= {
            "label": strip.attrs["title"],
            "unit": strip.attrs["unit"],
            "meaning": entry.summary,
            "of": "all heads",
        }
    coords = {n: ("token", places[n].values) for n in ("text", "role", "valid")}
    absent = int((~np.isfinite(values)).sum())
    attrs["left_out"] = f"{absent} tokens without a value" if absent else "nothing"
    result = xr.Dataset({"value": ("token", values)}, coords=coords)
    return result.assign_attrs(attrs)


def _of_heads(data: xr.Dataset, name: str, state: State) -> tuple[NDArray[np.float32], str]:
    """Values of a statistic along its tokens, mean over what is left open, one layer in memory at a time."""
    chosen = [_index(data, "layer", state.layer)] if state.layer is not None else range(data.sizes["layer"])
    heads = slice(None) if state.head is None else [_index(data, "head", state.head)]
    total = np.zeros(())
    for layer in chosen:
        one = data[name].isel(sample=state.sample, layer=layer).values[heads].mean(axis=0, dtype=np.float64)
        total = total + one
    layers = "all layers" if state.layer is None else f"layer {state.layer}"
    of = f"head {state.head}" if state.head is not None else "mean of all heads"
    return (total / len(chosen)).astype(np.float32), f"{layers}, {of}"


def _index(data: Any, dim: str, value: int | None) -> int:
    known = data[dim].values.tolist()
    if value not in known:
        raise InputError(f"{dim} {value}: the record has {known[0]} to {known[-1]}")
    return int(known.index(value))


def _places(state: State, tree: xr.DataTree) -> xr.Dataset:
    from probe.record import positions

    places = positions(tree, tower_name(state, tree), "queries")
    if not 0 <= state.sample < places.sizes["sample"]:
        raise InputError(f"sample {state.sample}: the record has {places.sizes['sample']}, counted from 0")
    return places.isel(sample=state.sample)


def _strips() -> dict[str, Any]:
    from probe import explainers as ex

    return {n: e for n, e in sorted(ex.registry().items()) if e.shape == "reads" and e.kind == "token_strip"}
