"""One page that links a UMAP of patches with their slide: choose points in one, see the patches in the other."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme
from probe.viz._report import _generator, _listed, _write, sentences
from probe.viz._report_page import page
from probe.viz._slide import PALE, add_picture, axes, data_url, grid_of, heat, story

if TYPE_CHECKING:
    import xarray as xr

_PART = Path(__file__).parent / "page" / "linked.js"
_CONFIG = {"displaylogo": False, "responsive": True, "scrollZoom": True}
SHOWN = 22
"""Patches in the strip below."""
FIRST = 20
"""So many of the most attended patches are chosen when the page opens."""
_SMALLEST = 12
"""Pixels of the overview below which a patch is not worth showing."""
_STYLE = """<style>main { max-width: 1320px } #chosen { display: flex; flex-wrap: wrap; gap: 6px; min-height: 100px }
#chosen figure { margin: 0; text-align: center; font-size: 12px } #chosen canvas { border-radius: 4px }</style>"""


def linked(
    embedding: xr.Dataset,
    overlay: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    texts: xr.Dataset | str | Iterable[str] = (),
    title: str = "attention-probe",
) -> Path:
    """Write a page with UMAP and slide side by side, and the chosen patches below; it opens offline.

    Args:
        embedding: Of kind `embedding`, the instances of one bag (`ex.instance_map`).
        overlay: Of kind `slide_overlay`, the same bag (`ex.slide_overlay`).
        path: The file; replaced in one step.
        texts: Sentences for the top of the page.
        title: Shown above the headline.

    Returns:
        The path written.

    Raises:
        InputError: Results of other kinds, or of two bags.
    """
    from plotly.offline import get_plotlyjs

    for result, kind in ((embedding, "embedding"), (overlay, "slide_overlay")):
        if result.attrs.get("kind") != kind:
            raise InputError(f"expected a result of kind {kind}, got {result.attrs.get('kind')!r}")
    if embedding.attrs.get("of") != overlay.attrs["of"] or "instance" not in embedding:
        raise InputError(
            f"the points are of {embedding.attrs.get('of')!r}, the slide is {overlay.attrs['of']!r}"
        )
    figure = linked_figure(embedding, overlay)
    drawn = figure.to_html(include_plotlyjs=False, full_html=False, div_id="linked", config=_CONFIG)
    words = [sentence for _, sentence in sentences(texts)]
    body = f"""{_STYLE}<header><p class="eyebrow">{html.escape(title)}</p>
<h1>What the model looks at in {html.escape(str(overlay.attrs["of"]))}</h1></header>
<section class="lead">{_listed(words) if words else html.escape(story(overlay))}</section>
<section><p class="note">Draw a lasso around points on the left: their patches light up on the slide, and the other way round.
Double-click to let go.</p><div class="figure">{drawn}</div><h3 id="chosen-words"></h3><div id="chosen"></div></section>
<script type="application/json" id="linked-data">{_data(embedding, overlay)}</script>
<script>{_PART.read_text(encoding="utf-8")}</script>
<footer>{html.escape(_generator())}</footer>"""
    return _write(Path(path), page(title, body, library=get_plotlyjs(), generator=_generator()))


def linked_figure(embedding: xr.Dataset, overlay: xr.Dataset) -> go.Figure:
    """The two panels: points coloured by attention, and the slide with the raw map and an invisible point on each patch."""
    position, a = embedding["position"].values, embedding["attention"].values
    order = embedding["instance"].values
    titles = ("instances by their features (UMAP)", "the slide (attention, 1 = an even share)")
    figure = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.03, column_widths=[0.45, 0.55])
    scale = [[max(0.0, (p - 0.2) / 0.8), colour] for p, colour in theme.SEQUENTIAL[1:]]
    figure.add_trace(
        go.Scatter(
            x=position[:, 0],
            y=position[:, 1],
            mode="markers",
            customdata=np.arange(len(order)),
            marker={"size": 7, "color": np.log10(np.clip(a, 0.1, None)), "colorscale": scale, "opacity": 0.9},
            selected={"marker": {"color": theme.CHOSEN, "opacity": 1, "size": 10}},
            unselected={"marker": {"opacity": 0.35}},
            text=[f"{v:.2f} even shares" for v in a],
            hovertemplate="%{text}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    add_picture(figure, overlay, 2)
    top = max(PALE, float(np.quantile(overlay["attention"].values, 0.995)))
    figure.add_trace(heat(overlay, "attention", grid_of(overlay), top, 1.0), row=1, col=2)
    half = float(overlay.attrs["patch_size"]) / 2
    figure.add_trace(
        go.Scatter(
            x=overlay["x"].values[order] + half,
            y=overlay["y"].values[order] + half,
            mode="markers",
            customdata=np.arange(len(order)),
            marker={"size": 8, "opacity": 0, "symbol": "square"},
            text=[f"{v:.2f} even shares" for v in a],
            hovertemplate="%{text}<extra></extra>",
        ),
        row=1,
        col=2,
    )
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False}
    figure.update_xaxes(**plain, row=1, col=1)
    figure.update_yaxes(**plain, row=1, col=1)
    axes(figure, overlay, columns=1, first=2)
    layout = theme.layout(
        height=560, margin={"l": 8, "r": 48, "t": 40, "b": 8}, showlegend=False, dragmode="lasso"
    )
    figure.update_layout(**layout)
    return figure


def _data(embedding: xr.Dataset, overlay: xr.Dataset) -> str:
    order, a = embedding["instance"].values, embedding["attention"].values
    size, down = float(overlay.attrs["patch_size"]), float(overlay.attrs["downsample"])
    shown = "picture" in overlay and size / down >= _SMALLEST
    document: dict[str, Any] = {
        "x": overlay["x"].values[order].round(3).tolist(),
        "y": overlay["y"].values[order].round(3).tolist(),
        "attention": a.round(4).tolist(),
        "total": overlay.sizes["patch"],
        "size": size,
        "downsample": down,
        "map": 0,
        "colour": theme.CHOSEN,
        "shown": SHOWN,
        "first": np.argsort(-a, kind="stable")[: min(FIRST, len(a) // 4)].tolist(),
        "picture": data_url(overlay["picture"].values) if shown else None,
    }
    return json.dumps(document).replace("</", "<\\/")
