"""The `token_strip` figure: the text itself, each token on a ground that shows its score."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from probe.viz import theme
from probe.viz.passages import choose
from probe.viz.strip import Strip, Token, figure, headline, percent, read_strip, signs, visible
from probe.viz.wrap import Box, lay_out

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = 96
FONT_SIZE = 16
LINE = 34
LEGEND_STEPS, LEGEND_STEP, LEGEND_GAP = 11, 2, 0.4
LIMIT = 1500
"""Tokens drawn at most; of a longer text the strongest passages are shown, and the title says so."""

_HOVER = (
    "<b>%{customdata[0]}</b><br>score %{customdata[1]} (%{customdata[2]} of the text's total)<br>"
    "token %{customdata[3]}%{customdata[4]}<extra></extra>"
)


def draw_token_strip(result: xr.Dataset, *, columns: int = COLUMNS, limit: int = LIMIT) -> go.Figure:
    """Draw tokens as coloured text that wraps like prose.

    Args:
        result: A `token_strip` Dataset.
        columns: Characters per line.
        limit: Tokens drawn at most.

    Returns:
        A figure of fixed width; a bar trace holds all scored boxes (base, length, line and colour of each),
        another the special tokens, two more the legend below the text.

    Raises:
        InputError: The Dataset lacks a part, or no token has a finite score.
    """
    strip = read_strip(result)
    spans = choose([token.score if token.role == "text" else 0.0 for token in strip.tokens], limit)
    shown: list[Token | str] = []
    position = 0
    for first, end in [*spans, (len(strip.tokens), len(strip.tokens))]:
        if first > position:
            shown.append(f" […{first - position:,} tokens…] ")
        shown.extend(strip.tokens[first:end])
        position = end
    pieces = [item if isinstance(item, str) else _piece(item) for item in shown]
    boxes = lay_out(pieces, columns)
    figure = go.Figure()
    scored = [b for b in boxes if _is_scored(shown[b.token])]
    plain = [b for b in boxes if not _is_scored(shown[b.token])]
    figure.add_trace(_scored_trace(scored, shown, strip))
    if plain:
        figure.add_trace(_plain_trace(plain, shown, strip))
    lines = max((box.line for box in boxes), default=0) + 1
    figure.add_traces(_legend_traces(strip, lines + LEGEND_GAP))
    figure.update_layout(**_layout(strip, lines, columns, _note(strip, spans)))
    return figure


def _piece(token: Token) -> str:
    return f" {token.text} " if token.role != "text" else token.text


def _is_scored(item: Token | str) -> bool:
    return isinstance(item, Token) and item.role == "text" and bool(np.isfinite(item.score))


def _scored_trace(boxes: list[Box], shown: list[Token | str], strip: Strip) -> go.Bar:
    colours = [theme.token_colour(_score(shown[b.token]), strip.limit, signed=strip.signed) for b in boxes]
    return go.Bar(
        name="tokens",
        marker={"color": [c or theme.NEUTRAL for c in colours], "line": {"width": 0}, "cornerradius": 3},
        insidetextfont={"family": theme.MONO_FONT, "size": FONT_SIZE, "color": theme.INK},
        customdata=[_details(shown[box.token], strip) for box in boxes],
        hovertemplate=_HOVER,
        **_geometry(boxes),
    )


def _legend_traces(strip: Strip, line: float) -> list[go.Bar]:
    """What the colours mean, set like a line of text (a colour bar fails on figures this low)."""
    low_sign, high_sign = signs(strip)
    top = figure(strip.limit, signed=False)
    left = f"{low_sign} {'−' + top if strip.signed else '0'} "
    shrink = (FONT_SIZE - 3) / FONT_SIZE
    ramp = len(left) * shrink + np.arange(LEGEND_STEPS) * LEGEND_STEP
    scores = np.linspace(-1.0 if strip.signed else 0.0, 1.0, LEGEND_STEPS)
    colours = [theme.token_colour(float(score), 1.0, signed=strip.signed) for score in scores]
    right = f" {'+' if strip.signed else ''}{top} {high_sign}"
    words = [(0.0, len(left) * shrink, left), (float(ramp[-1]) + LEGEND_STEP, len(right) * shrink, right)]
    shared = {"orientation": "h", "width": 0.5, "showlegend": False, "hoverinfo": "skip", "cliponaxis": False}
    cells = go.Bar(
        name="colours",
        base=ramp,
        x=np.full(LEGEND_STEPS, LEGEND_STEP),
        y=np.full(LEGEND_STEPS, line),
        marker={"color": colours, "line": {"width": 0}},
        **shared,
    )
    labels = go.Bar(
        name="legend",
        base=[w[0] for w in words],
        x=[w[1] for w in words],
        y=np.full(len(words), line),
        marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}},
        text=[html.escape(w[2]) for w in words],
        textposition="inside",
        insidetextanchor="middle",
        constraintext="none",
        textangle=0,
        insidetextfont={"family": theme.MONO_FONT, "size": FONT_SIZE - 3, "color": theme.MUTED},
        **shared,
    )
    return [cells, labels]


def _plain_trace(boxes: list[Box], shown: list[Token | str], strip: Strip) -> go.Bar:
    return go.Bar(
        name="not coloured",
        marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}},
        insidetextfont={"family": theme.MONO_FONT, "size": FONT_SIZE - 3, "color": theme.SPECIAL},
        customdata=[_details(shown[box.token], strip) for box in boxes],
        hovertemplate=_HOVER,
        **_geometry(boxes),
    )


def _geometry(boxes: list[Box]) -> dict[str, object]:
    return {
        "orientation": "h",
        "base": np.array([box.column for box in boxes], dtype=np.int32),
        "x": np.array([box.width for box in boxes], dtype=np.int32),
        "y": np.array([box.line for box in boxes], dtype=np.int32),
        "width": 0.74,
        "text": [html.escape(box.text) for box in boxes],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "none",
        "cliponaxis": False,
        "showlegend": False,
    }


def _score(item: Token | str) -> float:
    return item.score if isinstance(item, Token) else float("nan")


def _details(item: Token | str, strip: Strip) -> list[str]:
    if isinstance(item, str):
        return [html.escape(item.strip()), "not shown", "–", "", ""]
    where = f"{item.index + 1} of {strip.tokens[-1].index + 1}"
    characters = f", characters {item.start}–{item.end}" if item.start >= 0 else ""
    share = percent(item.share) if item.role == "text" else "special token, no part"
    return [
        html.escape(visible(item.text)),
        figure(item.score, signed=strip.signed),
        share,
        where,
        characters,
    ]


def _note(strip: Strip, spans: list[tuple[int, int]]) -> str:
    parts = [f"{strip.method.replace('_', ' ')}"] if strip.method else []
    shown = sum(end - first for first, end in spans)
    if shown < len(strip.tokens):
        parts.append(f"the strongest passages, {shown:,} of {len(strip.tokens):,} tokens")
    else:
        parts.append(f"{shown:,} tokens")
    if strip.special_share >= 0.01:
        parts.append(f"special tokens (grey) hold {percent(strip.special_share)} of the whole input")
    return " · ".join(parts)


def _layout(strip: Strip, lines: int, columns: int, note: str) -> dict[str, object]:
    top, bottom, side = 84, 12, 24
    rows = lines + 1 + LEGEND_GAP
    return theme.layout(
        title=theme.heading(html.escape(headline(strip)), html.escape(note)),
        barmode="overlay",
        bargap=0,
        width=round(columns * FONT_SIZE * theme.MONO_ADVANCE) + 2 * side,
        height=top + bottom + round(rows * LINE),
        margin={"l": side, "r": side, "t": top, "b": bottom, "pad": 0},
        xaxis={"range": [0, columns], "visible": False, "fixedrange": True},
        yaxis={"range": [rows - 0.5, -0.5], "visible": False, "fixedrange": True},
        uniformtext={"mode": False},
    )
