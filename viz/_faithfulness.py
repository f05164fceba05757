"""The faithfulness figure: how the probability moves when tokens go, or come, by order of score."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr

_PANELS = (
    (
        "deletion",
        "Deletion: highest-scored {parts} removed first",
        "share of {parts} removed",
        "lower = faithful",
    ),
    (
        "insertion",
        "Insertion: highest-scored {parts} put back first",
        "share of {parts} put back",
        "higher = faithful",
    ),
)


def has_faithfulness(result: xr.Dataset) -> bool:
    """Whether a result carries deletion and insertion curves."""
    return {"fraction", "deletion", "insertion"} <= set(result.variables)


def draw_faithfulness(result: xr.Dataset) -> go.Figure:
    """Draw the deletion and insertion curves of a result against random order.

    Args:
        result: A Dataset with `fraction`, `deletion`, `insertion` and, for the bands, `deletion_random`,
            `deletion_random_sd` and the same for insertion, all with dimension `step`.

    Returns:
        Two panels with a shared scale from 0 to 1: the curve, the random mean and mean ± one standard
        deviation.

    Raises:
        InputError: The result carries no curves.
    """
    if not has_faithfulness(result):
        raise InputError(
            "this result carries no faithfulness curves: expected the variables fraction, deletion, insertion"
        )
    figure = make_subplots(
        cols=2, horizontal_spacing=0.09, subplot_titles=[_panel_title(result, p) for p in _PANELS]
    )
    for column, (name, _, axis, _) in enumerate(_PANELS, start=1):
        for trace in _curves(result, name):
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=axis.format(parts=_parts(result)), row=1, col=column)
    target = html.escape(str(result.attrs.get("target", "the target")).strip())
    figure.update_xaxes(range=[0, 1], tickformat=".0%", gridcolor=theme.RULE, zeroline=False, fixedrange=True)
    figure.update_yaxes(
        range=[0, 1.02], tickformat=".0%", gridcolor=theme.RULE, zeroline=False, fixedrange=True
    )
    figure.update_yaxes(title_text=f"probability of “{target}”", row=1, col=1)
    figure.update_annotations(font={"size": 14, "color": theme.INK}, align="center", yanchor="bottom")
    figure.update_layout(**_layout(str(result.attrs.get("faithfulness_verdict", ""))))
    return figure


def _panel_title(result: xr.Dataset, panel: tuple[str, str, str, str]) -> str:
    name, title, _, better = panel
    own, random = result.attrs.get(f"{name}_auc"), result.attrs.get(f"{name}_auc_random")
    areas = "" if own is None else f"area {float(own):.2f}"
    if own is not None and random is not None:
        areas += f", random {float(random):.2f}"
    return f"<b>{title.format(parts=_parts(result))}</b><br><span style='color:{theme.MUTED}'>{areas} ({better})</span>"


def _parts(result: xr.Dataset) -> str:
    return f"{result.attrs.get('part', 'token')}s"


def _curves(result: xr.Dataset, name: str) -> list[go.Scatter]:
    fraction = np.asarray(result["fraction"].values, dtype=np.float64)
    curve = np.asarray(result[name].values, dtype=np.float64)
    first = name == "deletion"
    traces: list[go.Scatter] = []
    if f"{name}_random" in result.variables:
        mean = np.asarray(result[f"{name}_random"].values, dtype=np.float64)
        if f"{name}_random_sd" in result.variables:
            spread = np.asarray(result[f"{name}_random_sd"].values, dtype=np.float64)
            traces.append(
                go.Scatter(
                    x=np.concatenate([fraction, fraction[::-1]]),
                    y=np.concatenate([np.clip(mean + spread, 0, 1), np.clip(mean - spread, 0, 1)[::-1]]),
                    mode="lines",
                    fill="toself",
                    fillcolor="rgba(90,100,117,0.18)",
                    line={"width": 0},
                    hoverinfo="skip",
                    name="random order, ± 1 standard deviation",
                    legendgroup="band",
                    showlegend=first,
                )
            )
        traces.append(
            go.Scatter(
                x=fraction,
                y=mean,
                mode="lines",
                line={"color": theme.MUTED, "width": 2, "dash": "dash"},
                name="random order, mean",
                legendgroup="random",
                showlegend=first,
                hovertemplate="random: %{y:.1%}<extra></extra>",
            )
        )
    traces.append(
        go.Scatter(
            x=fraction,
            y=curve,
            mode="lines+markers",
            line={"color": theme.SUPPORT, "width": 3},
            marker={"size": 6},
            name="order of this explanation",
            legendgroup="own",
            showlegend=first,
            hovertemplate=f"%{{x:.0%}} of the {_parts(result)}: %{{y:.1%}}<extra></extra>",
        )
    )
    return traces


def _layout(verdict: str) -> dict[str, object]:
    title = "<br>".join(textwrap.wrap(html.escape(verdict), 110)) or "Faithfulness of the explanation"
    lines = title.count("<br>") + 1
    return theme.layout(
        title={"text": f"<b>{title}</b>", "x": 0, "xref": "paper", "font": {"size": 16}, "pad": {"b": 8}},
        height=420 + 22 * lines,
        margin={"l": 64, "r": 24, "t": 90 + 22 * lines, "b": 96},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2, "yanchor": "top"},
        hovermode="x unified",
    )
