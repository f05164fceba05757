"""What surrounds every page: navigation, the bar of the selection, and the designed states of having nothing to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dash import dcc, html

from probe.dashboard.explorer.attributes import aria, data
from probe.dashboard.explorer.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash.development.base_component import Component

    from probe.dashboard.explorer.entry import Entry
    from probe.dashboard.explorer.page import Page
    from probe.dashboard.explorer.store import Store


def navigation(known: Mapping[str, Page]) -> Component:
    """The bar with all pages, the permalink button and the switch of the theme."""
    links = [
        html.A(page.title, href=f"/{name}", className="page-tab", **data(page=name, key=str(number)))
        for number, (name, page) in enumerate(known.items(), start=1)
    ]
    buttons = [
        html.Button("Copy link", id="permalink", title="Copy a link to exactly this view (L)", type="button"),
        html.Button("?", id="help", title="Keys (?)", type="button", **aria("Keyboard shortcuts")),
        html.Button("◐", id="theme", title="Dark or light (D)", type="button", **aria("Theme")),
    ]
    return html.Header(
        [
            html.A([html.Span("◎", className="mark"), "attention-probe"], href="/", className="brand"),
            html.Nav(links, className="tabs", **aria("Pages")),
            html.Div(buttons, className="tools"),
        ],
        className="top",
    )


def frame(page: Page, state: State, store: Store) -> Component:
    """A page with its title and, where it shows a record, the bar of the selection."""
    head = html.Div([html.H1(page.title), html.P(page.summary)], className="page-head")
    bar = [selection_bar(state, store)] if page.needs is not None else []
    return html.Div([head, *bar, page.layout(state, store)], className=f"page page-{page.name}")


def selection_bar(state: State, store: Store) -> Component:
    """The selection that all panels share, to be seen and changed: record, compared record, sample, layer, head, tokens."""
    entries = store.records()
    whole = [name for name, entry in entries.items() if not entry.problem]
    sizes = sizes_of(entries[state.record], state.tower)
    towers = [name for name, _ in entries[state.record].towers]
    parts = [
        _choice("record", "record", whole, state.record, clearable=False, wide=True),
        _choice(
            "other", "compare with", [n for n in whole if n != state.record], state.other or None, wide=True
        ),
    ]
    if len(towers) > 1:
        parts.append(_choice("tower", "tower", towers, state.tower or towers[0], clearable=False))
    if sizes.get("sample", 1) > 1:
        parts.append(_integer("sample", state.sample, sizes["sample"]))
    parts += [
        _integer("layer", state.layer, sizes.get("layer", 1)),
        _integer("head", state.head, sizes.get("head", 1)),
        _integer("query", state.query, sizes.get("query", 1)),
        _integer("key", state.key, sizes.get("key", 1)),
    ]
    badge = validity_badge(entries[state.record])
    return html.Div([*parts, badge], className="selection", role="group", **aria("Selection"))


def sizes_of(entry: Entry, tower: str) -> dict[str, int]:
    """Sizes of a tower's dimensions; of the first where none is named."""
    towers = dict(entry.towers)
    return dict(towers.get(tower) or next(iter(towers.values()), ()))


def validity_badge(entry: Entry) -> Component:
    """Whether the record's own checks passed, in a word and a colour."""
    words = {
        "passed": ("✓ valid", "All checks of the record passed: sums, bounds, parity with eager attention."),
        "failed": ("✗ failed its checks", "A check of this record failed: do not rely on its numbers."),
        "unfinished": ("… unfinished", entry.problem),
        "unknown": ("? not checked", "The record does not say whether its checks passed."),
    }
    text, title = words[entry.validity]
    return html.Span(text, className=f"badge {entry.validity}", title=title)


def lacking(page: Page, why: str, store: Store, state: State) -> Component:
    """Where a page has nothing to show: why, and what to do."""
    entries = store.records()
    links = [
        html.Li(html.A(name, href=State(record=name).url(f"/{page.name}")))
        for name, entry in entries.items()
        if not entry.problem and name != state.record
    ][:12]
    if not entries:
        return failure(
            "No records yet",
            f"There is no record in {store.folder.name}/. Capture one and come back:",
            code='probe capture "Any text." --model sentiment --out runs/first.zarr',
        )
    said = why or "Choose the record to look at:"
    return html.Div(
        [
            html.H1(page.title),
            html.P(page.summary),
            html.P(said, className="why"),
            html.Ul(links, className="links"),
        ],
        className="state empty",
        role="status",
    )


def failure(title: str, text: str, code: str = "") -> Component:
    """A page or panel that could not be made, with its one clear line."""
    more = [html.Pre(code)] if code else []
    return html.Div([html.H2(title), html.P(text), *more], className="state error", role="alert")


def _choice(
    name: str,
    label: str,
    options: list[str],
    value: str | None,
    *,
    clearable: bool = True,
    wide: bool = False,
) -> Component:
    return html.Label(
        [
            html.Span(label),
            dcc.Dropdown(
                options,
                value,
                id={"type": "select", "field": name},
                clearable=clearable,
                placeholder="none",
                persistence=False,
            ),
        ],
        className="field wide" if wide else "field",
    )


def _integer(name: str, value: int | None, size: int) -> Component:
    return html.Label(
        [
            html.Span(name),
            dcc.Input(
                id={"type": "select", "field": name},
                type="number",
                value=value,
                min=0,
                max=max(0, size - 1),
                step=1,
                placeholder="all" if name in ("layer", "head") else "–",
                debounce=True,
            ),
            html.Small(f"of {size:,}"),
        ],
        className="field number",
    )
