"""A result as Markdown: what the model says, the text with its strong parts marked, words, figures, origin."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.viz.passages import choose
from probe.viz.strip import Strip, figure, headline, percent, read_strip, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

LIMIT = 2000
"""Tokens of the text shown at most."""
STRONG = 0.2
TOP = 6
_SPECIAL = re.compile(r"([\\`*_\[\]#|<>~&$])")
_OPENING = re.compile(r"^(\s*)(?:([-+=])|(\d+)([.)]))")


def markdown(result: xr.Dataset, sentences: Sequence[str]) -> str:
    """Write a token strip as Markdown; nothing in the explained text can become a mark or an HTML tag.

    Args:
        result: A `token_strip`.
        sentences: Its words.

    Returns:
        Bold parts speak for the target, struck ones against it; ends with a line break.
    """
    strip = read_strip(result)
    parts = [f"# {escape(headline(strip))}", _marked(strip), "\n".join(f"- {escape(s)}" for s in sentences)]
    table = _table(strip)
    parts += [table] if table else []
    command = result.attrs.get("command")
    if command:
        fence = "`" * (max((len(run) for run in re.findall("`+", str(command))), default=0) + 3)
        parts.append(f"Made by\n\n{fence}sh\n{command}\n{fence}")
    parts.append(_origin(result))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """The text with every mark of Markdown and HTML made plain, on one line."""
    plain = _SPECIAL.sub(r"\\\1", visible(text))
    return _OPENING.sub(lambda m: f"{m[1]}\\{m[2]}" if m[2] else f"{m[1]}{m[3]}\\{m[4]}", plain)


def _marked(strip: Strip) -> str:
    """The text as a block quote; strong tokens are bold, or struck where they speak against the target."""
    spans = choose([t.score if t.role == "text" else 0.0 for t in strip.tokens], LIMIT)
    parts: list[str] = []
    position = 0
    for first, end in spans:
        parts += [f" … {first - position:,} tokens not shown … "] if first > position else []
        for token in strip.tokens[first:end]:
            if token.role == "text":
                parts.append(_token(token.text, token.score, strip))
        position = end
    if position < len(strip.tokens):
        parts.append(f" … {len(strip.tokens) - position:,} tokens not shown …")
    return "> " + "".join(parts).strip()


def _token(text: str, score: float, strip: Strip) -> str:
    body = text.strip()
    if not body:
        return " " if text else ""
    lead, tail = (" " if text[0].isspace() else ""), (" " if text[-1].isspace() else "")
    strong = strip.limit > 0 and np.isfinite(score) and abs(score) >= STRONG * strip.limit
    mark = "" if not strong else "~~" if strip.signed and score < 0 else "**"
    return f"{lead}{mark}{escape(body)}{mark}{tail}"


def _table(strip: Strip) -> str:
    rows = [
        f"| {escape(token.text.strip())} | {figure(token.score, signed=strip.signed)} | {percent(token.share)} "
        f"| {token.index + 1} |"
        for token in strip.strongest(TOP)
    ]
    return (
        "\n".join(["| token | score | share | position |", "| --- | ---: | ---: | ---: |", *rows])
        if rows
        else ""
    )


def _origin(result: xr.Dataset) -> str:
    names = ("model", "model_revision", "method", "baseline", "score_explained", "device", "dtype", "created")
    attrs: dict[str, Any] = {str(key): value for key, value in result.attrs.items()}
    shown = [f"{name.replace('_', ' ')}: {escape(str(attrs[name]))}" for name in names if name in attrs]
    return "Origin: " + "; ".join(shown)
