"""Text: the tokens of a record coloured by any statistic; pointing at one lights what it attends to, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from probe.dashboard.explorer.attributes import aria
from probe.dashboard.explorer.controls import menu, switch
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import Panel, mount, wire
from probe.dashboard.explorer.tokens import colourings, shown, token_values

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr
    from dash.development.base_component import Component

    from probe.dashboard.explorer.state import State
    from probe.dashboard.explorer.store import Store


def _draw(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._along import along

    return along(result, state.query, log=state.scale == "log")


def _said(result: xr.Dataset, state: State) -> str:
    attrs = result.attrs
    scale = "by decades" if state.scale == "log" else "linear"
    unit = {"1": "times an even spread"}.get(str(attrs["unit"]), attrs["unit"])
    each = "" if state.by == "token" else f", mean of each {state.by}"
    return (
        f"{attrs['label']} of {result.sizes['token']:,} tokens ({attrs['of']}{each}); unit: {unit}; scale: {scale}; "
        f"left out: {attrs['left_out']}. Definition: {attrs['meaning']}."
    )


CURVE = Panel(
    "text-along",
    "Along the text",
    ("colour", "layer", "head", "query", "scale", "by"),
    token_values,
    _draw,
    _said,
    250,
)


def layout(state: State, store: Store) -> Component:
    """Controls, the strip of the whole text, the text itself (drawn where it is looked at), and the curve along it."""
    options = [{"label": label, "value": name} for name, label in colourings(state, store).items()]
    units = tuple((name, name) for name in ("token", "word", "sentence", "segment"))
    controls = html.Div(
        [
            menu("colour", "colour by", options, shown(state, store)),
            switch("by", "by", units, state.by),
            switch("scale", "scale", (("linear", "linear"), ("log", "log")), state.scale),
        ],
        className="controls",
    )
    text = html.Section(
        [
            html.Div(
                [html.H2("The text"), html.Div(id="text-said", className="text-said", role="status")], className="panel-head"
            ),
            html.Div(
                [html.Canvas(id="text-strip", **aria("The whole text; click to go there")),
                 html.Div(id="text-view")],
                className="text-strip",
            ),
            html.Div(id="text-legend", className="text-legend"),
            html.Div(id="text-tokens", className="text-tokens", tabIndex=0, **aria("The tokens")),
            html.P(
                "Point at a token: orange lights what it attends to, green what attends to it. Click keeps it; "
                "Shift+click chooses it as key.",
                className="caption",
            ),
            dcc.Store(id="text-mounted", data=1),
            dcc.Store(id="text-drawn"),
        ],
        className="panel wide text-panel",
        **aria("The text"),
    )  # fmt: skip
    return html.Div([controls, html.Div([text, mount(CURVE, wide=True)], className="panels")])


def register(app: Dash, store: Store) -> None:
    """The curve; the text itself is drawn by its script, which fetches what it shows."""
    wire(app, store, CURVE)
    app.clientside_callback(
        ClientsideFunction("probe", "text"),
        Output("text-drawn", "data"),
        Input("selection", "data"),
        Input("text-mounted", "data"),
    )


def _needs(tree: xr.DataTree) -> str | None:
    from probe.record import positions, towers

    names = sorted(towers(tree))
    if not names:
        return "This record holds maps alone, no statistics of tokens."
    texts = positions(tree, names[0], "queries")["text"].isel(sample=0).values[:64]
    return None if any(str(text) for text in texts) else "The tokens of this record have no text: see Image."


PAGE = Page(
    "text",
    "Text",
    "Which tokens carry the attention, and where does each one look?",
    40,
    layout,
    register,
    _needs,
)
