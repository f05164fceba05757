"""The explorer's app: navigation, the selection that all panels share, and a page for each address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, dcc, html, no_update
from dash import State as Given

from probe.dashboard.explorer import downloads, text_routes
from probe.dashboard.explorer.background import manager
from probe.dashboard.explorer.page import Page, pages
from probe.dashboard.explorer.safety import Access, protect
from probe.dashboard.explorer.shell import failure, frame, lacking, navigation
from probe.dashboard.explorer.state import State
from probe.dashboard.explorer.store import Store
from probe.errors import ProbeError

if TYPE_CHECKING:
    from pathlib import Path

    from dash.development.base_component import Component

HOME = "records"


def build(folder: str | Path, allowed: Access | None = None) -> Dash:
    """The app over a folder of records; nothing is served yet.

    Args:
        folder: where the records are, or one record.
        allowed: who is answered; None for this machine only.

    Raises:
        InputError: no such folder.
    """
    store, known = Store(folder), pages()
    app = Dash(
        "probe-explorer",
        title="attention-probe",
        assets_folder=str(_ASSETS),
        serve_locally=True,
        suppress_callback_exceptions=True,
        update_title=None,  # type: ignore[arg-type]
        add_log_handler=False,
        background_callback_manager=manager(store.jobs.folder),
    )
    protect(app, allowed or Access())
    app.layout = _shell(known)
    _route(app, store, known)
    for page in known.values():  # each wires its panels
        page.register(app, store)
    downloads.serve(app, store)
    text_routes.serve(app, store)
    return app


def _assets() -> Path:
    from pathlib import Path

    return Path(__file__).parent / "assets"


_ASSETS = _assets()


def _shell(known: dict[str, Page]) -> Component:
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="selection"),
            dcc.Store(id="route"),
            html.A("Skip to the page", href="#page", className="skip"),
            navigation(known),
            html.Main(id="page", tabIndex=-1),
        ],
        id="shell",
    )


def _route(app: Dash, store: Store, known: dict[str, Page]) -> None:
    """The address decides what is shown; a selection changes the address, and nothing but the panels that use it."""
    app.clientside_callback(
        ClientsideFunction("probe", "route"),
        Output("route", "data"),
        Input("url", "pathname"),
        Input("url", "search"),
        Given("selection", "data"),
        Given("route", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("probe", "selected"),
        Input("selection", "data"),
        Given("url", "pathname"),
        Given("url", "search"),
        Given("route", "data"),
    )

    app.clientside_callback(
        ClientsideFunction("probe", "bar"),
        Input({"type": "select", "field": ALL}, "value"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("page", "children"),
        Output("selection", "data"),
        Input("route", "data"),
        prevent_initial_call=True,
    )
    def show(route: Any) -> tuple[Any, Any]:
        if not isinstance(route, dict):
            return no_update, no_update
        return render(str(route.get("path", "")), str(route.get("search", "")), store, known)


def render(path: str, search: str, store: Store, known: dict[str, Page]) -> tuple[Component, Any]:
    """What stands at an address, and the selection that it names; what cannot be shown says why.

    Args:
        path: "/overview".
        search: the query string.
        store: the records.
        known: all pages.
    """
    name = path.strip("/") or HOME
    try:
        state = State.of(search)
    except ProbeError as error:
        return failure("This address cannot be shown", str(error)), no_update
    if name not in known:
        return failure("There is no such page", f"/{name[:60]}; pages are in the bar above."), state.fields()
    page = known[name]
    try:
        if page.needs is not None:
            if not state.record:
                return lacking(page, "", store, state), state.fields()
            why = page.needs(store.open(state.record))
            if why:
                return lacking(page, why, store, state), state.fields()
        return frame(page, state, store), state.fields()
    except ProbeError as error:
        return failure(f"{page.title}: this cannot be shown", str(error)), state.fields()
