"""Overview: all heads of a record at once, by any statistic or head table; two quantities against each other; depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, html, no_update
from dash import State as Given

from probe.dashboard.explorer.controls import menu, switch
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import Panel, mount, wire
from probe.dashboard.explorer.quantities import difference, head_values, quantities
from probe.dashboard.explorer.state import State
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr
    from dash.development.base_component import Component

    from probe.dashboard.explorer.store import Store

_LOOK = ("layer", "head", "sinks", "scale")
FIRST = ("entropy", "received", "distance", "max_prob")
"""What is shown where the address names nothing, the first of these that the record has."""


def _grid(state: State, store: Store) -> xr.Dataset:
    return head_values(_shown(state, store), state, store)


def _other(state: State, store: Store) -> xr.Dataset:
    _compared(state)
    return head_values(_shown(state, store), state.but(record=state.other), store)


def _difference(state: State, store: Store) -> xr.Dataset:
    _compared(state)
    return difference(_shown(state, store), state, store)


def _scatter(state: State, store: Store) -> xr.Dataset:
    x, y = _axes(state, store)
    across, up = head_values(x, state, store), head_values(y, state, store)
    result = up.rename({"value": "y"}).assign(x=across["value"])
    result.attrs |= {"value": "y", "x": dict(across.attrs), "y": dict(up.attrs)}
    return result


def _draw_grid(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._heads import head_grid

    return head_grid(result, (state.layer, state.head), log=state.scale == "log")


def _draw_difference(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._heads import head_grid

    return head_grid(result, (state.layer, state.head), signed=True)


def _draw_scatter(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._heads import head_scatter

    x, y = result[["x"]].rename({"x": "value"}), result[["y"]].rename({"y": "value"})
    x.attrs, y.attrs = result.attrs["x"], result.attrs["y"]
    return head_scatter(x, y, (state.layer, state.head), log=state.scale == "log")


def _curves(state: State, store: Store) -> xr.Dataset:
    import xarray as xr

    first = _grid(state, store)
    parts = [first] + ([_other(state, store)] if state.other else [])
    if any(dict(part.sizes) != dict(first.sizes) for part in parts):
        parts = parts[:1]
    result = xr.concat([part[["value"]] for part in parts], "record", coords="minimal", compat="override")
    return result.assign_coords(record=[str(part.attrs["record"]) for part in parts]).assign_attrs(
        first.attrs
    )


def _draw_curves(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._heads import depth_curves

    parts = [result.isel(record=i) for i in range(result.sizes["record"])]
    parts = [part.assign_attrs(result.attrs | {"record": str(part["record"].values)}) for part in parts]
    return depth_curves(parts, (state.layer, state.head), log=state.scale == "log")


def _said(result: xr.Dataset, state: State) -> str:
    """Unit, scale and what was left out, in one line."""
    attrs = result.attrs
    unit = {"1": "a share (no unit)", "": "unit as its explainer defines it"}.get(
        str(attrs.get("unit", "")), attrs.get("unit")
    )
    scale = "by decades; values of 0 and below are left blank" if state.scale == "log" else "linear"
    meaning = f" Definition: {attrs['meaning']}." if attrs.get("meaning") else ""
    return f"{attrs['label']}; unit: {unit}; scale: {scale}; left out: {attrs.get('left_out') or 'nothing'}.{meaning}"


def _said_scatter(result: xr.Dataset, state: State) -> str:
    x, y = result.attrs["x"], result.attrs["y"]
    scale = "by decades; heads at 0 or below are not drawn" if state.scale == "log" else "linear"
    count = result.sizes["layer"] * result.sizes["head"]
    return f"{count} heads; across: {x['label']}, up: {y['label']}; scale: {scale}; left out: {y.get('left_out') or 'nothing'}."


def _said_difference(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of every caption
    return (
        f"{result.attrs['record']}, head by head; blue: more in the second record, orange: less; scale: linear, "
        f"symmetric about 0; left out: {result.attrs.get('left_out') or 'nothing'}."
    )


PANELS = (
    Panel("overview-grid", "Every head", ("statistic", *_LOOK), _grid, _draw_grid, _said),
    Panel("overview-other", "Every head of the compared record", ("statistic", *_LOOK), _other, _draw_grid, _said),
    Panel("overview-difference", "Difference", ("statistic", "layer", "head", "sinks"), _difference, _draw_difference,
          _said_difference),
    Panel("overview-scatter", "Two quantities", ("x", "y", *_LOOK), _scatter, _draw_scatter, _said_scatter, 440),
    Panel("overview-depth", "Over depth", ("statistic", *_LOOK), _curves, _draw_curves, _said, 440),
)  # fmt: skip


def layout(state: State, store: Store) -> Component:
    """The grid with its controls, where two are compared both and their difference, then scatter and depth."""
    offered = quantities(state, store)
    options = [{"label": q.label, "value": q.key} for q in offered]
    x, y = _axes(state, store)
    grid, other, apart, scatter, depth = PANELS
    controls = html.Div(
        [
            menu("statistic", "show", options, _shown(state, store)),
            switch("sinks", "sink tokens", (("on", "with"), ("off", "without")), state.sinks),
            switch("scale", "scale", (("linear", "linear"), ("log", "log")), state.scale),
        ],
        className="controls",
    )
    first = [mount(grid), mount(other), mount(apart)] if state.other else [mount(grid), mount(depth)]
    axes = [menu("x", "across", options, x), menu("y", "up", options, y)]
    rest = [mount(scatter, *axes, wide=not state.other)] + ([mount(depth)] if state.other else [])
    return html.Div([controls, html.Div([*first, *rest], className="panels")])


def register(app: Dash, store: Store) -> None:
    """All panels of the page."""
    for panel in PANELS:
        wire(app, store, panel)

    @app.callback(
        [Output({"type": "select", "field": field}, "options") for field in ("statistic", "x", "y")],
        Input("overview-grid-figure", "figure"),
        Given("overview-grid-uses", "data"),
        prevent_initial_call=True,
    )
    def offer(_: Any, used: Any) -> list[Any]:
        """After the first paint: all variables of the explainers that can read this record."""
        try:
            found = quantities(State.from_fields(used or {}), store, run=True)
        except ProbeError:
            return [no_update] * 3
        return [[{"label": q.label, "value": q.key} for q in found]] * 3


def _shown(state: State, store: Store) -> str:
    return state.statistic or _first(state, store, 0)


def _axes(state: State, store: Store) -> tuple[str, str]:
    return state.x or _first(state, store, 0), state.y or _first(state, store, 1)


def _first(state: State, store: Store, at: int) -> str:
    keys = [q.key for q in quantities(state, store)]
    if not keys:
        raise InputError("this record holds no statistic that gives a number for each head")
    wanted = [key for key in FIRST if key in keys] + [key for key in keys if key not in FIRST]
    return wanted[min(at, len(wanted) - 1)]


def _compared(state: State) -> None:
    if not state.other:
        raise InputError("choose a second record under “compare with”")


def _needs(tree: xr.DataTree) -> str | None:
    from probe.record import towers

    return None if towers(tree) else "This record holds maps alone, no statistics of heads."


PAGE = Page(
    "overview",
    "Overview",
    "Which heads stand out? Click one: it stays chosen on every page.",
    20,
    layout,
    register,
    _needs,
)
