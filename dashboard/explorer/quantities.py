"""What the heads of a record can be compared by: every statistic it holds, and every head table that reads records."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

import numpy as np

from probe.errors import InputError, ProbeError, RecordError
from probe.stats import STATS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from probe.dashboard.explorer.state import State
    from probe.dashboard.explorer.store import Store

SHORT = 8192
"""Tokens up to which explainers are run to learn their further variables; of longer records the main ones are offered."""
SINK_HEADS = 0.5
"""Share of heads in which a token has to be a sink to be left out with them."""
_SKIPPED = ("max_key", "pooled", "received_error")


@dataclass(frozen=True)
class Quantity:
    """A number per head.

    Attributes:
        key: "entropy" of a statistic, "sinks.first_token" of an explainer's variable.
        label: for a menu.
        unit: of the number.
    """

    key: str
    label: str
    unit: str


def tower_name(state: State, tree: xr.DataTree) -> str:
    """The tower that a state means: the named one, or the record's first by name, as the selection bar has it.

    Raises:
        InputError: the record has no such tower, or none.
    """
    from probe.record import towers

    names = sorted(towers(tree))  # folders are listed in any order
    if state.tower and state.tower not in names:
        raise InputError(f"no tower {state.tower!r} in this record; it has: {', '.join(names) or 'none'}")
    if not names:
        raise InputError("this record holds maps alone, no statistics of attention")
    return state.tower or names[0]


def quantities(state: State, store: Store, *, run: bool = False) -> list[Quantity]:
    """All that the state's record offers, statistics first.

    Args:
        state: names record and tower.
        store: the records.
        run: run the explainers of a short record, to offer all of their variables and none that cannot read it.

    Raises:
        ProbeError: the record cannot be read.
    """
    tree = store.open(state.record)
    tower = tower_name(state, tree)
    found = [
        Quantity(name, _label(name), "1" if STATS[name].along == "key" else STATS[name].unit)
        for name in tree[tower].attrs["stats"]
        if name not in _SKIPPED
    ]
    run = run and store.entry(state.record).tokens <= SHORT
    for name, entry in _explainers().items():
        title = str(entry.title)  # type: ignore[attr-defined]
        table = None
        if run:
            try:
                table = _explained(name, state, store)
            except ProbeError:
                continue
        found.append(Quantity(name, title, "" if table is None else str(table.attrs["unit"])))
        others = [] if table is None else [str(v) for v in table.data_vars if v != table.attrs["value"]]
        found += [
            Quantity(f"{name}.{v}", f"{title}: {v.replace('_', ' ')}", "")
            for v in others
            if table is not None and _is_number(table, v)
        ]
    return found


def head_values(key: str, state: State, store: Store) -> xr.Dataset:
    """One quantity of every head of the state's record.

    Args:
        key: of a `Quantity`.
        state: names record, tower and sample, and whether sinks are left out.
        store: the records.

    Returns:
        Variable `value` (layer, head); attributes label, unit, meaning, left_out, record, and those of where it comes from.

    Raises:
        InputError: no such quantity.
        RecordError: the record lacks what it needs.
    """
    if key in STATS and key not in _SKIPPED:
        full = ("heads", key, state.tower, state.sample, state.sinks)
        return store.remember(state.record, full, lambda tree: _of_statistic(key, state, store, tree))
    name, _, variable = key.partition(".")
    if name not in _explainers():
        raise InputError(f"no quantity {key!r}; choose one of the menu")
    table = _explained(name, state, store)
    variable = variable or str(table.attrs["value"])
    if variable not in table or not _is_number(table, variable):
        raise InputError(f"{name} gives no number {variable!r} for each head")
    result = table[[variable]].rename({variable: "value"}).astype("float32").copy()
    left = "" if state.sinks == "on" else "nothing: an explainer's value cannot be taken without sinks"
    main = variable == table.attrs["value"]
    result.attrs = {
        **table.attrs,
        "value": "value",
        "label": f"{table.attrs['title']}: {variable.replace('_', ' ')}",
    }
    result.attrs |= {"unit": table.attrs["unit"] if main else "", "left_out": left, "record": state.record}
    return result


def difference(key: str, state: State, store: Store) -> xr.Dataset:
    """The quantity of the compared record less that of the state's record, head by head.

    Raises:
        InputError: the two have other layers or heads.
        RecordError: one of them lacks what is needed.
    """
    first, second = head_values(key, state, store), head_values(key, state.but(record=state.other), store)
    if dict(first.sizes) != dict(second.sizes):
        shapes = " and ".join(f"{d.sizes['layer']} × {d.sizes['head']}" for d in (first, second))
        raise InputError(
            f"{state.record} and {state.other} cannot be subtracted: they have {shapes} layers × heads"
        )
    result = first.copy()
    result["value"] = ("layer", "head"), second["value"].values - first["value"].values
    result.attrs |= {
        "label": f"difference of {first.attrs['label']}",
        "record": f"{state.other} − {state.record}",
    }
    return result


def sink_positions(state: State, store: Store) -> NDArray[np.int64]:
    """Positions that are left out without sinks: the first valid token, and those that are sinks in most heads.

    Raises:
        RecordError: the record has no "received" from which sinks follow.
    """

    def find(tree: xr.DataTree) -> NDArray[np.int64]:
        from probe import explainers as ex

        tower = tower_name(state, tree)
        few = max(8, tree[tower].sizes["query"] // 4)  # the last tokens are seen by their neighbours alone
        strip = ex.sink_tokens(tree, sample=state.sample, tower=tower, min_queries=few)
        seen = np.flatnonzero(
            tree[tower].to_dataset()["seen_by"].isel(sample=state.sample, layer=0).values > 0
        )
        return np.union1d(seen[:1], seen[np.nan_to_num(strip["sink_heads"].values) >= SINK_HEADS])

    return store.remember(state.record, ("sinks", state.tower, state.sample), find)


def _of_statistic(key: str, state: State, store: Store, tree: xr.DataTree) -> xr.Dataset:
    import xarray as xr

    data = tree[tower_name(state, tree)].to_dataset()
    if key not in data:
        raise RecordError(f"{state.record} lacks the statistic {key!r}: capture it again with --stats {key}")
    if not 0 <= state.sample < data.sizes["sample"]:
        raise InputError(f"sample {state.sample}: the record has {data.sizes['sample']}, counted from 0")
    left = sink_positions(state, store) if state.sinks == "off" else np.array([], dtype=np.int64)
    rows = []
    for layer in range(data.sizes["layer"]):
        one = data[key].isel(sample=state.sample, layer=layer).values.astype(np.float64)
        if STATS[key].along == "key":
            seen = data["seen_by"].isel(sample=state.sample, layer=layer).values
            one = one / np.where(seen > 0, seen, np.nan)
        one[:, left[left < one.shape[1]]] = np.nan
        rows.append(_over(np.nanmax if STATS[key].along == "key" else np.nanmean, one))
    coords = {name: data[name].values for name in ("layer", "head")}
    result = xr.Dataset({"value": (("layer", "head"), np.stack(rows).astype(np.float32))}, coords=coords)
    count = data.sizes[STATS[key].along]
    named = (
        f"{len(left)} sink tokens of {count:,} ({_texts(tree, data, state, left)})"
        if len(left)
        else "nothing"
    )
    result.attrs = {
        "label": _label(key),
        "unit": "1" if STATS[key].along == "key" else STATS[key].unit,
        "value": "value",
        "meaning": STATS[key].meaning,
        "left_out": named,
        "record": state.record,
        "model": str(tree.attrs.get("model", "")),
        "positions": count,
    }
    return result


def _over(reduce: object, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The reduction along positions; NaN for a head without any, in silence."""
    found = np.full(len(values), np.nan)
    some = np.isfinite(values).any(axis=1)
    found[some] = reduce(values[some], axis=1)  # type: ignore[operator]
    return found


def _texts(tree: xr.DataTree, data: xr.Dataset, state: State, at: NDArray[np.int64]) -> str:
    group = str(data.attrs.get("keys", "tokens"))
    texts = tree[group].to_dataset()["text"].isel(sample=state.sample).values[at[:4]]
    return ", ".join(f"{p} “{str(t).strip() or '␣'}”" for p, t in zip(at[:4], texts, strict=True)) + (
        ", …" if len(at) > 4 else ""
    )


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return (
        f"{words}: largest share that one key receives" if STATS[name].along == "key" else f"{words} (mean)"
    )


def _explainers() -> dict[str, object]:
    from probe import explainers as ex

    return {n: e for n, e in sorted(ex.registry().items()) if e.shape == "reads" and e.kind == "head_table"}


def _explained(name: str, state: State, store: Store) -> xr.Dataset:
    entry = _explainers()[name]

    def run(tree: xr.DataTree) -> xr.Dataset:
        takes = signature(entry.function).parameters  # type: ignore[attr-defined]
        given = {"tower": tower_name(state, tree)} if "tower" in takes else {}
        return entry.function(tree, **given)  # type: ignore[attr-defined,no-any-return]

    return store.remember(state.record, ("explained", name, state.tower), run)


def _is_number(table: xr.Dataset, name: str) -> bool:
    return table[name].dims == ("layer", "head") and np.issubdtype(table[name].dtype, np.number)
