"""Measures of methods as dots with confidence intervals, a panel a measure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

COLUMNS = 3
CHANCE = "random"
ROW = 26
"""Pixels of a method's line."""


def draw_measure_table(result: xr.Dataset) -> go.Figure:
    """Draw a measure_table: each panel has a dot and an interval per method; the best is filled, chance is grey.

    Args:
        result: With mean, low, high over (explainer, measure), and better per measure.

    Returns:
        Small panels; the arrow in a title says which way is better. A dashed line marks the random scores.

    Raises:
        InputError: A variable is missing.
    """
    missing = [n for n in ("mean", "low", "high", "better") if n not in result.variables]
    if missing:
        raise InputError(f"a measure_table needs {', '.join(missing)}")
    measures = [str(name) for name in result["measure"].values]
    methods = [str(name) for name in result["explainer"].values]
    rows = -(-len(measures) // COLUMNS)
    figure = make_subplots(
        rows=rows,
        cols=COLUMNS,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=min(0.5 / rows, 0.16),
        subplot_titles=[_title(result, i) for i in range(len(measures))],
    )
    for i in range(len(measures)):
        row, column = i // COLUMNS + 1, i % COLUMNS + 1
        for trace in _dots(result, i, methods):
            figure.add_trace(trace, row=row, col=column)
        if CHANCE in methods:
            at = float(result["mean"].values[methods.index(CHANCE), i])
            line = {"color": theme.MUTED, "width": 1, "dash": "dash"}
            if np.isfinite(at):
                figure.add_vline(x=at, line=line, row=row, col=column)
    figure.update_xaxes(
        gridcolor=theme.RULE, zeroline=True, zerolinecolor=theme.RULE, nticks=5, fixedrange=True
    )
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=[_spoken(name) for name in methods[::-1]],
        gridcolor=theme.RULE,
        fixedrange=True,
    )
    figure.update_annotations(font={"size": 13, "color": theme.INK})
    attrs = result.attrs
    note = f"{attrs['model']}, {attrs['texts']} texts; bars: {100 * attrs['level']:.0f}% confidence; dashed: random"
    figure.update_layout(
        **theme.layout(
            title={"text": f"<b>{attrs['title']}</b><br><sup>{note}</sup>", "x": 0, "xref": "paper"},
            height=110 + rows * (96 + ROW * len(methods)),
            margin={"l": 150, "r": 24, "t": 110, "b": 48},
            showlegend=False,
        )
    )
    return figure


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _title(result: xr.Dataset, i: int) -> str:
    name, better = str(result["measure"].values[i]), str(result["better"].values[i])
    arrow = {"higher": "→ better", "lower": "← better"}.get(better, "")
    return f"<b>{name}</b> <span style='color:{theme.MUTED}'>{arrow}</span>"


def _dots(result: xr.Dataset, i: int, methods: list[str]) -> list[go.Scatter]:
    import plotly.graph_objects as go

    mean, low, high = (np.asarray(result[n].values[:, i], dtype=np.float64) for n in ("mean", "low", "high"))
    own = [k for k, name in enumerate(methods) if name != CHANCE and np.isfinite(mean[k])]
    lower = str(result["better"].values[i]) == "lower"
    best = min(own, key=lambda k: mean[k] if lower else -mean[k]) if own else -1
    colours = [theme.MUTED if name == CHANCE else theme.SUPPORT for name in methods]
    meaning = (
        "<br>".join(textwrap.wrap(str(result["meaning"].values[i]), 60))
        if "meaning" in result.variables
        else ""
    )
    spans = [f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)]
    return [
        go.Scatter(
            x=mean,
            y=[_spoken(name) for name in methods],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - mean,
                "arrayminus": mean - low,
                "color": theme.MUTED,
                "thickness": 2,
                "width": 4,
            },
            mode="markers",
            marker={
                "size": 11,
                "color": [c if k == best else theme.PAPER for k, c in enumerate(colours)],
                "line": {"color": colours, "width": 2},
            },
            customdata=spans,
            hovertemplate=f"%{{y}}: %{{x:.3f}} (%{{customdata}})<br>{meaning}<extra></extra>",
        )
    ]
