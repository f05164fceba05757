"""An `image_overlay` of many maps: one picture, one map at a time, chosen by a slider (words of an answer, or layers)."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.viz import _image_overlay as overlay
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr

SIDE = 360


def draw_slider(result: xr.Dataset) -> go.Figure:
    """Draw the picture beside one of its maps, with a slider over the maps; all maps share one scale.

    Args:
        result: An `image_overlay` with `attrs["slider"]` ("word" or "layer") and, where heads are known,
            `head_mass(hidden_layer, head)`.

    Returns:
        The picture, the map that the slider chose, and the attention that each head gives the picture.

    Raises:
        InputError: A variable is missing, has other dimensions, or no finite value.
    """
    maps = overlay._maps(result)
    picture = np.asarray(result["picture"].values, dtype=np.uint8)
    names = [str(name) for name in result["name"].values]
    heads = "head_mass" in result.variables
    titles = ["The picture", "", *(["Attention that each head gives the picture"] if heads else [])]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.05)
    grey = np.repeat(picture.mean(-1, keepdims=True) * 0.55 + 105, 3, axis=-1).clip(0, 255).astype(np.uint8)
    overlay._add_picture(figure, picture, 1, 1)
    overlay._add_picture(figure, grey, 1, 2)
    bound = float(np.nanmax(np.stack(maps))) or 1.0
    for number, map_ in enumerate(maps):
        heat = overlay._heat(map_, names[number], False)
        heat.update(zmax=bound, visible=number == 0)
        figure.add_trace(heat, 1, 2)
    if heads:
        figure.add_trace(_heads(result), 1, 3)
        figure.update_xaxes(title="head", dtick=1, row=1, col=3)
        figure.update_yaxes(title="layer", dtick=1, row=1, col=3)
    rows, columns = picture.shape[:2]
    for column in (1, 2):
        figure.update_xaxes(visible=False, range=[-0.5, columns - 0.5], constrain="domain", row=1, col=column)
        figure.update_yaxes(
            visible=False, range=[rows - 0.5, -0.5], constrain="domain", row=1, col=column,
            scaleanchor="x" if column == 1 else "x2",
        )  # fmt: skip
    what, fixed = str(result.attrs["slider"]), 2
    steps = []
    for number, name in enumerate(names):
        shown = [True] * fixed + [n == number for n in range(len(maps))] + [True] * heads
        steps.append({"method": "restyle", "label": name, "args": ["visible", shown]})
    figure.update_annotations(font={"size": 14, "color": theme.INK})
    says = f"“{html.escape(str(result.attrs.get('question', '')))}” – “{html.escape(str(result.attrs['target']))}”"
    figure.update_layout(
        **theme.layout(
            title=theme.heading(
                html.escape(str(result.attrs["title"])), f"{says}; move the slider over each {what}"
            ),
            height=SIDE * max(0.6, min(1.6, rows / columns)) + 220,
            margin={"l": 16, "r": 16, "t": 110, "b": 90},
            showlegend=False,
            sliders=[
                {
                    "steps": steps,
                    "currentvalue": {"prefix": f"{what}: "},
                    "len": 0.9,
                    "x": 0.05,
                    "pad": {"t": 30},
                }
            ],
        )
    )
    return figure


def _heads(result: xr.Dataset) -> go.Heatmap:
    return go.Heatmap(
        z=result["head_mass"].values,
        x=np.arange(result.sizes["head"]),
        y=result["hidden_layer"].values,
        zmin=0,
        zmax=1,
        colorscale=overlay._heat_scale(),
        showscale=False,
        hovertemplate="layer %{y} head %{x}: %{z:.0%} of its attention<extra></extra>",
    )
