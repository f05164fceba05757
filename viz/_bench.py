"""The figure of `probe bench`: time as a multiple of the forward pass, against length, a panel for each mask pattern."""

from __future__ import annotations

import html
import math
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
_REFERENCES = {"cudnn": "cuDNN's forward", "sdpa": "SDPA's forward", "flash": "flash's forward"}
"""What times are divided by: the first of these that was measured in a pattern."""
_SHOWN = {
    "rows": "rows",
    "columns": "cols",
    "map": "rows + cols + map",
    "map-lse": "cols + map",
    "top-links": "strongest keys",
    "sink-shift": "sinks shrunk",
}
"""Statistics that are drawn at once, with the names at the ends of their curves; the others wait in the legend."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star")
_DASHES = ("dot", "dash", "longdash", "dashdot")
_TICKS = tuple(x for ten in range(-4, 5) for x in (10.0**ten, 2 * 10.0**ten, 5 * 10.0**ten))
_GAP = 0.045
"""Smallest distance of two names at the right, as a share of the panel's height."""


def draw_bench(document: Document) -> go.Figure:
    """Draw the time of statistics (solid) and of other forward passes (grey, dashed) ÷ the forward pass of reference.

    Args:
        document: As `probe.dashboard.bench` describes it; needs `measurements`, `fits`, `goals`, `device`, `shape`.

    Returns:
        A panel for each pattern with a reference (cuDNN, else SDPA, else flash), all on one scale; goals as short bars.
    """
    panels = _panels(document)
    rows = max(1, -(-len(panels) // _COLUMNS))
    figure = make_subplots(
        rows=rows,
        cols=_COLUMNS,
        subplot_titles=[f"{pattern}: time ÷ {_REFERENCES[peer]}" for pattern, peer in panels],
        horizontal_spacing=0.07,
        vertical_spacing=min(0.5, 0.16 / rows),
    )
    styles = _styles([m for pattern, _ in panels for m in _measured(document, pattern)])
    span = _span(document, panels)
    seen: set[str] = set()
    for at, (pattern, peer) in enumerate(panels):
        place = {"row": at // _COLUMNS + 1, "col": at % _COLUMNS + 1}
        ends = []
        for name, style in styles.items():
            curve = _curve(document, pattern, peer, name, style)
            if curve is None:
                continue
            curve.showlegend = name not in seen
            seen.add(name)
            figure.add_trace(curve, **place)
            if curve.visible is True:
                ends.append(
                    (math.log10(curve.y[-1]), math.log10(curve.x[-1]), _SHOWN.get(name, name), style[0])
                )
        for bar in _goals(document, pattern, peer, styles):
            figure.add_trace(bar, **place)
        figure.add_hline(1.0, line={"color": theme.INK, "width": 1}, **place)
        _names(figure, ends, span, at + 1)
    _axes(figure, document, span, rows)
    figure.update_layout(**_layout(document, rows))
    return figure


def _measured(document: Document, pattern: str) -> list[Document]:
    return [m for m in document["measurements"] if m["pattern"] == pattern]


def _panels(document: Document) -> list[tuple[str, str]]:
    """The patterns that can be drawn, each with its forward pass of reference."""
    found = []
    for pattern in document["patterns"]:
        names = {m["name"] for m in _measured(document, pattern)}
        peer = next((peer for peer in _REFERENCES if peer in names), None)
        if peer is not None and any(m["kind"] == "statistic" for m in _measured(document, pattern)):
            found.append((pattern, peer))
    return found


def _styles(measured: list[Document]) -> dict[str, tuple[str, str, str]]:
    """Colour, dash and marker of each name: statistics that are shown, peers in greys, the other statistics."""
    statistics = list(dict.fromkeys(m["name"] for m in measured if m["kind"] == "statistic"))
    peers = list(dict.fromkeys(m["name"] for m in measured if m["kind"] == "peer"))
    shown = [name for name in statistics if name in _SHOWN]
    styles = {n: (theme.CURVES[i], "solid", _SYMBOLS[i]) for i, n in enumerate(shown)}
    styles |= {n: (theme.SPECIAL, _DASHES[i % len(_DASHES)], "circle-open") for i, n in enumerate(peers)}
    others = [name for name in statistics if name not in _SHOWN]
    for at, name in enumerate(others):
        styles[name] = (theme.CURVES[at % len(theme.CURVES)], "dot", "x")
    return styles


def _ratios(document: Document, pattern: str, peer: str, name: str) -> list[tuple[Document, float]]:
    """The measurements of a name by length, each with its multiple of the reference at that length."""
    measured = _measured(document, pattern)
    reference = {m["n"]: m["seconds"] for m in measured if m["name"] == peer}
    points = [m for m in measured if m["name"] == name and m["n"] in reference]
    return [(m, m["seconds"] / reference[m["n"]]) for m in sorted(points, key=lambda m: int(m["n"]))]


def _curve(
    document: Document, pattern: str, peer: str, name: str, style: tuple[str, str, str]
) -> go.Scatter | None:
    points = _ratios(document, pattern, peer, name)
    if not points or name == peer:
        return None
    fits = [f["exponent"] for f in document["fits"] if (f["pattern"], f["name"]) == (pattern, name)]
    slope = f", time ~ N<sup>{fits[0]:.2f}</sup>" if fits else ""
    first, (colour, dash, symbol) = points[0][0], style
    label = html.escape(first["label"])
    return go.Scatter(
        x=[m["n"] for m, _ in points],
        y=[ratio for _, ratio in points],
        customdata=[[m["seconds"] * 1e3, m["tflops"], m["extra_bytes"] / 2**20] for m, _ in points],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 1.5 if first["kind"] == "peer" else 2.5},
        marker={"symbol": symbol, "size": 8, "color": colour},
        name=label,
        meta=name,
        legendgroup=name,
        visible=True if name in _SHOWN or _is_forward(first) else "legendonly",
        hovertemplate=(
            f"<b>{label}</b>{slope}<br>%{{x:,}} tokens: %{{y:.2f}} × {_REFERENCES[peer]}<br>%{{customdata[0]:.3~g}} ms, "
            "%{customdata[1]:.3~g} TFLOP/s, %{customdata[2]:,.0f} MiB extra<extra></extra>"
        ),
    )


def _is_forward(one: Document) -> bool:
    """Whether this is a forward pass by blocks: eager is no measure of a long input, column sums are no forward."""
    return one["kind"] == "peer" and one["name"] not in ("eager", "flash-colsum")


def _goals(
    document: Document, pattern: str, peer: str, styles: dict[str, tuple[str, str, str]]
) -> list[go.Scatter]:
    """A short bar at each goal of a curve in this panel, in the curve's colour."""
    bars = []
    for goal in document["goals"]:
        at = goal["at"]
        if at is None or (at["pattern"], at["peer"]) != (pattern, peer) or at["name"] not in styles:
            continue
        words = {True: "met", False: "not met", None: html.escape(goal["why"] or "")}[goal["met"]]
        bars.append(
            go.Scatter(
                x=[at["n"]],
                y=[goal["limit"]],
                mode="markers",
                marker={
                    "symbol": "line-ew",
                    "size": 26,
                    "line": {"width": 4, "color": styles[at["name"]][0]},
                    "opacity": 0.55,
                },
                meta=f"goal {at['name']}",
                showlegend=False,
                legendgroup=at["name"],
                hovertemplate=f"goal: {html.escape(goal['goal'])}: at most {goal['limit']:g}; {words}<extra></extra>",
            )
        )
    return bars


def _span(document: Document, panels: list[tuple[str, str]]) -> tuple[float, float]:
    """The common vertical range in decades, around the curves that are shown."""
    visible = [1.0, *(goal["limit"] for goal in document["goals"] if goal["at"] is not None)]
    for pattern, peer in panels:
        for name in dict.fromkeys(m["name"] for m in _measured(document, pattern)):
            points = _ratios(document, pattern, peer, name)
            if name in _SHOWN or (points and _is_forward(points[0][0])):
                visible += [ratio for _, ratio in points]
    low, high = math.log10(min(visible)), math.log10(max(visible))
    room = max(0.1, 0.06 * (high - low))
    return low - room, high + room


def _names(
    figure: go.Figure, ends: list[tuple[float, float, str, str]], span: tuple[float, float], panel: int
) -> None:
    """Name the curves at their right ends (height and place in decades), moved apart where they would overlap."""
    number = "" if panel == 1 else str(panel)
    gap = _GAP * (span[1] - span[0])
    ends = sorted(ends)
    heights: list[float] = []
    for end, *_ in ends:
        heights.append(max(end, heights[-1] + gap) if heights else end)
    ceiling = span[1]
    for at in reversed(range(len(heights))):
        heights[at] = min(heights[at], ceiling)
        ceiling = heights[at] - gap
    for height, (_, last, name, colour) in zip(heights, ends, strict=True):
        figure.add_annotation(
            x=last,
            xref=f"x{number}",
            xshift=10,
            y=height,
            yref=f"y{number}",
            text=name,
            showarrow=False,
            xanchor="left",
            font={"size": 12, "color": colour},
            bgcolor=theme.PAPER,
            borderpad=0,
        )


def _axes(figure: go.Figure, document: Document, span: tuple[float, float], rows: int) -> None:
    lengths = sorted({m["n"] for m in document["measurements"]} or {1})
    ticks = [f"{n // 1024}k" if n % 1024 == 0 else f"{n:,}" for n in lengths]
    low, high = math.log10(lengths[0]), math.log10(lengths[-1])
    width = max(high - low, 0.3)
    shared = {"type": "log", "gridcolor": theme.RULE, "zeroline": False, "linecolor": theme.RULE}
    reach = [low - 0.06 * width, high + 0.48 * width]  # the names of the curves stand at the right
    figure.update_xaxes(tickvals=lengths, ticktext=ticks, range=reach, **shared)
    figure.update_yaxes(tickvals=_TICKS, ticktext=[f"{x:g}×" for x in _TICKS], range=list(span), **shared)
    figure.update_xaxes(title_text="tokens", row=rows)


def _layout(document: Document, rows: int) -> dict[str, object]:
    device, shape = document["device"], document["shape"]
    about = (
        f"{device['name']}; {shape['heads']}/{shape['key_heads']} heads, head size {shape['head_size']}, {shape['dtype']}; "
        f"torch {document['versions']['torch']}; {document['created'][:10]}; short bars: goals"
    )
    if document["partial"]:
        about += f"; partial: {document['why_partial']}"
    return theme.layout(
        title=theme.heading("Time of exact attention statistics beside the forward pass", html.escape(about)),
        height=300 + 400 * rows,
        margin={"l": 72, "r": 24, "t": 110, "b": 190},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
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
