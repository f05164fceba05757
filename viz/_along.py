"""A value along a text of any length: the mean and the largest of each of at most some hundred stretches."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr

POINTS = 800
"""Stretches drawn at most."""


def along(result: xr.Dataset, chosen: int | None = None, *, log: bool = False) -> go.Figure:
    """Draw a value per token over the text.

    Args:
        result: `value` (token), attributes label and unit.
        chosen: position of a token that is marked.
        log: values by decades.

    Raises:
        InputError: no value to draw.
    """
    values = np.asarray(result["value"].values, dtype=np.float64)
    if not np.isfinite(values).any():
        raise InputError(f"no token has a value of {result.attrs['label']}")
    edges = np.unique(np.linspace(0, len(values), min(POINTS, len(values)) + 1).astype(int))
    first, count = edges[:-1], np.diff(edges)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    counted = np.add.reduceat(known.astype(int), first)
    mean = np.where(counted > 0, np.add.reduceat(filled, first) / np.maximum(counted, 1), np.nan)
    top = np.fmax.reduceat(values, first)
    clear = "rgba(0,0,0,0)"
    unit = str(result.attrs.get("unit", ""))
    shown = "" if unit in ("", "1") else f" {html.escape(unit)}"
    single = bool(count.max(initial=1) == 1)
    where = "token %{customdata[0]}" if single else "tokens from %{customdata[0]}"
    figure = go.Figure()
    series = [("value", mean)] if single else [("largest", top), ("mean", mean)]
    for at, (name, line) in enumerate(series[::-1]):
        figure.add_trace(
            go.Scatter(
                x=first,
                y=line,
                mode="lines",
                name=name,
                customdata=first[:, None],
                line={"color": theme.CURVES[at], "width": 1.6, "shape": "linear"},
                hovertemplate=f"{where}<br>{name} %{{y:.4g}}{shown}<extra></extra>",
            )
        )
    if chosen is not None and 0 <= chosen < len(values):
        figure.add_vline(chosen, line={"color": theme.CHOSEN, "width": 2})
    label = html.escape(str(result.attrs["label"])) + (f" [{html.escape(unit)}]" if shown else "")
    figure.update_xaxes(title_text="position", gridcolor=theme.RULE, zeroline=False)
    figure.update_yaxes(
        title_text=label, type="log" if log else "linear", gridcolor=theme.RULE, zeroline=False
    )
    figure.update_layout(
        **theme.layout(
            height=250,
            margin={"l": 60, "r": 16, "t": 24, "b": 44},
            paper_bgcolor=clear,
            plot_bgcolor=clear,
            showlegend=not single,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": clear},
            meta={"select": ["query"], "name": "text"},
        )
    )
    return figure
