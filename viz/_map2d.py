"""The `map2d` figure: rows over columns as colours, a curve over the rows beside it."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme
from probe.viz.strip import shorten, visible

CELL, LABELS, LIMIT = 18, 60, 2000
"""Height of a row in pixels; texts of columns up to which each is written; columns drawn, beyond which their largest is."""


def draw_map2d(result: xr.Dataset) -> go.Figure:
    """Draw a map, such as layers over tokens.

    Args:
        result: A `map2d` result; `attrs["margin"]` names a variable over the rows, or is empty. `attrs["log"]` asks for
            colours by decades.

    Returns:
        A heat map, first row at the top; columns beyond `LIMIT` are drawn in groups by their largest value, and the title says
        so.

    Raises:
        InputError: The contract of the kind is broken, or no value is finite.
    """
    name = str(result.attrs.get("value", ""))
    if name not in result.data_vars or result[name].dims != ("row", "column"):
        raise InputError(
            f"a map2d names its variable over (row, column) in attrs['value'], got {name!r}: {sorted(map(str, result))}"
        )
    values = np.asarray(result[name].values, dtype=np.float64)
    if not np.isfinite(values).any():
        raise InputError(f"nothing to draw: no finite value in {name!r}")
    texts = [visible(str(text)) for text in result["text"].values]
    values, texts, group = _grouped(values, texts)
    margin = str(result.attrs.get("margin", ""))
    figure = make_subplots(
        cols=2 if margin else 1,
        shared_yaxes=True,
        column_widths=[0.84, 0.16] if margin else [1.0],
        horizontal_spacing=0.015,
    )
    rows = [str(row) for row in result["row"].values]
    figure.add_trace(_heatmap(result, name, values, texts, rows), row=1, col=1)
    if margin:
        figure.add_trace(_curve(result, margin, rows), row=1, col=2)
        figure.update_xaxes(
            title_text=_plain(margin), gridcolor=theme.RULE, rangemode="tozero", nticks=4, row=1, col=2
        )
    _axes(figure, result, rows, texts)
    figure.update_layout(**_layout(result, values, rows, texts, group))
    return figure


def _grouped(values: NDArray[np.float64], texts: list[str]) -> tuple[NDArray[np.float64], list[str], int]:
    """At most LIMIT columns; of a group its largest value is drawn, under its first text."""
    group = -(-values.shape[1] // LIMIT)
    if group == 1:
        return values, texts, 1
    starts = np.arange(0, values.shape[1], group)
    return np.fmax.reduceat(values, starts, axis=1), [texts[i] for i in starts], group


def _heatmap(
    result: xr.Dataset, name: str, values: NDArray[np.float64], texts: list[str], rows: list[str]
) -> go.Heatmap:
    finite = values[np.isfinite(values)]
    diverging, log = bool(finite.min() < 0), bool(result.attrs.get("log", False))
    shown = np.log10(np.where(values > 0, values, np.nan)) if log else values
    bound = float(np.nanmax(np.abs(shown))) or 1.0
    low = -bound if diverging else float(np.nanmin(shown)) if log else 0.0
    unit = str(result.attrs.get("unit", ""))
    suffix = "" if unit in ("", "1") else f" {html.escape(unit)}"
    ticks = np.arange(np.ceil(low), np.floor(bound) + 1)
    bar: dict[str, object] = {
        "thickness": 12,
        "outlinewidth": 0,
        "title": {"text": html.escape(_plain(name))},
    }
    if log and ticks.size:
        bar |= {"tickvals": ticks, "ticktext": [f"{10.0**t:g}" for t in ticks]}
    return go.Heatmap(
        z=shown,
        x=np.arange(values.shape[1]),
        y=np.arange(values.shape[0]),
        zmin=low,
        zmax=bound,
        colorscale=[list(stop) for stop in (theme.DIVERGING if diverging else theme.SEQUENTIAL)],
        hoverongaps=False,
        customdata=np.stack(
            [
                np.tile(np.array([html.escape(t) for t in texts], dtype=object), (len(rows), 1)),
                np.tile(np.array(rows, dtype=object)[:, None], (1, len(texts))),
                values.astype(object),
            ],
            axis=-1,
        ),
        hovertemplate=(
            f"<b>{html.escape(str(result.attrs['row_title']))} %{{customdata[1]}}, “%{{customdata[0]}}”</b><br>"
            f"{html.escape(_plain(name))} %{{customdata[2]:.4g}}{suffix}<extra></extra>"
        ),
        colorbar=bar,
    )


def _curve(result: xr.Dataset, margin: str, rows: list[str]) -> go.Scatter:
    return go.Scatter(
        x=np.asarray(result[margin].values, dtype=np.float64),
        y=np.arange(len(rows)),
        mode="lines+markers",
        line={"color": theme.SUPPORT, "width": 2},
        marker={"size": 5},
        customdata=np.array(rows, dtype=object),
        hovertemplate=f"<b>{html.escape(str(result.attrs['row_title']))} %{{customdata}}</b><br>"
        f"{html.escape(_plain(margin))} %{{x:.4g}}<extra></extra>",
        showlegend=False,
    )


def _axes(figure: go.Figure, result: xr.Dataset, rows: list[str], texts: list[str]) -> None:
    every = max(1, -(-len(rows) // 32))
    figure.update_yaxes(
        range=[len(rows) - 0.5, -0.5],
        tickvals=np.arange(len(rows))[::every],
        ticktext=rows[::every],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title_text=html.escape(str(result.attrs["row_title"])), row=1, col=1)
    step = max(1, -(-len(texts) // LABELS))
    named = [html.escape(shorten(texts[i].strip() or "␣", 14)) for i in range(0, len(texts), step)]
    figure.update_xaxes(
        title_text=html.escape(str(result.attrs["column_title"])),
        tickvals=np.arange(len(texts))[::step],
        ticktext=named,
        tickangle=-60,
        tickfont={"size": 11},
        showgrid=False,
        zeroline=False,
        row=1,
        col=1,
    )


def _layout(
    result: xr.Dataset,
    values: NDArray[np.float64],
    rows: list[str],
    texts: list[str],
    group: int,
) -> dict[str, object]:
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    where = f"{result.attrs['row_title']} {rows[row]}, “{texts[column].strip() or '␣'}”"
    story = str(result.attrs.get("story", "")) or f"highest at {where}: {values[row, column]:.3g}"
    if group > 1:
        story += f"; columns drawn in groups of {group} by their largest value"
    title = str(result.attrs.get("title", result.attrs.get("explainer", "")))
    return theme.layout(
        title=theme.heading(html.escape(title), html.escape(story)),
        height=min(max(len(rows) * CELL, 160), 760) + 210,
        margin={"l": 64, "r": 24, "t": 84, "b": 120},
        showlegend=False,
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")
