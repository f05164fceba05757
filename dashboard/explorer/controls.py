"""Controls that write one field of the selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dash import dcc, html

from probe.dashboard.explorer.attributes import aria

if TYPE_CHECKING:
    from dash.development.base_component import Component


def menu(field: str, label: str, options: list[dict[str, str]], value: str) -> Component:
    """A menu of one field of the selection.

    Args:
        field: of `State`.
        label: above it.
        options: label and value of each.
        value: the one that is shown.
    """
    chosen = dcc.Dropdown(
        options, value, id={"type": "select", "field": field}, clearable=False, className="menu"
    )
    return html.Label([html.Span(label), chosen], className="field menu-field")


def switch(field: str, label: str, choices: tuple[tuple[str, str], ...], value: str) -> Component:
    """A few values of one field of the selection, all to be seen.

    Args:
        field: of `State`.
        label: above it.
        choices: value and text of each.
        value: the one that is on.
    """
    radio = dcc.RadioItems(
        [{"label": text, "value": name} for name, text in choices],
        value,
        id={"type": "select", "field": field},
        inline=True,
        className="switch",
    )
    return html.Div([html.Span(label), radio], className="field", role="group", **aria(label))
