"""Attention as it lies in a picture: values of image tokens on their own rectangles, in pixels of the original."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr


def draw_patches(found: xr.Dataset) -> go.Figure:
    """Draw the values of image tokens over the picture's pixels.

    Args:
        found: `value` over (row, column), NaN where no token lies, `y` and `x` the pixels' places; attributes `story`, `unit`.
    """
    figure = go.Figure(
        go.Heatmap(
            z=found["value"].values,
            x=found["x"].values,
            y=found["y"].values,
            zmin=0,
            colorscale=[list(s) for s in theme.SEQUENTIAL],
            hoverongaps=False,
            colorbar={"thickness": 10, "outlinewidth": 0},
            hovertemplate=f"%{{z:.4g}} {found.attrs['unit']}<br>x %{{x:.0f}}, y %{{y:.0f}}<extra></extra>",
        )
    )
    figure.update_layout(
        **theme.layout(
            height=460,
            margin={"l": 8, "r": 8, "t": 48, "b": 8},
            showlegend=False,
            title=theme.story(html.escape(found.attrs["story"])),
        )
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain", autorange="reversed", scaleanchor="x")
    return figure
