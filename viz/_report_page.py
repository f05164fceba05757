"""The frame of a report: style, a few lines of script for hovering, and a policy that forbids connections."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from probe.viz import theme

_PARTS = Path(__file__).parent / "page"


def page(title: str, body: str, *, library: str, generator: str) -> str:
    """Put a body into the frame.

    Args:
        title: Plain text for the window's title.
        body: Finished, escaped HTML.
        library: The source of plotly.js, or nothing when the page has no figure.
        generator: Name and version of the program.

    Returns:
        A whole HTML document that loads nothing.
    """
    colours = {name.lower(): getattr(theme, name) for name in theme.PAGE_NAMES}
    ends = {"low": theme.DIVERGING[0][1], "high": theme.DIVERGING[-1][1]}
    return _part("frame.html").substitute(
        title=html.escape(title),
        generator=html.escape(generator, quote=True),
        style=_part("style.css").substitute(colours | ends),
        script=_part("hover.js").template,
        library=f"<script>{library}</script>\n" if library else "",
        body=body,
    )


def _part(name: str) -> Template:
    return Template((_PARTS / name).read_text(encoding="utf-8"))
