"""Head: one head's whole map at any length, from the whole down to a single weight, and what it says about the head."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash import State as Given

from probe.dashboard.explorer import tiles
from probe.dashboard.explorer.attributes import more
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import PANELS, Panel, foot, mount, wire
from probe.dashboard.explorer.quantities import tower_name
from probe.dashboard.explorer.state import State
from probe.deepzoom.single import distances
from probe.deepzoom.zoom import kept_layers, zoom
from probe.errors import InputError, ProbeError, RecordError
from probe.record import towers
from probe.viz._head_figures import draw_distances, draw_links
from probe.viz._map2d import draw_map2d

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from probe.dashboard.explorer.store import Store
    from probe.viz._tiles import Tiles

LINKS = 12
_CELLS = 512
"""Cells a side of what the map's download holds; it says so."""


def layout(state: State, store: Store) -> Component:
    """The map, and beside it the links of the chosen token and the distances; or what to capture."""
    try:
        chosen(state, store)
    except RecordError as error:
        return html.Div([_without(str(error)), mount(POOLED, wide=True)], className="panels")
    side = html.Div([mount(KEYS), mount(QUERIES), mount(DISTANCES)], className="beside")
    return html.Div([_map(), side], className="panels head-page")


def register(app: Dash, store: Store) -> None:
    """The routes of the tiles, the panels, and the map that follows the selection."""
    tiles.register(app.server, store)
    for panel in (KEYS, QUERIES, DISTANCES, POOLED):
        wire(app, store, panel)
    PANELS[MAP.id] = MAP  # its picture is the deep zoom's own
    app.clientside_callback(
        ClientsideFunction("probe", "uses"),
        Output("head-map-uses", "data"),
        Input("selection", "data"),
        Input("head-map-fields", "data"),
    )
    app.clientside_callback(ClientsideFunction("deepzoom", "followed"), Input("selection", "data"))

    @app.callback(
        Output("head-map-place", "children"),
        Output("head-map-caption-words", "children"),
        Input("head-map-uses", "data"),
        Given("selection", "data"),
        prevent_initial_call=True,
    )
    def other_head(used: Any, selection: Any) -> tuple[Any, str]:
        state = State.from_fields({**(selection or {}), **(used or {})})
        try:
            where = chosen(state, store)
            return _place(state, store, *where), _words(state, store, *where)
        except ProbeError as error:
            return html.Div(str(error), className="message", role="status"), ""


def chosen(state: State, store: Store) -> tuple[str, int, int]:
    """Tower, layer and head to show: those of the state, the first that were kept where it names none.

    Raises:
        RecordError: the record kept no queries and keys.
        InputError: a layer or head that was not kept.
    """
    tree = store.open(state.record)
    tower = tower_name(state, tree)
    kept = kept_layers(tree, tower)
    if not kept:
        raise RecordError(
            f"{state.record} kept no queries and keys of /{tower}, so that its maps cannot be computed again"
        )
    layer = kept[0] if state.layer is None else state.layer
    if layer not in kept:
        raise InputError(
            f"layer {layer}: the record kept queries and keys of the layers {_listed(kept)} only"
        )
    heads = [int(h) for h in tree[f"qkv/{tower}/{layer}"].to_dataset()["head"].values]
    head = heads[0] if state.head is None else state.head
    if head not in heads:
        raise InputError(f"head {head}: the record kept the heads {_listed(heads)} of layer {layer} only")
    return tower, layer, head


def _map() -> Component:
    """The panel of the map; its downloads are the region in sight."""
    picture = html.Button("PNG", type="button", className="take", **more({"data-zoom-picture": "1"}))
    below = foot(MAP, html.P(className="caption", id="head-map-caption-words"), picture)
    stores = [
        dcc.Store(id="head-map-uses"),
        dcc.Store(id="head-map-fields", data=["record", "other", "tower", "sample", "layer", "head"]),
    ]
    place = html.Div(id="head-map-place")
    title = html.Div(html.H2(MAP.title), className="panel-head")
    return html.Section(
        [title, place, below, *stores], className="panel", id=MAP.id, **more({"aria-label": MAP.title})
    )


def _place(state: State, store: Store, tower: str, layer: int, head: int) -> Component:
    told: dict[str, Any] = {
        "map": {"record": state.record, "tower": tower, "layer": layer, "head": head, "sample": state.sample},
        "stamp": store.entry(state.record).created,
        "query": state.query,
        "key": state.key,
        "region": state.region,
    }
    return html.Div(
        className="deepzoom-place", key=json.dumps(told["map"]), **more({"data-map": json.dumps(told)})
    )


def _words(state: State, store: Store, tower: str, layer: int, head: int) -> str:
    about = _tiles(state, store).about()
    pooled = [
        name
        for name, size in about["largest"].items()
        if size * about["side"] >= max(about["queries"], about["keys"])
    ]
    left = (
        ""
        if len(pooled) == 2
        else f" The largest of a cell was not pooled at capture: “max” goes up to {about['largest']['max']} pairs a side."
    )
    facts = [
        str(store.open(state.record)[tower][name].sel(layer=layer).values)
        for name in ("rule", "backend")
        if name in store.open(state.record)[tower].coords
    ]
    return (
        f"Weights (probabilities), layer {layer}, head {head}: {about['queries']:,} queries × {about['keys']:,} keys, "
        f"{', '.join(facts)}. Nothing is left out; grey pairs are hidden by the rules.{left}"
    )


def _tiles(state: State, store: Store) -> Tiles:
    tower, layer, head = chosen(state, store)
    return tiles.map_of(store, state.record, tower, layer, head, state.sample)


def _seen(state: State, store: Store) -> xr.Dataset:
    tower, layer, head = chosen(state, store)
    rows, columns = state.rows_and_columns or (None, None)
    return zoom(
        store.open(state.record),
        layer=layer,
        head=head,
        stream=tower,
        sample=state.sample,
        rows=rows,
        columns=columns,
        cells=(_CELLS, _CELLS),
    )


def _links(of: str) -> Any:
    def result(state: State, store: Store) -> xr.Dataset:
        at = getattr(state, of)
        if at is None:
            raise InputError(f"Click a cell of the map, or type a {of} above, to see its strongest links.")
        one = _tiles(state, store)
        found = one.links(**{of: at}, links=LINKS)
        columns = {
            name: ("link", np.asarray([link[name] for link in found], dtype=kind))
            for name, kind in (("at", np.int64), ("weight", np.float32), ("text", object))
        }
        side = "queries" if of == "query" else "keys"
        attrs = {
            "of": of,
            "position": at,
            "of_text": one.texts(side, at, at + 1)[0],
            "layer": one.layer,
            "head": one.head,
            "unit": "probability",
        }
        return xr.Dataset(columns, attrs=attrs)

    return result


def _link_words(links: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of all captions
    number = links.sizes["link"]
    if links.attrs["of"] == "query":
        rest = max(0.0, 1 - float(links["weight"].sum()))
        return f"Exact weights, probability; the {number} largest. All other keys and any sink logit together: {rest:.1%}."
    return f"Exact weights, probability; the {number} queries that look at this key most. The others are left out."


def _distances(state: State, store: Store) -> xr.Dataset:
    where = chosen(state, store)
    return store.hold(
        state.record, ("distances", *where, state.sample), lambda: distances(_tiles(state, store).one)
    )


def _distance_words(found: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of all captions
    taken = f"the mean of every query ({found.attrs['queries']:,})"
    if found.attrs["step"] > 1:
        taken = f"every {found.attrs['step']:,}-th query ({found.attrs['queries']}), each exactly; lines: one standard error"
    return f"Share of a row's attention (probability) by distance: {taken}."


def _pooled(state: State, store: Store) -> xr.Dataset:
    tree = store.open(state.record)
    tower = tower_name(state, tree)
    data = tree[tower].to_dataset()
    if "pooled" not in data:
        raise InputError("The record holds no pooled map either (capture with --stats …,pooled).")
    layer = int(data["layer"].values[0]) if state.layer is None else state.layer
    cells = data["pooled"].isel(sample=state.sample).sel(layer=layer, head=state.head or 0)
    spans = [
        f"{a}–{b - 1}" for a, b in zip(data["column_start"].values, data["column_stop"].values, strict=True)
    ]
    names = np.array([str(a) for a in data["row_start"].values], dtype=object)
    return xr.Dataset(
        {"pooled": (("row", "column"), cells.values)},
        {"row": names, "column": np.arange(len(spans)), "text": ("column", np.array(spans, dtype=object))},
        {
            "kind": "map2d",
            "value": "pooled",
            "unit": "probability",
            "row_title": "query",
            "column_title": "keys",
            "margin": "",
            "title": "Pooled map",
            "explainer": "",
            "log": True,
        },
    )


def _without(why: str) -> Component:
    return html.Div(
        [
            html.H2("This record cannot be zoomed into"),
            html.P(
                f"{why}. Capture again and keep them, for some heads or for all (`--keep LAYER:HEADS`, may be repeated):"
            ),
            html.Pre(
                "probe capture --model smollm2 --text-file book.txt --keep 3:0,1 --stats entropy,received,pooled "
                "--out runs/book.zarr"
            ),
        ],
        className="state error",
        role="status",
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (" …" if len(numbers) > 12 else "")


def _needs(tree: xr.DataTree) -> str | None:
    return (
        None
        if towers(tree)
        else "This record holds maps of a picture network and no attention; see the page Image."
    )


MAP = Panel(
    "head-map",
    "The map, from the whole to a single weight",
    ("layer", "head", "region"),
    _seen,
    lambda seen, _: draw_map2d(seen),
    lambda seen, _: f"{seen.sizes['row']} × {seen.sizes['column']} cells",
)
KEYS = Panel(
    "head-keys",
    "Where the chosen query looks",
    ("layer", "head", "query"),
    _links("query"),
    lambda links, _: draw_links(links),
    _link_words,
    300,
)
QUERIES = Panel(
    "head-queries",
    "Who looks at the chosen key",
    ("layer", "head", "key"),
    _links("key"),
    lambda links, _: draw_links(links),
    _link_words,
    300,
)
DISTANCES = Panel(
    "head-distances",
    "How far the head looks",
    ("layer", "head"),
    _distances,
    lambda found, _: draw_distances(found),
    _distance_words,
    300,
)
POOLED = Panel(
    "head-pooled",
    "The map as it was pooled at capture",
    ("layer", "head"),
    _pooled,
    lambda found, _: draw_map2d(found),
    lambda found, _: (
        f"Mean weight (probability) of each of {found.sizes['row']} × {found.sizes['column']} cells, log colours."
    ),
    500,
)
PAGE = Page(
    "head",
    "Head",
    "Zoom into one head's attention like into a street map, down to any single weight.",
    30,
    layout,
    register,
    _needs,
)
