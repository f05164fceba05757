"""Answers before and after a change to a model: two bars each."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr


def change(result: xr.Dataset, names: tuple[str, str] = ("as it is", "changed")) -> go.Figure:
    """Draw the probabilities of the likeliest answers with and without a change.

    Args:
        result: `before` and `after` (answer), attribute label.
        names: of the two, in the legend.
    """
    labels = [f"{i + 1}. {html.escape(repr(str(a))[1:-1])}" for i, a in enumerate(result["answer"].values)]
    clear = "rgba(0,0,0,0)"
    figure = go.Figure()
    for at, (variable, name) in enumerate(zip(("before", "after"), names, strict=True)):
        figure.add_trace(
            go.Bar(
                y=labels,
                x=result[variable].values.astype(float),
                orientation="h",
                name=name,
                marker={"color": theme.CURVES[at]},
                hovertemplate=f"%{{y}}: %{{x:.2%}} {name}<extra></extra>",
            )
        )
    figure.update_xaxes(
        title_text=html.escape(str(result.attrs["label"])),
        tickformat=".0%",
        gridcolor=theme.RULE,
        rangemode="tozero",
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        **theme.layout(
            height=90 + 46 * len(labels),
            margin={"l": 120, "r": 16, "t": 30, "b": 48},
            paper_bgcolor=clear,
            plot_bgcolor=clear,
            barmode="group",
            bargap=0.3,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": clear},
        )
    )
    return figure
