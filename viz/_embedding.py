"""The `embedding` figure: points in the plane, with a menu of what colours them."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    Array = NDArray[Any]

CATEGORIES = ("branch", "label", "cluster", "annotation", "activated")
"""Variables whose values are names, not amounts."""


def draw_embedding(result: xr.Dataset) -> go.Figure:
    """Draw points in the plane.

    Args:
        result: Of kind `embedding`; `attrs["colours"]` names the variables along `point` that can colour it.

    Returns:
        One trace for each colouring by amount, one for each category of the others; a menu shows one colouring at a time.

    Raises:
        InputError: No point.
    """
    if not result.sizes.get("point", 0):
        raise InputError("nothing to draw: no point")
    colours = [str(name) for name in result.attrs["colours"]]
    traces: list[go.Scattergl] = []
    spans = []
    for number, name in enumerate(colours):
        made = colouring(result, name)
        for trace in made:
            trace.visible = number == 0
        spans.append((len(traces), len(traces) + len(made)))
        traces += made
    figure = go.Figure(traces or [_points(result, np.arange(result.sizes["point"]), color=theme.SUPPORT)])
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [a <= i < b for i in range(len(traces))]}]}
        for name, (a, b) in zip(colours, spans, strict=True)
    ]
    axis = {
        "showgrid": False,
        "zeroline": False,
        "showticklabels": False,
        "showline": True,
        "linecolor": theme.RULE,
        "mirror": True,
    }
    figure.update_layout(
        **theme.layout(
            title=theme.heading(html.escape(_title(result)), html.escape(_story(result))),
            height=620,
            margin={"l": 24, "r": 24, "t": 100, "b": 24},
            xaxis=axis,
            yaxis=axis | {"scaleanchor": "x"},
            legend={"itemsizing": "constant", "y": 0.9},
            updatemenus=[
                {
                    "type": "buttons",
                    "direction": "right",
                    "buttons": buttons,
                    "x": 1,
                    "xanchor": "right",
                    "y": 1.09,
                    "showactive": True,
                }
            ]
            if len(buttons) > 1
            else [],
        )
    )
    return figure


def colouring(result: xr.Dataset, name: str) -> list[go.Scattergl]:
    """The points coloured by one variable.

    Args:
        result: Of kind `embedding`.
        name: A variable along `point`. Attention in even shares is shown on a logarithmic scale, the highest on top.
    """
    values = result[name].values
    if name in CATEGORIES:
        found = []
        for number, value in enumerate(sorted(set(values.tolist()), key=str)):
            rows = np.flatnonzero(values == value)
            label = _category(name, value)
            faint = label in ("none", "not activated")
            colour = theme.MISSING if faint else theme.CURVES[number % len(theme.CURVES)]
            found.append(_points(result, rows, color=colour, label=label))
        return found
    order = np.argsort(values, kind="stable")
    shown, bar = (
        values.astype(np.float64)[order],
        {"title": {"text": name}, "thickness": 12, "outlinewidth": 0},
    )
    if name == "attention":
        shown = np.log10(np.clip(shown, 0.1, None))
        ticks = np.arange(-1, np.ceil(shown.max()) + 1)
        bar |= {
            "title": {"text": "even shares"},
            "tickvals": ticks,
            "ticktext": ["≤ 0.1", *(f"{10.0**t:g}" for t in ticks[1:])],
        }
    scale = [list(stop) for stop in theme.SEQUENTIAL[1:]]
    scale[0][0] = 0.0
    return [_points(result, order, color=shown, colorscale=scale, colorbar=bar)]


def _points(result: xr.Dataset, rows: Array, *, label: str = "", **marker: Any) -> go.Scattergl:
    position = result["position"].values[rows]
    size = 9 if len(result["position"]) <= 300 else 6 if len(result["position"]) <= 3000 else 4
    names = [n for n in map(str, result.data_vars) if result[n].dims == ("point",) and n not in ("x", "y")]
    facts = np.stack([np.array([_text(v) for v in result[n].values[rows]], dtype=object) for n in names], 1)
    hover = "<br>".join(f"{html.escape(n)} %{{customdata[{i}]}}" for i, n in enumerate(names))
    return go.Scattergl(
        x=position[:, 0],
        y=position[:, 1],
        mode="markers",
        name=html.escape(label),
        showlegend=bool(label),
        marker={"size": size, "opacity": 0.85, "line": {"width": 0}} | marker,
        customdata=facts,
        hovertemplate=f"{hover}<extra></extra>",
    )


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else html.escape(str(value))


def _category(name: str, value: Any) -> str:
    if name == "activated":
        return "activated" if value else "not activated"
    if name == "annotation":
        return f"pattern {value}" if value else "none"
    return f"{name} {value}" if name in ("branch", "cluster") else str(value)


def _title(result: xr.Dataset) -> str:
    of = result.attrs.get("of")
    return f"{result.attrs.get('title', '')}" + (f": {of}" if of else "")


def _story(result: xr.Dataset) -> str:
    text = f"{result.sizes['point']:,} {result.attrs['points']}s, {result.attrs['method']}, seed {result.attrs['seed']}"
    if "v_measure" in result.attrs:
        text += f"; clusters agree with the labels to V = {float(result.attrs['v_measure']):.2f}"
    if "activated" in result:
        text += f"; {int(result['activated'].values.sum()):,} get more than an even share of attention"
    return text
