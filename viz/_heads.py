"""The heads of a model at a glance: a grid of layers and heads, a scatter of two quantities, and curves over depth."""

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

Chosen = tuple[int | None, int | None]
CLEAR = "rgba(0,0,0,0)"
CELL, LOWEST, HIGHEST = 18, 150, 640
"""Pixels of a layer's row; least and most of a whole grid."""


def head_grid(
    result: xr.Dataset, chosen: Chosen = (None, None), *, log: bool = False, signed: bool = False
) -> go.Figure:
    """A cell for each head, layers downwards, the chosen one outlined.

    Args:
        result: `value` (layer, head), attributes label and unit; negative values get a scale that diverges at 0.
        chosen: layer and head, either None.
        log: colours by decades; values that are not positive have none.
        signed: a scale that diverges at 0, also where no value is negative.

    Raises:
        InputError: no value to show.
    """
    values = _values(result, log=log)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    signed = signed or (low < 0 and not log)
    bound = max(abs(low), abs(high)) or 1.0
    layers, heads = result["layer"].values, result["head"].values
    unit, label = _unit(result), html.escape(str(result.attrs["label"]))
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=np.arange(len(heads)),
            y=np.arange(len(layers)),
            zmin=-bound if signed else low if log else min(0.0, low),
            zmax=bound if signed else high,
            colorscale=[list(stop) for stop in (theme.DIVERGING if signed else theme.SEQUENTIAL)],
            xgap=1.5,
            ygap=1.5,
            customdata=_places(result),
            hovertemplate="<b>layer %{customdata[0]}, head %{customdata[1]}</b><br>%{customdata[2]:.4g}"
            + f"{unit}<extra></extra>",
            colorbar=_bar(low, high, unit, log=log),
        )
    )
    outline = {"line": {"color": theme.CHOSEN, "width": 3}, "fillcolor": CLEAR, "type": "rect"}
    for shape in _outlines(chosen, list(layers), list(heads)):
        figure.add_shape(**outline, **shape)
    ticks = {"showgrid": False, "zeroline": False, "ticks": ""}
    figure.update_yaxes(autorange="reversed", title_text="layer", **_ticks(layers), **ticks)
    figure.update_xaxes(title_text="head", **_ticks(heads), **ticks)
    height = min(max(CELL * len(layers), LOWEST), HIGHEST) + 70
    figure.update_layout(**_plain(height, ["layer", "head"], label))
    return figure


def head_scatter(
    x: xr.Dataset, y: xr.Dataset, chosen: Chosen = (None, None), *, log: bool = False
) -> go.Figure:
    """Every head as a point: one quantity along each axis, coloured by depth.

    Args:
        x: `value` (layer, head) for the horizontal axis.
        y: the same heads for the vertical axis.
        chosen: the head that is ringed, or the layer whose heads are.
        log: both axes by decades.

    Raises:
        InputError: the two are of other heads, or have no value to show.
    """
    if dict(x.sizes) != dict(y.sizes):
        raise InputError("the two quantities are of other layers or heads: choose two of one tower")
    across, up = _values(x, log=False), _values(y, log=False)
    data = _places(x).reshape(-1, 3)
    layers = data[:, 0].astype(int)
    mask = np.zeros(len(layers), dtype=bool)
    if chosen[0] is not None:
        mask = (layers == chosen[0]) & ((data[:, 1] == chosen[1]) if chosen[1] is not None else True)
    figure = go.Figure(
        go.Scatter(
            x=across.ravel(),
            y=up.ravel(),
            mode="markers",
            customdata=data,
            marker={
                "size": np.where(mask, 15, 9),
                "color": layers,
                "colorscale": [list(stop) for stop in _depth_scale()],
                "line": {"width": np.where(mask, 3, 0.5), "color": np.where(mask, theme.CHOSEN, "#888888")},
                "colorbar": {"title": {"text": "layer"}, "thickness": 10, "outlinewidth": 0},
            },
            hovertemplate="<b>layer %{customdata[0]}, head %{customdata[1]}</b><br>"
            f"x %{{x:.4g}}{_unit(x)}<br>y %{{y:.4g}}{_unit(y)}<extra></extra>",
        )
    )
    axis = {"type": "log" if log else "linear", "gridcolor": theme.RULE, "zeroline": False}
    figure.update_xaxes(title_text=_titled(x), **axis)
    figure.update_yaxes(title_text=_titled(y), **axis)
    figure.update_layout(**_plain(440, ["layer", "head"], "heads"))
    return figure


def depth_curves(results: list[xr.Dataset], chosen: Chosen = (None, None), *, log: bool = False) -> go.Figure:
    """A quantity over depth: the mean of each layer's heads, the span from lowest to highest, and the chosen head.

    Args:
        results: `value` (layer, head) of one or two records; attribute `record` names each.
        chosen: its head is drawn through all layers.
        log: the values by decades.

    Raises:
        InputError: no value to show.
    """
    figure = go.Figure()
    for at, result in enumerate(results):
        values, layers = _values(result, log=False), result["layer"].values
        low, mean, high = (_by_layer(f, values) for f in (np.nanmin, np.nanmean, np.nanmax))
        colour, name = theme.CURVES[at], html.escape(str(result.attrs["record"]))
        band = {"x": np.concatenate([layers, layers[::-1]]), "y": np.concatenate([high, low[::-1]])}
        figure.add_trace(
            go.Scatter(
                **band,
                mode="lines",
                fill="toself",
                fillcolor=_faint(colour),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        hover = f"layer %{{x}}: %{{y:.4g}}{_unit(result)}<extra>{name}</extra>"
        line = {"x": layers, "mode": "lines+markers", "hovertemplate": hover}
        mark = {"size": 5, "color": colour}
        figure.add_trace(go.Scatter(y=mean, name=f"{name}: mean of heads", line={"color": colour, "width": 2.5}, marker=mark,
                                    customdata=layers[:, None], **line))  # fmt: skip
        heads = list(result["head"].values)
        if chosen[1] in heads:
            dashed = {"color": colour, "width": 2, "dash": "dot"}
            figure.add_trace(go.Scatter(y=values[:, heads.index(chosen[1])], name=f"{name}: head {chosen[1]}", line=dashed,
                                        marker=mark, customdata=layers[:, None], **line))  # fmt: skip
    every = max(1, -(-results[0].sizes["layer"] // 10))
    figure.update_xaxes(title_text="layer", dtick=every, gridcolor=theme.RULE, zeroline=False)
    figure.update_yaxes(
        title_text=_titled(results[0]), type="log" if log else "linear", gridcolor=theme.RULE, zeroline=False
    )
    figure.update_layout(**_plain(440, ["layer"], "depth"))
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": CLEAR}
    )
    return figure


def _values(result: xr.Dataset, *, log: bool) -> NDArray[np.float64]:
    values = np.asarray(result["value"].transpose("layer", "head").values, dtype=np.float64)
    if log:
        values = np.log10(np.where(values > 0, values, np.nan))
    if not np.isfinite(values).any():
        what = "positive" if log else "finite"
        raise InputError(
            f"no {what} value in {result.attrs['label']}: choose another quantity{' or linear colours' * log}"
        )
    return values


def _by_layer(reduce: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.full(len(values), np.nan)
    some = np.isfinite(values).any(axis=1)
    found[some] = reduce(values[some], axis=1)
    return found


def _places(result: xr.Dataset) -> NDArray[np.float64]:
    layers, heads = np.meshgrid(result["layer"].values, result["head"].values, indexing="ij")
    return np.stack([layers, heads, result["value"].values], axis=-1).astype(np.float64)


def _outlines(chosen: Chosen, layers: list[int], heads: list[int]) -> list[dict[str, float]]:
    layer, head = chosen
    rows = (0, len(layers) - 1) if layer is None else (layers.index(layer),) * 2 if layer in layers else None
    columns = (0, len(heads) - 1) if head is None else (heads.index(head),) * 2 if head in heads else None
    if (layer is None and head is None) or rows is None or columns is None:
        return []
    return [{"x0": columns[0] - 0.5, "x1": columns[1] + 0.5, "y0": rows[0] - 0.5, "y1": rows[1] + 0.5}]


def _bar(low: float, high: float, unit: str, *, log: bool) -> dict[str, Any]:
    bar: dict[str, Any] = {"thickness": 10, "outlinewidth": 0, "title": {"text": unit.strip()}}
    if log:
        tens = np.arange(np.floor(low), np.ceil(high) + 1)
        bar |= {"tickvals": tens, "ticktext": [f"{10.0**ten:g}" for ten in tens]}
    return bar


def _ticks(labels: NDArray[Any]) -> dict[str, Any]:
    every = max(1, -(-len(labels) // 32))
    at = np.arange(0, len(labels), every)
    return {"tickvals": at, "ticktext": [str(labels[i]) for i in at]}


def _depth_scale() -> list[tuple[float, str]]:
    """The sequential scale without its palest part, so that no point is lost on paper."""
    return [(p, theme.interpolate(theme.SEQUENTIAL, 0.25 + 0.75 * p)) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]


def _unit(result: xr.Dataset) -> str:
    unit = str(result.attrs.get("unit", ""))
    return "" if unit in ("", "1") else f" {html.escape(unit)}"


def _titled(result: xr.Dataset) -> str:
    unit = _unit(result).strip()
    return html.escape(str(result.attrs["label"])) + (f" [{unit}]" if unit else "")


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.14)"


def _plain(height: int, select: list[str], name: str) -> dict[str, object]:
    return theme.layout(
        height=height,
        margin={"l": 56, "r": 16, "t": 28, "b": 48},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        showlegend=False,
        meta={"select": select, "name": name},
        hovermode="closest",
    )
