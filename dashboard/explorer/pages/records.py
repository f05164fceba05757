"""Records: what is in the folder, which of it can be relied on, and two to compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from probe.dashboard.explorer.attributes import data
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.shell import failure, validity_badge
from probe.dashboard.explorer.state import State

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from probe.dashboard.explorer.entry import Entry
    from probe.dashboard.explorer.store import Store


def layout(state: State, store: Store) -> Component:
    """A table with a line for each record, a field to search it, and a choice of two to compare."""
    entries = store.records()
    if not entries:
        return failure(
            "No records yet",
            f"There is no record in {store.folder.name}/. Capture one and reload this page:",
            code='probe capture "Any text." --model sentiment --out runs/first.zarr',
        )
    names = ("record", "model", "tokens", "towers (layers × heads)", "statistics", "captured", "validity", "")
    rows = [_row(entry, state) for entry in entries.values()]
    table = html.Table(
        [html.Thead(html.Tr([html.Th(name) for name in names])), html.Tbody(rows, id="record-rows")],
        className="records",
    )
    search = dcc.Input(
        id="record-search",
        type="search",
        placeholder="Search names, models, statistics  ( / )",
        debounce=False,
    )
    count = html.Span(f"{len(entries)} records", id="record-count", className="muted")
    return html.Div([html.Div([search, count], className="controls"), table], className="panel")


def register(app: Dash, store: Store) -> None:  # noqa: ARG001 - a page's callbacks may read the store
    """Searching hides lines, in the browser."""
    app.clientside_callback(
        ClientsideFunction("probe", "search"),
        Output("record-count", "children"),
        Input("record-search", "value"),
    )


def _row(entry: Entry, state: State) -> Component:
    towers = [
        f"{name} ({dict(sizes).get('layer', '?')} × {dict(sizes).get('head', '?')})"
        for name, sizes in entry.towers
    ]
    words = " ".join((entry.name, entry.model, *entry.stats, entry.validity)).lower()
    name: Component
    act: Component
    if entry.problem:
        name, act = html.Span(entry.name), html.Span(entry.problem, className="muted")
    else:
        name = html.A(entry.name, href=State(record=entry.name).url("/overview"))
        chosen = state.record and state.record != entry.name
        other = State(record=state.record, other=entry.name) if chosen else State(record=entry.name)
        act = html.A(
            f"compare with {state.record}" if chosen else "compare …",
            href=other.url("/overview" if chosen else "/records"),
            className="quiet",
        )
    stats = ", ".join(entry.stats) + (" · q, k, v kept" if entry.kept else "")
    cells = (
        name,
        entry.model,
        f"{entry.tokens:,}" if entry.tokens else "–",
        "; ".join(towers) or "–",
        html.Span(stats, title=stats),
        entry.created[:16].replace("T", " "),
        validity_badge(entry),
        act,
    )
    return html.Tr([html.Td(cell) for cell in cells], **data(words=words))


PAGE = Page("records", "Records", "What was captured, and whether it can be relied on.", 10, layout, register)
