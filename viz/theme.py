"""Every colour, font and scale of figures, reports and the terminal; nothing here imports a drawing library.

Blue supports, orange speaks against: the two stay apart under every common colour-vision deficiency. Each
step of the token scales is light enough for dark text (contrast at least 4.5, WCAG 2 AA).
"""

from __future__ import annotations

import itertools
import math
from typing import Final

Scale = tuple[tuple[float, str], ...]

INK: Final = "#1d2433"
MUTED: Final = "#5a6475"
RULE: Final = "#d9dee6"
PAPER: Final = "#ffffff"
PAGE: Final = "#f4f6f9"
NEUTRAL: Final = "#f7f7f5"
MISSING: Final = "#d3d6dc"
SPECIAL: Final = "#737d8e"
SUPPORT: Final = "#1f6fb5"
AGAINST: Final = "#b5530b"
GOOD: Final = "#17694a"
BAD: Final = "#a3231f"
PAGE_NAMES: Final = (
    "INK",
    "MUTED",
    "RULE",
    "PAPER",
    "PAGE",
    "SPECIAL",
    "SUPPORT",
    "AGAINST",
    "GOOD",
    "BAD",
    "TEXT_FONT",
)
"""What the style sheet of a report may name."""

TEXT_FONT: Final = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', Arial, sans-serif"
)
MONO_FONT: Final = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
MONO_ADVANCE: Final = 0.61
"""Width of a monospaced character in units of the font size (DejaVu Sans Mono 0.602, Consolas 0.55)."""

DIVERGING: Final[Scale] = (
    (0.0, "#f0862b"),
    (0.25, "#f9c08b"),
    (0.5, NEUTRAL),
    (0.75, "#a9cdee"),
    (1.0, "#4c9be0"),
)
CURVES: Final = ("#0072b2", "#d55e00", "#005119", "#fb0551", "#1d2433", "#1220d9")
"""Colours of curves in one panel, told apart under every common colour-vision deficiency."""
TOKEN_SEQUENTIAL: Final[Scale] = ((0.0, NEUTRAL), (0.5, "#a9cdee"), (1.0, "#4c9be0"))
SEQUENTIAL: Final[Scale] = (
    (0.0, "#f7fbfd"),
    (0.2, "#cfe5ee"),
    (0.4, "#8cc3d8"),
    (0.6, "#4193bd"),
    (0.8, "#1d5f96"),
    (1.0, "#0b2a5b"),
)

OVERLAY: Final[Scale] = (
    (0.0, "rgba(255, 243, 150, 0)"),
    (0.2, "rgba(255, 222, 90, 0.40)"),
    (0.5, "rgba(252, 141, 35, 0.62)"),
    (0.8, "rgba(215, 32, 30, 0.74)"),
    (1.0, "rgba(110, 0, 62, 0.82)"),
)
"""For maps over pictures: what is low lets the picture through. Not for `interpolate`, which knows no transparency."""
OUTLINE: Final = "#0b3d91"
CHOSEN: Final = "#00a3a3"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def interpolate(scale: Scale, position: float) -> str:
    """Colour of a scale at a position between 0 and 1 (linear in sRGB, as plotly.js does it).

    Args:
        scale: Stops `(position, "#rrggbb")`, ascending from 0 to 1.
        position: Where to read; values outside are clipped.

    Returns:
        The colour as `"#rrggbb"`.
    """
    position = min(max(position, 0.0), 1.0)
    for (low, first), (high, second) in itertools.pairwise(scale):
        if position <= high:
            part = (position - low) / (high - low)
            mixed = (
                round(a + (b - a) * part) for a, b in zip(_channels(first), _channels(second), strict=True)
            )
            return "#{:02x}{:02x}{:02x}".format(*mixed)
    return scale[-1][1]


def token_colour(score: float, limit: float, *, signed: bool) -> str | None:
    """Background of one token.

    Args:
        score: The token's score; not finite means that it has none.
        limit: Largest absolute score of the text, where the full colour stands.
        signed: Whether the sign means something (diverging scale centred at 0) or scores only grow from 0.

    Returns:
        `"#rrggbb"`, or None when there is nothing to colour.
    """
    if not math.isfinite(score) or limit <= 0:
        return None
    if signed:
        return interpolate(DIVERGING, 0.5 + 0.5 * score / limit)
    return interpolate(TOKEN_SEQUENTIAL, abs(score) / limit)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [c / 255 for c in _channels(colour)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def heading(text: str, subtitle: str) -> dict[str, object]:
    """The title of a figure, bold, at its upper left, with a muted line below; both are HTML already escaped."""
    return {
        "text": f"<b>{text}</b>",
        "subtitle": {"text": subtitle, "font": {"size": 13, "color": MUTED}},
        "x": 0,
        "xref": "paper",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 18},
    }


def story(text: str) -> dict[str, object]:
    """The title of a figure that stands under a panel's own title: one plain line at its upper left, HTML already escaped."""
    return {
        "text": text,
        "font": {"size": 14},
        "x": 0.02,
        "xref": "container",
        "y": 1,
        "yanchor": "top",
        "pad": {"t": 12},
    }


def layout(**more: object) -> dict[str, object]:
    """Plotly layout that all figures share; keyword arguments are added to it.

    Args:
        **more: Further layout entries; they win over the shared ones.

    Returns:
        A dictionary for `Figure.update_layout`.
    """
    shared: dict[str, object] = {
        "font": {"family": TEXT_FONT, "size": 14, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "hoverlabel": {
            "bgcolor": INK,
            "font": {"color": PAPER, "family": TEXT_FONT, "size": 13},
            "align": "left",
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": INK},
    }
    return shared | more
