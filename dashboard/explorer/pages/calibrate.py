"""Calibrate: which heads have later sinks, and what the model answers when these are shrunk (ACT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from dash import Dash, dcc, html
from dash import State as Given

from probe.dashboard.explorer.attributes import aria
from probe.dashboard.explorer.background import mount_job, wire_job
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import Panel, mount, wire
from probe.dashboard.explorer.quantities import head_values
from probe.dashboard.explorer.state import LONGEST, State
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from pathlib import Path

    import plotly.graph_objects as go
    import xarray as xr
    from dash.development.base_component import Component

    from probe.dashboard.explorer.store import Store

MOST = 12
"""Heads that are steered where none is named: those with the most later sinks."""


def _sinks(state: State, store: Store) -> xr.Dataset:
    return head_values("sinks.later_sinks", state.but(sinks="on"), store)


def _report(state: State, store: Store) -> xr.Dataset:
    return (
        _done(state, store, "result")[["freed"]]
        .rename(freed="value")
        .assign_attrs(
            label="attention freed from sinks, mean of all rows", unit="probability", record=state.record
        )
    )


def _answers(state: State, store: Store) -> xr.Dataset:
    return _done(state, store, "answers")


def _done(state: State, store: Store, name: str) -> xr.Dataset:
    if not state.job:
        raise InputError("Press “Shrink the sinks” to see what changes.")
    return store.jobs.result(state.job, name, ("steer",))


def _draw(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._heads import head_grid

    return head_grid(result, (state.layer, state.head))


def _draw_answers(result: xr.Dataset, state: State) -> go.Figure:
    from probe.viz._change import change

    return change(result, ("as it is", f"sinks keep {state.beta}%"))


def _said(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of every caption
    return (
        "Later sinks of each head in this record, mean per sample; unit: tokens; scale: linear; left out: the first token, and "
        "tokens that fewer than 8 queries see (ex.sinks, rule corrected, factor 5)."
    )


def _said_report(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of every caption
    return f"{result.attrs['label']}; unit: {result.attrs['unit']}; scale: linear; grey: heads that were not steered."


def _said_answers(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of every caption
    return (
        f"{result.attrs['label']}; scale: linear; left out: all answers but the likeliest {result.sizes['answer']}. "
        f"KL divergence of the whole distribution: {result.attrs['divergence']:.3g} nat."
    )


PANELS = (
    Panel("calibrate-sinks", "Later sinks of every head", ("layer", "head"), _sinks, _draw, _said),
    Panel(
        "calibrate-answers", "What the model answers", ("job", "beta"), _answers, _draw_answers, _said_answers
    ),
    Panel(
        "calibrate-freed", "Where attention was freed", ("job", "layer", "head"), _report, _draw, _said_report
    ),
)


def layout(state: State, store: Store) -> Component:
    """The heads with sinks, the form of the job, and what it changes."""
    files = [""] + [path.name for path in calibrations(store)]
    options = [
        {"label": name or "none: the chosen head, or those with the most later sinks", "value": name}
        for name in files
    ]
    text = state.text or _text(state, store)
    form = html.Section(
        [
            html.H2("Shrink the sinks"),
            html.Label(
                [html.Span("a text"), dcc.Textarea(id="calibrate-text", value=text, maxLength=LONGEST, rows=5)],
                className="field",
            ),
            html.Label(
                [html.Span("calibration (a file of this folder that probe calibrate wrote)"),
                 dcc.Dropdown(options, state.calibration, id="calibrate-file", clearable=False)],
                className="field",
            ),
            html.Div(
                [html.Span("a sink keeps so much of its weight (β, in percent; 100 changes nothing)"),
                 dcc.Slider(0, 100, 5, value=state.beta, id="calibrate-beta", marks={0: "0", 50: "50", 100: "100"})],
                className="field",
            ),
            mount_job("calibrate", "Shrink the sinks"),
            html.P(
                ["A search for the heads whose sinks are worth shrinking, tested on held-out items, runs in the terminal: ",
                 html.Code("probe calibrate --model … --task data.jsonl --out heads.json")],
                className="caption",
            ),
        ],
        className="panel",
        **aria("Shrink the sinks"),
    )  # fmt: skip
    sinks, answers, freed = PANELS
    return html.Div([mount(sinks), form, mount(answers), mount(freed)], className="panels")


def register(app: Dash, store: Store) -> None:
    """The panels and the job."""
    for panel in PANELS:
        wire(app, store, panel)
    names = ("calibrate-text", "calibrate-file", "calibrate-beta")
    asked = (*(Given(name, "value") for name in names), Given("selection", "data"))

    def request(text: Any, file: Any, beta: Any, selection: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        given = {"text": text or "", "calibration": file or "", "beta": beta}
        return request_of(State.from_fields({**(selection or {}), **given}), store)

    wire_job(app, store.jobs, "calibrate", asked, request)


def request_of(state: State, store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job's request, and the fields of the state that name it.

    Raises:
        InputError: no text, no such calibration, or no head with sinks.
    """
    if not state.text.strip():
        raise InputError("there is nothing to run the model on: type a text")
    places = {path.name: path for path in calibrations(store)}
    if state.calibration and state.calibration not in places:
        raise InputError(
            f"calibration {state.calibration!r}: expected one of {', '.join(places) or 'none here'}"
        )
    fields = {"text": state.text, "calibration": state.calibration, "beta": state.beta}
    request = {
        "kind": "steer",
        "model": store.entry(state.record).model,
        "text": state.text,
        "beta": state.beta,
        "calibration": str(places[state.calibration]) if state.calibration else "",
        "heads": [] if state.calibration else heads_of(state, store),
    }
    return request, fields


def heads_of(state: State, store: Store) -> list[list[int]]:
    """The chosen head, or those of the record with the most later sinks.

    Raises:
        InputError: no head of the record has any.
    """
    if state.layer is not None and state.head is not None:
        return [[state.layer, state.head]]
    table = _sinks(state, store)["value"]
    values = np.nan_to_num(table.values)
    best = [i for i in np.argsort(-values, axis=None, kind="stable")[:MOST] if values.flat[i] > 0]
    if not best:
        raise InputError("no head of this record has later sinks: choose a layer and a head")
    rows, columns = np.unravel_index(best, values.shape)
    pairs = zip(table["layer"].values[rows], table["head"].values[columns], strict=True)
    return [[int(layer), int(head)] for layer, head in pairs]


def calibrations(store: Store) -> list[Path]:
    """Files of the explorer's folder that `probe calibrate` wrote."""
    from probe.explainers import read_calibration

    found = []
    for path in sorted(store.folder.glob("*.json"))[:50]:
        try:
            if path.resolve().is_relative_to(store.folder):
                read_calibration(path)
                found.append(path)
        except ProbeError:
            continue
    return found


def _text(state: State, store: Store) -> str:
    """The beginning of the record's own text."""
    texts = np.asarray(store.open(state.record)["input/text"])
    return str(texts[min(state.sample, len(texts) - 1)])[:600] if len(texts) else ""


def _needs(tree: xr.DataTree) -> str | None:
    if "text" not in tree.children or "received" not in tree["text"]:
        return "Sinks follow from the statistic “received” of a text tower, which this record lacks."
    return None


PAGE = Page(
    "calibrate",
    "Calibrate",
    "Do later attention sinks help or harm? Shrink them and compare the answers.",
    80,
    layout,
    register,
    _needs,
)
