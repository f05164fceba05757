"""The `head_table` figure: one cell per head, layers downwards, with the mean of each layer at the side."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

CELL = 26


def draw_head_table(result: xr.Dataset) -> go.Figure:
    """Draw a value per attention head as a heatmap.

    Args:
        result: A Dataset whose variable named by `attrs["value"]` has dimensions (layer, head); further
            variables of these dimensions appear on hover.

    Returns:
        A heatmap (layers on y, the first layer on top) and, sharing its y axis, the mean of each layer as
        bars. The colours start at 0 and are sequential, or diverging around 0 when values are negative. A
        cell without a value stays grey.

    Raises:
        InputError: The variable is missing, has other dimensions, or has no finite value.
    """
    name = str(result.attrs.get("value", ""))
    if name not in result.data_vars:
        raise InputError(
            f"a head_table names its variable in attrs['value'], got {name!r}: {sorted(map(str, result))}"
        )
    if set(result[name].dims) != {"layer", "head"}:
        raise InputError(
            f"{name!r} of a head_table needs the dimensions (layer, head), got {result[name].dims}"
        )
    values = _numbers(result, name)
    if not np.isfinite(values).any():
        raise InputError(f"nothing to draw: no finite value in {name!r}")
    layers, heads = _labels(result, "layer"), _labels(result, "head")
    rows = np.arange(len(layers))
    unit = str(result.attrs.get("unit", ""))
    figure = make_subplots(cols=2, shared_yaxes=True, column_widths=[0.8, 0.2], horizontal_spacing=0.02)
    figure.add_trace(_heatmap(result, name, values, heads, layers, unit), row=1, col=1)
    figure.add_trace(_margin(name, values, layers), row=1, col=2)
    every = max(1, len(layers) // 32 + (len(layers) % 32 > 0)) if len(layers) > 32 else 1
    figure.update_yaxes(
        range=[len(layers) - 0.5, -0.5],
        tickvals=rows[::every],
        ticktext=layers[::every],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title_text="layer", row=1, col=1)
    step = max(1, -(-len(heads) // 32))
    ticks = np.arange(len(heads))[::step]
    figure.update_xaxes(
        title_text="head",
        tickvals=ticks,
        ticktext=heads[::step],
        showgrid=False,
        zeroline=False,
        constrain="domain",
        row=1,
        col=1,
    )
    figure.update_xaxes(
        title_text="layer mean", gridcolor=theme.RULE, rangemode="tozero", nticks=4, row=1, col=2
    )
    figure.update_layout(**_layout(result, values, layers, heads, unit))
    figure.add_shape(
        type="rect",
        xref="x domain",
        yref="y domain",
        x0=0,
        x1=1,
        y0=0,
        y1=1,
        layer="below",
        fillcolor=theme.MISSING,
        line={"width": 0},
    )
    return figure


def _numbers(result: xr.Dataset, name: str) -> NDArray[np.float32]:
    return np.asarray(result[name].transpose("layer", "head").values, dtype=np.float32)


def _labels(result: xr.Dataset, dim: str) -> list[str]:
    return [str(v) for v in (result[dim].values if dim in result.coords else range(result.sizes[dim]))]


def _heatmap(
    result: xr.Dataset, name: str, values: NDArray[np.float32], heads: list[str], layers: list[str], unit: str
) -> go.Heatmap:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    diverging = low < 0
    bound = max(abs(low), abs(high)) or 1.0
    others = [
        str(v)
        for v in result.data_vars
        if str(v) not in (name, result.attrs.get("mark")) and set(result[v].dims) == {"layer", "head"}
    ]
    grid = np.stack(
        [
            np.tile(np.array(heads, dtype=object), (len(layers), 1)),
            np.repeat(np.array(layers, dtype=object)[:, None], len(heads), 1),
        ]
        + [_texts(result, other) for other in others],
        axis=-1,
    )
    more = "".join(
        f"<br>{html.escape(_plain(other))} %{{customdata[{i}]}}" for i, other in enumerate(others, start=2)
    )
    suffix = "" if unit in ("", "1") else f" {html.escape(unit)}"
    mark = str(result.attrs.get("mark", ""))
    named = (
        {}
        if not mark
        else {"text": _texts(result, mark), "texttemplate": "%{text}", "textfont": {"size": 10}}
    )
    return go.Heatmap(
        z=values,
        **named,
        x=np.arange(len(heads)),
        y=np.arange(len(layers)),
        zmin=-bound if diverging else 0.0,
        zmax=bound,
        colorscale=[list(stop) for stop in (theme.DIVERGING if diverging else theme.SEQUENTIAL)],
        xgap=1,
        ygap=1,
        hoverongaps=True,
        customdata=grid,
        hovertemplate=(
            f"<b>layer %{{customdata[1]}}, head %{{customdata[0]}}</b><br>"
            f"{html.escape(_plain(name))} %{{z:.4g}}{suffix}{more}<extra></extra>"
        ),
        colorbar={
            "title": {
                "text": html.escape(_plain(name))
                + (f" [{html.escape(unit)}]" if unit not in ("", "1") else "")
            },
            "thickness": 12,
            "outlinewidth": 0,
            "len": 1,
            "y": 0.5,
            "x": 1.01,
        },
    )


def _texts(result: xr.Dataset, name: str) -> NDArray[np.object_]:
    values = result[name].transpose("layer", "head").values
    if np.issubdtype(values.dtype, np.floating):
        texts = [f"{value:.4g}" for value in values.flat]
    else:
        texts = [html.escape(str(value)) for value in values.flat]
    return np.array(texts, dtype=object).reshape(values.shape)


def _margin(name: str, values: NDArray[np.float32], layers: list[str]) -> go.Bar:
    counted = np.isfinite(values).sum(axis=1)
    sums = np.nansum(values, axis=1, dtype=np.float64)
    label = html.escape(_plain(name))
    means = np.where(counted > 0, sums / np.maximum(counted, 1), np.nan)
    return go.Bar(
        x=means,
        y=np.arange(len(layers)),
        orientation="h",
        marker={"color": theme.SUPPORT},
        width=0.72,
        customdata=np.array(layers, dtype=object),
        hovertemplate=f"<b>layer %{{customdata}}</b><br>mean {label} %{{x:.4g}}<extra></extra>",
        showlegend=False,
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _layout(
    result: xr.Dataset, values: NDArray[np.float32], layers: list[str], heads: list[str], unit: str
) -> dict[str, object]:
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    suffix = "" if unit in ("", "1") else f" {unit}"
    story = (
        f"highest in layer {layers[row]}, head {heads[column]}: {values[row, column]:.4g}{suffix}; "
        f"mean of all {np.isfinite(values).sum()} heads {np.nanmean(values):.3g}{suffix}"
    )
    missing = int(values.size - np.isfinite(values).sum())
    if missing:
        story += f"; {missing} without a value (grey)"
    title = str(result.attrs.get("title", result.attrs.get("explainer", "")))
    height = min(max(len(layers) * CELL, 160), 820)
    return theme.layout(
        title=theme.heading(html.escape(title), html.escape(story)),
        height=height + 140,
        margin={"l": 64, "r": 24, "t": 84, "b": 56},
        showlegend=False,
    )
