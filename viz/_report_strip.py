"""The text of a report: tokens as selectable HTML text on their colours, and the strongest ones as bars."""

from __future__ import annotations

import html

import numpy as np

from probe.viz import theme
from probe.viz.passages import choose
from probe.viz.strip import Strip, Token, figure, percent, shorten, signs, verb, visible, word_around

LIMIT = 4000
"""Tokens shown at most; of a longer text the strongest passages, and the page says so."""
STRONG = 0.2
"""From this part of the largest score on, a token is underlined too, so that the sign needs no colour."""
FAINT = 0.03
"""Below this part of the largest score a token stays uncoloured: its tint could not be told from white."""
TOP = 6


def head(strip: Strip) -> str:
    """The page's first lines: what the model says and how sure it is.

    Args:
        strip: A read strip.

    Returns:
        An `h1` and a meter, escaped.
    """
    who = html.escape(f"{strip.model or 'the model'} {verb(strip)}")
    answer = html.escape(visible(strip.prediction).strip())
    says = f'<h1><span class="who">{who}</span> <q>{answer}</q></h1>'
    sure = strip.prediction_probability
    if np.isfinite(sure):
        says += (
            f'<p class="meter"><span class="bar"><i style="width:{100 * sure:.1f}%"></i></span>'
            f"<b>{percent(sure)}</b> probability</p>"
        )
    if strip.prediction != strip.target:
        other = html.escape(visible(strip.target))
        own = f" (probability {percent(strip.probability)})" if np.isfinite(strip.probability) else ""
        says += f'<p class="other">Explained below is another answer: <q>{other}</q>{own}.</p>'
    return says


def coloured(strip: Strip) -> str:
    """The text with its colours and their legend.

    Args:
        strip: A read strip.

    Returns:
        HTML; white space is the input's own, special tokens are kept out of what a reader selects and copies.
    """
    spans = choose([t.score if t.role == "text" else 0.0 for t in strip.tokens], LIMIT)
    parts: list[str] = []
    position = 0
    for first, end in [*spans, (len(strip.tokens), len(strip.tokens))]:
        if first > position:
            parts.append(f'<span class="gap">… {first - position:,} tokens not shown …</span>')
        parts.extend(_token(token, strip) for token in strip.tokens[first:end])
        position = end
    if strip.task == "text-generation" and strip.target:
        parts.append(f'<span class="next" title="the next token, which is explained">{_edge(strip)}</span>')
    shown = sum(end - first for first, end in spans)
    note = ""
    if shown < len(strip.tokens):
        counts = f"{shown:,} of {len(strip.tokens):,} tokens"
        note = f"<p class=note>A long text: the strongest passages are shown, {counts}.</p>"
    return f'{_legend(strip)}<p class="text" dir="auto">{"".join(parts)}</p>{note}'


def _edge(strip: Strip) -> str:
    body = strip.target.lstrip(" ")
    return "&nbsp;" * (len(strip.target) - len(body)) + html.escape(visible(body))


def _token(token: Token, strip: Strip) -> str:
    where = f"token {token.index + 1}"
    if token.start >= 0:
        where += f", characters {token.start}–{token.end}"
    score = (
        f"{figure(token.score, signed=strip.signed)} {_unit(strip)}".strip()
        if np.isfinite(token.score)
        else "no score"
    )
    share = f"{percent(token.share)} of the text's total"
    tip = html.escape(" · ".join([score, share, where] if token.role == "text" else [score, where]))
    if token.role != "text":
        return f'<span class="special" data-tip="{tip}">{html.escape(visible(token.text))}</span>'
    body = token.text.strip()
    if not body:
        return html.escape(token.text)
    lead = token.text[: len(token.text) - len(token.text.lstrip())]
    tail = token.text[len(token.text.rstrip()) :]
    colour = theme.token_colour(token.score, strip.limit, signed=strip.signed)
    kind = ""
    if strip.signed and np.isfinite(token.score) and abs(token.score) >= STRONG * strip.limit > 0:
        kind = " for" if token.score > 0 else " against"
    faint = not np.isfinite(token.score) or abs(token.score) < FAINT * strip.limit
    style = "" if faint or colour is None else f' style="background:{colour}"'
    return f'{lead}<span class="t{kind}"{style} data-tip="{tip}">{html.escape(body)}</span>{tail}'


def _unit(strip: Strip) -> str:
    return "" if strip.unit in ("", "1") else strip.unit


def _legend(strip: Strip) -> str:
    low, high = (html.escape(sign) for sign in signs(strip))
    scale = theme.DIVERGING if strip.signed else theme.TOKEN_SEQUENTIAL
    stops = ", ".join(f"{colour} {100 * position:.0f}%" for position, colour in scale)
    top = figure(strip.limit, signed=False)
    ends = (f"−{top}", f"+{top}") if strip.signed else ("0", top)
    unit = html.escape(_unit(strip))
    if strip.signed:
        low, high = f'<span class="against">{low}</span>', f'<span class="for">{high}</span>'
    return (
        f'<p class="legend"><span>{low}</span><small>{ends[0]}</small>'
        f'<i style="background:linear-gradient(90deg, {stops})"></i><small>{ends[1]} {unit}</small>'
        f"<span>{high}</span></p>"
    )


def strongest(strip: Strip, count: int = TOP) -> str:
    """A table of the strongest tokens with bars to either side of zero.

    Args:
        strip: A read strip.
        count: Rows at most.

    Returns:
        An HTML table, or nothing when no text token has a score other than 0.
    """
    tokens = strip.strongest(count)
    if not tokens:
        return ""
    rows = "".join(_row(token, strip) for token in tokens)
    rest = 1 - float(np.nansum([token.share for token in tokens]))
    others = len(strip.tokens) - len(tokens)
    foot = (
        f"<tr><td colspan=4>the other {others:,} tokens together: {percent(max(rest, 0.0))}</td></tr>"
        if others
        else ""
    )
    return (
        "<table class=tokens><thead><tr><th scope=col>token</th><th scope=col>score</th>"
        "<th scope=col class=n>share</th><th scope=col class=n>position</th></tr></thead>"
        f"<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>"
    )


def _row(token: Token, strip: Strip) -> str:
    size = 100 * abs(token.score) / strip.limit
    side = "for" if token.score > 0 else "against"
    width = size / 2 if strip.signed else size
    left = (50 - width if token.score < 0 else 50) if strip.signed else 0
    axis = "" if strip.signed else " plain"
    place = f"left:{left:.1f}%;width:{width:.1f}%"
    number = figure(token.score, signed=strip.signed)
    return (
        f"<tr><th scope=row>{_in_word(token, strip)}</th>"
        f'<td><span class="axis{axis}"><i class="{side}" style="{place}"></i></span>'
        f'<span class="num">{number}</span></td>'
        f"<td class=n>{percent(token.share)}</td><td class=n>{token.index + 1}</td></tr>"
    )


def _in_word(token: Token, strip: Strip) -> str:
    before, after = word_around(strip, token)
    own = html.escape(shorten(visible(token.text.strip())))
    left, right = (
        f"<span>{html.escape(shorten(part, 14))}</span>" if part else "" for part in (before, after)
    )
    return left + own + right
