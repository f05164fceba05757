"""The figure of `probe bench`: time against length, log-log, a panel for each mask pattern."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.viz import theme
from probe.viz._report import _generator, _write
from probe.viz._report_page import page

if TYPE_CHECKING:
    from pathlib import Path

    Document = dict[str, Any]

_COLUMNS = 2
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon", "cross", "x")


def draw_bench(document: Document) -> go.Figure:
    """Draw time against tokens of every statistic (blue, solid) and every peer (orange, dashed).

    Args:
        document: As `probe.dashboard.bench` describes it; needs `measurements`, `fits`, `device`, `shape`.

    Returns:
        A panel for each pattern that has a measurement, all on one scale.
    """
    measured = document["measurements"]
    patterns = [p for p in document["patterns"] if any(m["pattern"] == p for m in measured)]
    rows = max(1, -(-len(patterns) // _COLUMNS))
    figure = make_subplots(
        rows=rows,
        cols=_COLUMNS,
        subplot_titles=patterns,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.05,
        vertical_spacing=min(0.5, 0.16 / rows),
    )
    styles = _styles(measured)
    shown: set[str] = set()
    for place, pattern in enumerate(patterns):
        for name in dict.fromkeys(m["name"] for m in measured if m["pattern"] == pattern):
            trace = _curve(document, pattern, name, styles[name], first=name not in shown)
            figure.add_trace(trace, row=place // _COLUMNS + 1, col=place % _COLUMNS + 1)
            shown.add(name)
    _axes(figure, measured, rows)
    figure.update_layout(**_layout(document, rows))
    return figure


def _styles(measured: list[Document]) -> dict[str, tuple[str, str, str]]:
    """Colour, dash and marker of each name: statistics from light to dark blue, peers from light to dark orange."""
    styles = {}
    for kind, dash in (("statistic", "solid"), ("peer", "dash")):
        names = list(dict.fromkeys(m["name"] for m in measured if m["kind"] == kind))
        for at, name in enumerate(names):
            part = at / max(1, len(names) - 1)
            if kind == "statistic":
                colour = theme.interpolate(theme.SEQUENTIAL, 1 - 0.6 * part)
            else:
                colour = theme.interpolate(((0.0, theme.AGAINST), (1.0, theme.DIVERGING[1][1])), part)
            styles[name] = (colour, dash, _SYMBOLS[at % len(_SYMBOLS)])
    return styles


def _curve(
    document: Document, pattern: str, name: str, style: tuple[str, str, str], *, first: bool
) -> go.Scatter:
    points = [m for m in document["measurements"] if (m["pattern"], m["name"]) == (pattern, name)]
    points.sort(key=lambda m: int(m["n"]))
    fits = [f["exponent"] for f in document["fits"] if (f["pattern"], f["name"]) == (pattern, name)]
    slope = f", time ~ N<sup>{fits[0]:.2f}</sup>" if fits else ""
    colour, dash, symbol = style
    label = html.escape(points[0]["label"])
    return go.Scatter(
        x=[m["n"] for m in points],
        y=[m["seconds"] * 1e3 for m in points],
        customdata=[[m["tflops"], m["extra_bytes"] / 2**20] for m in points],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 8},
        name=label,
        meta=name,
        legendgroup=name,
        showlegend=first,
        hovertemplate=(
            f"<b>{label}</b>{slope}<br>%{{x:,}} tokens: %{{y:.3~g}} ms<br>"
            "%{customdata[0]:.3~g} TFLOP/s, %{customdata[1]:,.0f} MiB extra<extra></extra>"
        ),
    )


def _axes(figure: go.Figure, measured: list[Document], rows: int) -> None:
    lengths = sorted({m["n"] for m in measured})
    ticks = [f"{n // 1024}k" if n % 1024 == 0 else f"{n:,}" for n in lengths]
    shared = {"type": "log", "gridcolor": theme.RULE, "zeroline": False, "linecolor": theme.RULE}
    figure.update_xaxes(tickvals=lengths, ticktext=ticks, showticklabels=True, **shared)
    figure.update_yaxes(dtick=1, tickformat="~g", **shared)
    figure.update_xaxes(title_text="tokens", row=rows)
    figure.update_yaxes(title_text="milliseconds", col=1)


def _layout(document: Document, rows: int) -> dict[str, object]:
    device, shape = document["device"], document["shape"]
    about = (
        f"{device['name']}; {shape['heads']}/{shape['key_heads']} heads, head size {shape['head_size']}, {shape['dtype']}; "
        f"torch {document['versions']['torch']}; {document['created'][:10]}"
    )
    if document["partial"]:
        about += f"; partial: {document['why_partial']}"
    return theme.layout(
        title=theme.heading("Time of exact attention statistics and of forward passes", html.escape(about)),
        height=180 + 360 * rows,
        margin={"l": 72, "r": 24, "t": 110, "b": 60},
        legend={"x": 1.02, "y": 1, "yanchor": "top", "itemsizing": "constant"},
    )


def write_bench(document: Document, path: Path) -> Path:
    """Write the figure as a page that opens offline and loads nothing.

    Args:
        document: As for `draw_bench`.
        path: The file; an existing one is replaced in one step.

    Returns:
        The path written.
    """
    from plotly.offline import get_plotlyjs

    config = {"displaylogo": False, "responsive": True}
    drawn = draw_bench(document).to_html(
        include_plotlyjs=False, full_html=False, div_id="figure-1", config=config
    )
    body = f'<div class="figure">{drawn}</div>'
    return _write(path, page("probe bench", body, library=get_plotlyjs(), generator=_generator()))
