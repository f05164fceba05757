"""Explain: type a text or drop a picture, and see in words, colours and a test what the model's answer rests on."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, dcc, html
from dash import State as Given

from probe.dashboard.explorer.attributes import aria
from probe.dashboard.explorer.background import mount_job, wire_job
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import Panel, mount, wire
from probe.dashboard.explorer.state import LONGEST, State
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr
    from dash.development.base_component import Component

    from probe.dashboard.explorer.store import Store

FIRST = "The plot is thin, but the acting is a delight."
LARGEST = 8 << 20
"""Bytes of a picture that may be dropped."""
EXPLAINED = ("text", "picture")
"""Kinds of jobs."""
_PICTURES = ("image-classification", "face-detection")


def _result(state: State, store: Store) -> xr.Dataset:
    if not state.job:
        raise InputError("Type a text or drop a picture, then press Explain.")
    return store.jobs.result(state.job, "result", EXPLAINED)


def _draw(result: xr.Dataset, state: State) -> go.Figure:  # noqa: ARG001 - the face of every drawing
    from probe import viz

    return viz.draw(result)


def _draw_test(result: xr.Dataset, state: State) -> go.Figure:  # noqa: ARG001 - the face of every drawing
    from probe import viz

    return viz.draw_faithfulness(result)


def _said(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of every caption
    attrs = result.attrs
    facts = (
        attrs.get("model"),
        attrs.get("method"),
        f"unit: {attrs.get('unit')}",
        "scale: linear; left out: nothing",
    )
    return " · ".join(str(fact) for fact in facts if fact)


def _said_test(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of every caption
    return str(result.attrs.get("faithfulness_verdict", ""))


ANSWER = Panel("explain-answer", "What the answer rests on", ("job",), _result, _draw, _said, 380)
TEST = Panel(
    "explain-test", "Does the model really depend on it?", ("job",), _result, _draw_test, _said_test, 400
)


def layout(state: State, store: Store) -> Component:  # noqa: ARG001 - the face of every layout
    """The form with its job, the words, and two panels: the map and its test."""
    models, methods = _models(), _methods()
    form = html.Section(
        [
            html.Div(
                [
                    html.Label(
                        [
                            html.Span("a text"),
                            dcc.Textarea(
                                id="explain-text", value=state.text or FIRST, maxLength=LONGEST, rows=4
                            ),
                        ],
                        className="field grow",
                    ),
                    dcc.Upload(
                        html.Div(_dropped(state.picture), id="explain-dropped"),
                        id="explain-upload",
                        accept="image/*",
                        max_size=LARGEST,
                        className="drop",
                    ),
                ],
                className="explain-inputs",
            ),
            html.Div(
                [
                    _menu("explain-model", "model", models, state.model or "auto"),
                    _menu("explain-method", "method", methods, state.method or "auto"),
                    mount_job("explain", "Explain"),
                ],
                className="controls",
            ),
            dcc.Store(id="explain-picture", data=state.picture),
        ],
        className="panel wide",
        **aria("What to explain"),
    )
    words = html.Section(
        [html.H2("In words"), html.Ul(id="explain-words", className="words")],
        className="panel wide",
        id="explain-said",
        **aria("In words"),
    )
    panels = [form, words, mount(ANSWER, wide=True), mount(TEST, wide=True)]
    return html.Div(panels, className="panels")


def register(app: Dash, store: Store) -> None:
    """The panels, the job, the dropped picture and the words."""
    wire(app, store, ANSWER)
    wire(app, store, TEST)
    names = ("explain-text", "explain-model", "explain-method")
    asked = (*(Given(name, "value") for name in names), Given("explain-picture", "data"))

    def request(text: Any, model: Any, method: Any, picture: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return request_of(State.from_fields({"text": text or "", "model": model or "", "method": method or "",
                                             "picture": picture or ""}), store)  # fmt: skip

    wire_job(app, store.jobs, "explain", asked, request)

    @app.callback(
        Output("explain-picture", "data"),
        Output("explain-dropped", "children"),
        Input("explain-upload", "contents"),
        prevent_initial_call=True,
    )
    def drop(contents: Any) -> tuple[str, Any]:
        try:
            name = store.jobs.keep_picture(decoded(contents))
        except ProbeError as error:
            return "", str(error)
        return name, _dropped(name)

    @app.callback(
        Output("explain-words", "children"), Input("explain-answer-uses", "data"), prevent_initial_call=True
    )
    def say(used: Any) -> list[Component]:
        job = State.from_fields(used or {}).job
        if not store.jobs.has(job, "words", EXPLAINED):
            return [html.Li("The answer in sentences will stand here.", className="muted")]
        return [html.Li(str(text)) for text in store.jobs.result(job, "words", EXPLAINED)["text"].values]


def request_of(state: State, store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job's request, and the fields of the state that name it.

    Raises:
        InputError: nothing to explain, or a model or method that does not fit.
    """
    fields = {"text": state.text, "model": state.model, "method": state.method, "picture": state.picture}
    known = dict(_models())
    if state.model not in known:
        raise InputError(f"model {state.model!r}: expected one of {', '.join(known)}")
    if state.picture:
        model = "efficientnet-lite0" if state.model == "auto" else state.model
        path = str(store.jobs.picture(state.picture))
        return {
            "kind": "picture",
            "path": path,
            "model": model,
            "method": _fitting(state.method, "relevance"),
        }, fields
    if not state.text.strip():
        raise InputError("there is nothing to explain: type a text, or drop a picture")
    model = "sentiment" if state.model == "auto" else state.model
    return {
        "kind": "text",
        "text": state.text,
        "model": model,
        "method": _fitting(state.method, "saliency"),
    }, fields


def decoded(contents: Any) -> bytes:
    """The bytes of an uploaded file.

    Raises:
        InputError: no upload, or one that is too large.
    """
    if not isinstance(contents, str) or "," not in contents or len(contents) > LARGEST * 4 // 3 + 200:
        raise InputError(f"expected a picture of at most {LARGEST >> 20} MiB")
    try:
        return base64.b64decode(contents.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise InputError("the upload is damaged: drop the picture again") from error


def _fitting(method: str, explainer: str) -> str:
    """The method where the explainer has it, else the explainer's default."""
    from probe import explainers as ex

    parameter = next(p for p in ex.registry()[explainer].parameters if p.name == "method")
    return method if parameter.domain.admits(method) and method != "auto" else str(parameter.default)


def _models() -> list[tuple[str, str]]:
    from probe.models import catalog

    found = [("auto", "auto: fits the input")]
    for entry in catalog.ENTRIES:
        if catalog.is_installed(entry) and entry.task in (
            "text-classification",
            "text-generation",
            *_PICTURES[:1],
        ):
            found.append((entry.name, f"{entry.name} ({'pictures' if entry.task in _PICTURES else 'texts'})"))
    return found


def _methods() -> list[tuple[str, str]]:
    from probe import explainers as ex

    found = [("auto", "auto: the default of the kind")]
    for name, kind in (("saliency", "texts"), ("relevance", "pictures")):
        parameter = next(p for p in ex.registry()[name].parameters if p.name == "method")
        values = [v for v in getattr(parameter.domain, "values", ()) if v != "auto"]
        found += [(v, f"{v.replace('_', ' ')} ({kind})") for v in values if v not in dict(found)]
    return found


def _menu(name: str, label: str, options: list[tuple[str, str]], value: str) -> Component:
    shown = [{"label": text, "value": key} for key, text in options]
    return html.Label(
        [html.Span(label), dcc.Dropdown(shown, value, id=name, clearable=False)], className="field menu-field"
    )


def _dropped(name: str) -> Any:
    return [html.Strong("A picture is chosen. "), "Drop another"] if name else "or drop a picture here"


PAGE = Page(
    "explain",
    "Explain",
    "Why does the model say that? In words, in colours, and with a test.",
    70,
    layout,
    register,
)
