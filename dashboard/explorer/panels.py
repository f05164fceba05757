"""A panel: one labelled result of a state, its figure, its caption, and what can be taken away from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dash import ClientsideFunction, Dash, Input, Output, dcc, html, no_update

from probe.dashboard.explorer.attributes import aria, data
from probe.dashboard.explorer.state import State
from probe.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import plotly.graph_objects as go
    import xarray as xr
    from dash.development.base_component import Component

    from probe.dashboard.explorer.store import Store

CONFIG: Any = {"displaylogo": False, "responsive": True, "displayModeBar": False}
HIDDEN = {"height": "0px", "overflow": "hidden", "visibility": "hidden"}
"""A figure's style while there is nothing to show; its width stays, so that it is drawn right when it comes."""
PANELS: dict[str, Panel] = {}
"""Those of all registered pages, by id: what `/_data/<id>.csv` serves."""


@dataclass(frozen=True)
class Panel:
    """One figure with its data, as a function of the state alone.

    Attributes:
        id: unique in the app, "overview-grid".
        title: what it shows.
        uses: the fields of the state that it depends on beside record, other, tower and sample; others do not redraw it.
        result: its labelled data; what it raises as a ProbeError stands in the panel instead of the figure.
        draw: its figure. Points that select carry `layout.meta = {"select": ["layer", "head"]}` and begin their customdata
            with these numbers.
        caption: unit, scale and what was left out, in one line.
        height: pixels that are kept for it while it loads.
    """

    id: str
    title: str
    uses: tuple[str, ...]
    result: Callable[[State, Store], xr.Dataset]
    draw: Callable[[xr.Dataset, State], go.Figure]
    caption: Callable[[xr.Dataset, State], str]
    height: int = 420


def foot(panel: Panel, caption: Component, *pictures: Component) -> Component:
    """What stands below a figure: its caption, and what can be downloaded.

    Args:
        panel: whose data are offered.
        caption: the figure's.
        *pictures: buttons that take the figure as a picture.
    """
    files = [
        html.A(
            kind.upper(),
            href=f"/_data/{panel.id}.{kind}",
            className="take",
            download="",
            **data(panel=panel.id, kind=kind),
        )
        for kind in ("csv", "parquet", "npz")
    ]
    taken = html.Div([*pictures, *files], className="takes")
    return html.Div(
        [caption, html.Details([html.Summary("Download"), taken], className="download")],
        className="panel-foot",
    )


def mount(panel: Panel, *controls: Component, wide: bool = False) -> Component:
    """The panel's place on a page: title, controls, figure, caption, downloads; it fills itself.

    Args:
        panel: registered by `wire`.
        *controls: beside the title.
        wide: over the full width.
    """
    pictures = [
        html.Button(kind.upper(), type="button", className="take", **data(panel=panel.id, picture=kind))
        for kind in ("png", "svg")
    ]
    figure = dcc.Graph(
        id=f"{panel.id}-figure", config=CONFIG, style={"height": f"{panel.height}px"}, className="figure"
    )
    return html.Section(
        [
            html.Div([html.H2(panel.title), *controls], className="panel-head"),
            dcc.Loading(
                html.Div([figure, html.Div(id=f"{panel.id}-message")], className="panel-body"),
                delay_show=200,
                type="dot",
            ),
            foot(panel, html.P(id=f"{panel.id}-caption", className="caption"), *pictures),
            dcc.Store(id=f"{panel.id}-uses"),
            dcc.Store(id=f"{panel.id}-fields", data=["record", "other", "tower", "sample", *panel.uses]),
        ],
        className="panel wide" if wide else "panel",
        id=panel.id,
        **aria(panel.title),
    )


def wire(app: Dash, store: Store, panel: Panel) -> None:
    """Register the panel: it redraws when a field that it uses changes, and its points write the selection.

    Args:
        app: the app.
        store: the records.
        panel: the panel.
    """
    PANELS[panel.id] = panel
    app.clientside_callback(
        ClientsideFunction("probe", "uses"),
        Output(f"{panel.id}-uses", "data"),
        Input("selection", "data"),
        Input(f"{panel.id}-fields", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("probe", "picked"),
        Input(f"{panel.id}-figure", "clickData"),
        Input(f"{panel.id}-figure", "id"),
    )

    @app.callback(
        Output(f"{panel.id}-figure", "figure"),
        Output(f"{panel.id}-figure", "style"),
        Output(f"{panel.id}-message", "children"),
        Output(f"{panel.id}-caption", "children"),
        Input(f"{panel.id}-uses", "data"),
        prevent_initial_call=True,
    )
    def fill(used: Any) -> tuple[Any, dict[str, str], Any, str]:
        return filled(panel, State.from_fields(used or {}), store)


def filled(panel: Panel, state: State, store: Store) -> tuple[Any, dict[str, str], Any, str]:
    """A panel's figure, its style, a message in its place, and its caption.

    Args:
        panel: the panel.
        state: what to show.
        store: the records.
    """
    try:
        result = panel.result(state, store)
        figure = panel.draw(result, state)
        height = int(figure.layout.height or panel.height)
        return figure, {"height": f"{height}px"}, None, panel.caption(result, state)
    except ProbeError as error:
        said = html.Div(
            [html.Strong("Nothing to show here. "), str(error)], className="message", role="status"
        )
        return no_update, HIDDEN, said, ""
