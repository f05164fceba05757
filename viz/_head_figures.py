"""Figures of one head: its strongest links at a token, and how far back its attention reaches."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from probe.viz import theme
from probe.viz.strip import shorten, visible

if TYPE_CHECKING:
    import xarray as xr


def draw_links(links: xr.Dataset) -> go.Figure:
    """Bars of the strongest links of one token, strongest at the top.

    Args:
        links: `weight` over `link`, with `at` and `text`; attributes `of` ("query" or "key"), `position` and `of_text`.
    """
    weights = links["weight"].values.astype(np.float64)
    words = [
        f"{html.escape(shorten(visible(str(t)), 16))} · {int(n):,}"
        for t, n in zip(links["text"].values, links["at"].values, strict=True)
    ]
    query = links.attrs["of"] == "query"
    names = ("query", "key") if query else ("key", "query")
    figure = go.Figure(
        go.Bar(
            x=weights,
            y=np.arange(len(weights)),
            orientation="h",
            marker_color=theme.SUPPORT,
            customdata=np.stack(
                [links["at"].values, np.full(len(weights), links.attrs["position"])], 1
            ).tolist(),
            text=[f"{w:.3g}" for w in weights],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"{names[1]} %{{customdata[0]}}<br>weight %{{x:.5g}}<extra></extra>",
        )
    )
    of = f"{names[0]} {links.attrs['position']:,} “{html.escape(shorten(visible(links.attrs['of_text']), 20))}”"
    story = f"{of} {'looks at' if query else 'is looked at by'} …"
    figure.update_layout(
        **theme.layout(
            height=max(220, 26 * len(weights) + 92),
            margin={"l": 8, "r": 56, "t": 52, "b": 34},
            showlegend=False,
            title=theme.story(story),
            meta={"select": [names[1], names[0]]},
            bargap=0.25,
        )
    )
    figure.update_yaxes(
        tickvals=np.arange(len(words)), ticktext=words, autorange="reversed", automargin=True, showgrid=False
    )
    figure.update_xaxes(rangemode="tozero", title_text="weight (probability)", zeroline=False)
    return figure


def draw_distances(distances: xr.Dataset) -> go.Figure:
    """Bars: the share of attention at each distance, in bins that double; bars of error where a sample of queries was taken.

    Args:
        distances: `mass` and `error` over `bin` with `first` and `last`; attributes `queries` and `step`.
    """
    first, last = distances["first"].values, distances["last"].values
    mass, error = distances["mass"].values, distances["error"].values
    names = [_distance(int(a), int(b)) for a, b in zip(first, last, strict=True)]
    bars = {"type": "data", "array": error, "color": theme.MUTED, "thickness": 1} if error.any() else None
    figure = go.Figure(
        go.Bar(
            x=np.arange(len(names)),
            y=mass,
            marker_color=theme.SUPPORT,
            error_y=bars,
            customdata=np.array(names, dtype=object),
            hovertemplate="%{customdata} positions away: %{y:.2%} of the attention<extra></extra>",
        )
    )
    reached = int(np.searchsorted(np.cumsum(mass), mass.sum() / 2))
    story = f"half of the attention stays within {int(last[min(reached, len(last) - 1)]):,} positions"
    figure.update_layout(
        **theme.layout(
            height=300,
            margin={"l": 8, "r": 16, "t": 44, "b": 60},
            showlegend=False,
            bargap=0.15,
            title=theme.story(story),
        )
    )
    figure.update_xaxes(
        tickvals=np.arange(len(names)),
        ticktext=names,
        title_text="distance between query and key, positions",
        tickangle=-45,
    )
    figure.update_yaxes(tickformat=".0%", automargin=True, title_text="share of a row", zeroline=False)
    return figure


def _distance(first: int, last: int) -> str:
    if first == last:
        return str(first)
    if first >= 1025:
        return f"{(first - 1) // 1024}–{last // 1024}k"
    return f"{first}–{last}"
