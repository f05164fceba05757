"""The `flow` figure: what runs from a source through the layers to a target, as bands whose width is the amount."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import InputError
from probe.viz import theme
from probe.viz.strip import shorten, visible

LINKS = 300
"""Bands drawn at most, the widest; the title says which share of the whole they are."""


def draw_flow(result: xr.Dataset) -> go.Figure:
    """Draw a flow through layers.

    Args:
        result: A `flow` result: links over (link) between numbers of nodes, nodes with their layer, token and text.

    Returns:
        A Sankey diagram, layers from left to right and tokens from top to bottom, as they stand in the text.

    Raises:
        InputError: The contract of the kind is broken, or nothing flows.
    """
    name = str(result.attrs.get("value", ""))
    if name not in result.data_vars or result[name].dims != ("link",):
        raise InputError(f"a flow names its variable over (link) in attrs['value'], got {name!r}")
    amounts = np.asarray(result[name].values, dtype=np.float64)
    if not (np.isfinite(amounts) & (amounts > 0)).any():
        raise InputError(f"nothing to draw: no link of {name!r} carries anything")
    order = np.argsort(-np.nan_to_num(amounts), kind="stable")[:LINKS]
    order = order[amounts[order] > 0]
    ends = np.stack([result["source"].values[order], result["target"].values[order]])
    used, ends = np.unique(ends, return_inverse=True)
    ends = ends.reshape(2, -1)
    layer = result["node_layer"].values[used].astype(int)
    token = result["node_token"].values[used].astype(int)
    texts = [visible(str(text)).strip() or "␣" for text in result["node_text"].values[used]]
    first, last = int(layer.min()), int(layer.max())
    outer = np.isin(layer, (first, last))
    figure = go.Figure(
        go.Sankey(
            arrangement="fixed",
            node={
                "label": [
                    html.escape(shorten(t, 16)) if o else "" for t, o in zip(texts, outer, strict=True)
                ],
                "x": 0.02 + 0.96 * (layer - first) / max(last - first, 1),
                "y": 0.2 + 0.62 * (token - token.min()) / max(int(np.ptp(token)), 1),
                "color": theme.SUPPORT,
                "pad": 6,
                "thickness": 10,
                "line": {"width": 0},
                "customdata": [
                    f"after {n} layers, “{html.escape(t)}”" for n, t in zip(layer, texts, strict=True)
                ],
                "hovertemplate": "%{customdata}: %{value:.3g}<extra></extra>",
            },
            link={
                "source": ends[0],
                "target": ends[1],
                "value": amounts[order],
                "color": "rgba(31,111,181,0.32)",
                "hovertemplate": "%{source.customdata} → %{target.customdata}: %{value:.3g}<extra></extra>",
            },
        )
    )
    title = str(result.attrs.get("title", result.attrs.get("explainer", "")))
    story = str(result.attrs.get("story", ""))
    if len(order) < (amounts > 0).sum():
        story += f"; drawn are the {len(order)} widest of {(amounts > 0).sum()} links"
    figure.update_layout(
        **theme.layout(
            title=theme.heading(html.escape(title), html.escape(story.strip("; "))),
            height=600,
            margin={"l": 24, "r": 24, "t": 92, "b": 24},
        )
    )
    return figure
