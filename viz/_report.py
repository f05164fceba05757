"""Write results as one HTML file: words, the text, how far it can be trusted, where it comes from."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from probe.errors import InputError
from probe.viz import _report_picture as pictures
from probe.viz import _report_strip as strips
from probe.viz import _report_tables as tables
from probe.viz._draw import DRAWERS, draw, draw_faithfulness
from probe.viz._faithfulness import has_faithfulness
from probe.viz._report_page import page
from probe.viz.strip import read_strip

if TYPE_CHECKING:
    import plotly.graph_objects as go

_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
LEAD = 4
"""Sentences on top of the page; the others follow the coloured text."""
LONG = 400
"""From this number of tokens on, the text is set smaller."""


def report(
    results: xr.Dataset | Sequence[xr.Dataset],
    path: str | os.PathLike[str],
    *,
    title: str = "attention-probe report",
    texts: xr.Dataset | str | Iterable[str] = (),
    record: xr.DataTree | None = None,
) -> Path:
    """Write a self-contained report that opens offline; its own policy forbids every connection.

    Args:
        results: One result or several, shown in this order; results of kind `text` join the sentences.
        path: The file to write; an existing one is replaced in one step, after the new one is whole.
        title: Shown above the headline and in the window's title.
        texts: Sentences that stand first: a result of kind `text`, or plain strings.
        record: The record the results were read from; its validity report is shown.

    Returns:
        The path written.

    Raises:
        InputError: No result, a kind without a figure, or a path that is a folder or lies in none.
        OSError: The file cannot be written; nothing is left behind.
    """
    from plotly.offline import get_plotlyjs

    given = [results] if isinstance(results, xr.Dataset) else list(results)
    drawn = [result for result in given if result.attrs.get("kind") != "text"]
    words = sentences(texts)
    for result in given:
        if result.attrs.get("kind") == "text":
            words += sentences(result)
    if not drawn and not words:
        raise InputError("a report needs at least one result")
    for result in drawn:
        if result.attrs.get("kind") not in DRAWERS:
            draw(result)
    figures: list[go.Figure] = []
    body = [f'<header><p class="eyebrow">{html.escape(title)}</p>{_headline(drawn, title)}</header>']
    body += _warning(record)
    lead, rest = _split(words, drawn)
    if lead:
        body.append(f'<section class="lead" aria-label="In words">{_listed(lead)}</section>')
    for result in drawn:
        body += _sections(result, figures)
        if rest:
            body.append(f"<section><h2>In detail</h2>{_listed(rest)}</section>")
            rest = []
    if record is not None:
        heading = "Was the record measured correctly?"
        body.append(f"<section><h2>{heading}</h2>{tables.validity(record)}</section>")
    body += [_provenance(result, record) for result in drawn]
    body.append(f"<footer>{html.escape(_generator())}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC</footer>")
    library = get_plotlyjs() if figures else ""
    return _write(Path(path), page(title, "\n".join(body), library=library, generator=_generator()))


def _split(words: list[tuple[str, str]], drawn: list[xr.Dataset]) -> tuple[list[str], list[str]]:
    """The sentences for the top of the page, and the others.

    The prediction is the page's headline already, so that it does not take a place on top; the faithfulness verdict
    stands beside its figure.
    """
    verdicts = {str(result.attrs.get("faithfulness_verdict")) for result in drawn if has_faithfulness(result)}
    told = (
        {"prediction", "target"}
        if any(r.attrs.get("kind") in ("token_strip", "image_overlay") for r in drawn)
        else set()
    )
    own = [(claim, sentence) for claim, sentence in words if sentence not in verdicts]
    lead = [sentence for claim, sentence in own if claim not in told][:LEAD]
    return lead, [sentence for _, sentence in own if sentence not in lead]


def _listed(words: list[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in words)
    return f'<ul class="words">{items}</ul>'


def sentences(texts: xr.Dataset | str | Iterable[str]) -> list[tuple[str, str]]:
    """The sentences of a `text` result, of one string or of several strings.

    Args:
        texts: A Dataset of kind `text`, a string, or strings.

    Returns:
        Pairs of claim and sentence; the claim of a plain string is empty, empty strings are left out.
    """
    if isinstance(texts, xr.Dataset):
        claims = texts["claim"].values if "claim" in texts.variables else [""] * texts.sizes["statement"]
        return [(str(claim), str(text)) for claim, text in zip(claims, texts["text"].values, strict=True)]
    given = [texts] if isinstance(texts, str) else texts
    return [("", str(text)) for text in given if str(text).strip()]


def _headline(drawn: list[xr.Dataset], title: str) -> str:
    first = next((r for r in drawn if r.attrs.get("kind") == "token_strip" and r.attrs.get("target")), None)
    if first is not None:
        return strips.head(read_strip(first))
    if not drawn:
        return f"<h1>{html.escape(title)}</h1>"
    if drawn[0].attrs.get("kind") == "image_overlay":
        return pictures.head(drawn[0])
    attrs = drawn[0].attrs
    model = f'<p class="other">in {html.escape(str(attrs["model"]))}</p>' if attrs.get("model") else ""
    return f"<h1>{html.escape(str(attrs.get('title', title)))}</h1>{model}"


def _warning(record: xr.DataTree | None) -> list[str]:
    if record is None or bool(record["validity"].attrs.get("passed", False)):
        return []
    return ['<p class="bad banner">The record behind these numbers failed its own checks, see below.</p>']


def _sections(result: xr.Dataset, figures: list[go.Figure]) -> list[str]:
    note = f'<p class="note">{html.escape(str(result.attrs["note"]))}</p>' if result.attrs.get("note") else ""
    if result.attrs["kind"] != "token_strip":
        more = pictures.areas(result) if result.attrs["kind"] == "image_overlay" else tables.lists(result)
        shown = [f"<section>{_embed(draw(result), figures)}{more}{note}</section>"]
        return shown + _faithfulness(result, figures, "areas")
    strip = read_strip(result)
    long = " class=long" if len(strip.tokens) > LONG else ""
    heading = html.escape(f"{result.attrs.get('title', 'Tokens')}: {strip.method.replace('_', ' ')}")
    parts = [f"<section{long}><h2>{heading}</h2>{strips.coloured(strip)}{note}</section>"]
    table = strips.strongest(strip)
    if table:
        parts.append(f"<section><h2>The strongest tokens</h2>{table}</section>")
    return parts + _faithfulness(result, figures, "tokens")


def _faithfulness(result: xr.Dataset, figures: list[go.Figure], parts: str) -> list[str]:
    """The deletion and insertion curves under their question and verdict; nothing where a result has none."""
    if not has_faithfulness(result):
        return []
    figure = draw_faithfulness(result)
    figure.update_layout(title=None, margin={"t": 64}, height=400)
    verdict = html.escape(str(result.attrs.get("faithfulness_verdict", "")))
    return [
        f'<section><h2>Does the model really depend on these {parts}?</h2><p class="verdict">{verdict}</p>'
        f"{_embed(figure, figures)}</section>"
    ]


def _embed(figure: go.Figure, figures: list[go.Figure]) -> str:
    figures.append(figure)
    name = f"figure-{len(figures)}"
    drawn = figure.to_html(
        include_plotlyjs=False, full_html=False, div_id=name, config=_CONFIG, auto_play=False
    )
    return f'<div class="figure">{drawn}</div>'


def _provenance(result: xr.Dataset, record: xr.DataTree | None) -> str:
    name = html.escape(str(result.attrs.get("title", result.attrs.get("explainer", "result"))))
    body = tables.provenance(result, record)
    return f"<details><summary>Where this comes from: {name}</summary>{body}</details>"


def _generator() -> str:
    import probe

    return f"attention-probe {probe.__version__}"


def _write(path: Path, text: str) -> Path:
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file name such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first, or choose another path")
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path
