"""The `concentration` figure: how fast the largest weights add up, and how many instances each bag really rests on."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr

THIN = 40
"""So many bags get a line of their own."""


def draw_concentration(result: xr.Dataset) -> go.Figure:
    """Draw the cumulative curve of each bag and their mean, effective instances against size, and recall where annotated.

    Args:
        result: Of kind `concentration`.

    Returns:
        Two panels, with annotated bags three.

    Raises:
        InputError: No bag.
    """
    if not result.sizes.get("bag", 0):
        raise InputError("nothing to draw: no bag")
    recalled = "recall" in result
    titles = ["cumulative attention", "effective instances of each bag"] + [
        "annotated instances above 1/N"
    ] * recalled
    figure = make_subplots(
        cols=len(titles),
        subplot_titles=titles,
        horizontal_spacing=0.09,
        column_widths=[0.42, 0.36, 0.22][: len(titles)],
    )
    _curves(figure, result)
    _effective(figure, result)
    if recalled:
        _recall(figure, result)
    curve = result["cumulative"].values
    k = min(10, curve.shape[1])
    effective, size = result["effective"].values.mean(), result["instances"].values.mean()
    story = (
        f"the {k} strongest instances hold {curve[:, k - 1].mean():.0%}; "
        f"a bag rests on {effective:.1f} effective instances of {size:,.1f}"
    )
    figure.update_layout(
        **theme.layout(
            title=theme.heading(html.escape(str(result.attrs.get("title", ""))), html.escape(story)),
            height=460,
            margin={"l": 64, "r": 24, "t": 110, "b": 56},
            showlegend=False,
        )
    )
    return figure


def _curves(figure: go.Figure, result: xr.Dataset) -> None:
    curve, k, sizes = result["cumulative"].values, result["k"].values, result["instances"].values
    for number in range(min(THIN, len(curve)) if len(curve) > 1 else 0):
        name = html.escape(str(result["name"].values[number]))
        line = {"color": theme.MISSING, "width": 1}
        hover = f"<b>{name}</b><br>the %{{x}} strongest hold %{{y:.1%}}<extra></extra>"
        figure.add_trace(
            go.Scatter(x=k, y=curve[number], mode="lines", line=line, hovertemplate=hover), row=1, col=1
        )
    even = np.minimum(k[None] / sizes[:, None], 1).mean(0)
    for values, colour, dash, label in (
        (even, theme.MUTED, "dot", "even"),
        (curve.mean(0), theme.SUPPORT, "solid", "mean"),
    ):
        line = {"color": colour, "width": 3 if label == "mean" else 1.5, "dash": dash}
        hover = f"{label}: the %{{x}} strongest hold %{{y:.1%}}<extra></extra>"
        figure.add_trace(
            go.Scatter(x=k, y=values, mode="lines", line=line, hovertemplate=hover), row=1, col=1
        )
        at = min(len(k) - 1, int((0.35 if label == "mean" else 0.8) * min(len(k), int(sizes.max()))))
        figure.add_annotation(
            x=k[at],
            y=values[at],
            text=label,
            showarrow=False,
            yshift=12 if label == "mean" else -12,
            font={"color": colour},
            row=1,
            col=1,
        )
    span = [1, max(2, min(len(k), int(sizes.max())))]
    figure.update_xaxes(title_text="k strongest instances", range=span, gridcolor=theme.RULE, row=1, col=1)
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", gridcolor=theme.RULE, row=1, col=1)


def _effective(figure: go.Figure, result: xr.Dataset) -> None:
    sizes, effective = result["instances"].values, result["effective"].values
    top = float(sizes.max()) * 1.15
    line = {"color": theme.MUTED, "dash": "dot", "width": 1.5}
    figure.add_trace(
        go.Scatter(x=[1, top], y=[1, top], mode="lines", line=line, hoverinfo="skip"), row=1, col=2
    )
    labels = np.array([str(v) for v in result["label"].values])
    for number, label in enumerate(sorted(set(labels))):
        rows = np.flatnonzero(labels == label)
        facts = [
            [html.escape(str(result["name"].values[i])), result["entropy"].values[i], html.escape(label)]
            for i in rows
        ]
        figure.add_trace(
            go.Scatter(
                x=sizes[rows],
                y=effective[rows],
                mode="markers",
                marker={"size": 8, "opacity": 0.75, "color": theme.CURVES[number % len(theme.CURVES)]},
                customdata=np.array(facts, dtype=object),
                hovertemplate="<b>%{customdata[0]}</b> %{customdata[2]}<br>%{y:.1f} effective of %{x:,}<br>"
                "normalised entropy %{customdata[1]:.2f}<extra></extra>",
            ),
            row=1,
            col=2,
        )
        if label:
            figure.add_annotation(
                text=html.escape(label), showarrow=False, xref="x2 domain", yref="y2 domain", x=0.02, y=0.99 - 0.07 * number,
                xanchor="left", font={"color": theme.CURVES[number % len(theme.CURVES)]},
            )  # fmt: skip
    axis: dict[str, Any] = {"type": "log", "gridcolor": theme.RULE, "dtick": 1, "row": 1, "col": 2}
    low = float(min(effective.min(), sizes.min()))
    figure.update_xaxes(
        title_text="instances", range=[np.log10(max(1, 0.8 * sizes.min())), np.log10(top)], **axis
    )
    figure.update_yaxes(title_text="effective", range=[np.log10(max(0.8, 0.8 * low)), np.log10(top)], **axis)


def _recall(figure: go.Figure, result: xr.Dataset) -> None:
    names = [f"pattern {p}" for p in result["pattern"].values]
    recall = result["recall"].values
    figure.add_trace(
        go.Bar(
            x=names,
            y=recall,
            marker={"color": theme.SUPPORT},
            text=[f"{v:.0%}" for v in recall],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.1%} of its instances<extra></extra>",
        ),
        row=1,
        col=3,
    )
    figure.update_yaxes(range=[0, 1.08], tickformat=".0%", gridcolor=theme.RULE, row=1, col=3)
