"""MIL: a bag's instances by their features and on their slide, linked: choose points in one, see the patches in the other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import xarray as xr
from dash import Dash, Input, Output, Patch, html, no_update
from dash import State as Given

from probe.dashboard.explorer.attributes import more
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import Panel, mount, wire
from probe.dashboard.explorer.state import State
from probe.errors import ProbeError

if TYPE_CHECKING:
    from pathlib import Path

    import plotly.graph_objects as go
    from dash.development.base_component import Component

    from probe.dashboard.explorer.store import Store

SHOWN = 24
"""Patches of a choice that are shown, the most attended first."""
_POINTS = (0, 2)
"""Traces of the figure that hold the instances: in the UMAP and on the slide."""
_NAME = re.compile(r"[\w][\w .()<>+-]{0,120}")


def layout(state: State, store: Store) -> Component:
    """UMAP and slide side by side, the chosen patches below."""
    bags = [str(name) for name in store.open(state.record)["bags"].to_dataset()["name"].values]
    links = [
        html.A(name, href=state.but(sample=number).url("/mil"), className="quiet")
        for number, name in enumerate(bags[:40])
    ]
    chosen = html.Section(
        [
            html.H2("The chosen patches"),
            html.P(
                "Draw a lasso around points, or around patches of the slide.",
                id="mil-words",
                className="caption",
            ),
            html.Div(id="mil-patches", className="patches"),
        ],
        className="panel wide",
        **more({"aria-label": "The chosen patches"}),
    )
    return html.Div([mount(LINKED, *links, wide=True), chosen], className="panels")


def register(app: Dash, store: Store) -> None:
    """The panel, and what a lasso in it chooses."""
    wire(app, store, LINKED)

    @app.callback(
        Output("mil-linked-figure", "figure", allow_duplicate=True),
        Output("mil-words", "children"),
        Output("mil-patches", "children"),
        Input("mil-linked-figure", "selectedData"),
        Given("selection", "data"),
        prevent_initial_call=True,
    )
    def choose(selected: Any, selection: Any) -> tuple[Any, Any, Any]:
        points = points_of(selected)
        if not points:  # redrawing a figure lets its lasso go, which is no choice
            return no_update, no_update, no_update
        figure = Patch()
        for trace in _POINTS:
            figure["data"][trace]["selectedpoints"] = points
        try:
            both = linked_data(State.from_fields(selection or {}), store)
        except ProbeError as error:
            return figure, str(error), None
        return figure, chosen_words(both, points), patches(both, points)


def points_of(selected: Any) -> list[int]:
    """The instances that a lasso holds, each once."""
    found = selected.get("points", []) if isinstance(selected, dict) else []
    numbers = (p.get("pointNumber") for p in found if isinstance(p, dict) and p.get("curveNumber") in _POINTS)
    return sorted({n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 0})


def linked_data(state: State, store: Store) -> xr.Dataset:
    """The bag's instances with their places in the UMAP and on the slide; computed once.

    Raises:
        InputError: no such bag.
        RecordError: no features or no coordinates in the record.
    """

    def make(tree: xr.DataTree) -> xr.Dataset:
        from probe import explainers as ex

        points = ex.instance_map(tree, bag=str(state.sample))
        slide = slide_of(store.entry(state.record).path.parent, str(points.attrs["of"]))
        overlay = ex.slide_overlay(tree, bag=str(state.sample), picture=None if slide is None else str(slide))
        both: xr.Dataset = overlay.assign(
            {f"point_{name}": points[name] for name in ("position", "attention", "instance")}
        )
        both.attrs |= {
            "points_note": str(points.attrs.get("note", "")),
            "slide": "" if slide is None else slide.name,
        }
        return both

    found: xr.Dataset = store.remember(state.record, ("mil", state.sample), make)
    return found


def slide_of(folder: Path, bag: str) -> Path | None:
    """The picture of a slide beside its record, named as the bag; nothing outside the folder."""
    if not _NAME.fullmatch(bag):
        return None
    found = (folder / f"{bag}{ending}" for ending in (".png", ".jpg", ".jpeg", ".tif", ".tiff"))
    return next(
        (path for path in found if path.is_file() and path.resolve().parent == folder.resolve()), None
    )


def draw_linked(both: xr.Dataset, state: State) -> go.Figure:  # noqa: ARG001 - the face of all drawings
    """Both panels; what is chosen in one stands out in the other."""
    from probe.viz import theme
    from probe.viz._linked import linked_figure

    points = xr.Dataset({name: both[f"point_{name}"] for name in ("position", "attention", "instance")})
    figure = linked_figure(points, both)
    figure.data[2].update(
        selected={"marker": {"opacity": 0.85, "color": theme.CHOSEN}}, unselected={"marker": {"opacity": 0}}
    )
    return figure


def chosen_words(both: xr.Dataset, points: list[int]) -> str:
    """How much of the attention the chosen instances hold."""
    a = both["point_attention"].values
    known = [n for n in points if n < len(a)]
    share = float(a[known].sum()) / both.sizes["patch"]
    more = f"; the {SHOWN} most attended are shown" if len(known) > SHOWN else ""
    even = len(known) / both.sizes["patch"]
    return (
        f"{len(known):,} chosen patches hold {share:.1%} of the attention (an even share: {even:.1%}){more}."
    )


def patches(both: xr.Dataset, points: list[int]) -> list[Component]:
    """Cut the chosen patches out of the slide's overview, most attended first."""
    if "picture" not in both:
        return [
            html.P(
                "No picture of the slide lies beside the record; put one there, named as the bag.",
                className="muted",
            )
        ]
    from probe.viz._slide import data_url

    a, order = both["point_attention"].values, both["point_instance"].values
    down, size = float(both.attrs["downsample"]), float(both.attrs["patch_size"])
    shown = sorted((n for n in points if n < len(a)), key=lambda n: -a[n])[:SHOWN]
    made: list[Component] = []
    for n in shown:
        x, y = (float(both[name].values[order[n]]) / down for name in ("x", "y"))
        side = max(1, round(size / down))
        cut = both["picture"].values[round(y) : round(y) + side, round(x) : round(x) + side]
        made.append(
            html.Figure(
                [
                    html.Img(src=data_url(cut), alt=f"patch {order[n]}", width=84, height=84),
                    html.Figcaption(f"{a[n]:.1f}×"),
                ]
            )
        )
    return made


def _words(both: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of all captions
    note = f" {both.attrs['points_note']}." if both.attrs["points_note"] else " Nothing is left out."
    return f"Attention in even shares (1 = 1/N), UMAP has none. A lasso shows on both sides.{note}"


def _needs(tree: xr.DataTree) -> str | None:
    if "mil" not in tree.children or "bags" not in tree.children:
        return "This record holds no bags. Capture them with probe.capture_mil, or `probe mil explain`."
    lacking = [
        what
        for what, there in (("features", "features" in tree["mil"]), ("coords", "coords" in tree["bags"]))
        if not there
    ]
    return (
        f"The record has no {' and no '.join(lacking)} of its instances: capture bags with them."
        if lacking
        else None
    )


LINKED = Panel("mil-linked", "Instances and slide", (), linked_data, draw_linked, _words, 560)
PAGE = Page(
    "mil",
    "MIL",
    "Which patches of a slide the model looks at, and whether they are of one kind.",
    60,
    layout,
    register,
    _needs,
)
