"""What the text's script fetches: windows of tokens with their colours, and the links of one token."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from flask import Response, jsonify, request

from probe.dashboard.explorer.state import State
from probe.dashboard.explorer.state import whole as whole_number
from probe.dashboard.explorer.tokens import codes, links, token_values
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from dash import Dash

    from probe.dashboard.explorer.store import Store

WINDOW = 256
"""Tokens of one window."""
BINS = 1200
"""Places of the strip that shows the whole text."""
_OWN = ("window", "at", "side")


def serve(app: Dash, store: Store) -> None:
    """Add the routes `/_text/whole`, `/_text/window` and `/_text/links`, each with the state as its query.

    Args:
        app: the app.
        store: the records.
    """

    def answer(make: Callable[[State], dict[str, Any]]) -> Response:
        try:
            own = {name: request.args.get(name) for name in _OWN}
            given = {name: value for name, value in request.args.items() if name not in own}
            return jsonify(make(State.from_fields(given)))
        except ProbeError as error:
            response = jsonify({"error": str(error)})
            response.status_code = 400
            return response

    def whole_text() -> Response:
        return answer(lambda state: whole(state, store))

    def one_window() -> Response:
        return answer(lambda state: window(state, store, whole_number("window", request.args.get("window"))))

    def linked() -> Response:
        def make(state: State) -> dict[str, Any]:
            return {
                "links": links(
                    state,
                    store,
                    whole_number("at", request.args.get("at")),
                    request.args.get("side", "query"),
                )
            }

        return answer(make)

    for name, view in (("whole", whole_text), ("window", one_window), ("links", linked)):
        app.server.add_url_rule(f"/_text/{name}", f"text_{name}", view)


def whole(state: State, store: Store) -> dict[str, Any]:
    """What is known of the whole text: how long it is, its strip of colours, and the two ends of the scale.

    Args:
        state: what is shown.
        store: the records.
    """
    result = token_values(state, store)
    colours, low, high = _codes(result, state, store)
    edges = np.linspace(0, len(colours), min(BINS, len(colours)) + 1).astype(int)[:-1]
    attrs = result.attrs
    return {
        "count": len(colours),
        "window": WINDOW,
        "strip": _packed(np.maximum.reduceat(colours, edges)) if len(colours) else "",
        "low": low,
        "high": high,
        **{name: str(attrs.get(name, "")) for name in ("label", "unit", "of", "meaning", "left_out")},
    }


def window(state: State, store: Store, number: int) -> dict[str, Any]:
    """One window: texts, colours and values of its tokens, and which of them begin a unit.

    Args:
        state: what is shown.
        store: the records.
        number: of the window, from 0.

    Raises:
        InputError: no such window.
    """
    result = token_values(state, store)
    first = number * WINDOW
    if not 0 <= first < max(1, result.sizes["token"]):
        raise InputError(f"window {number}: the text has {-(-result.sizes['token'] // WINDOW)}")
    colours, _, _ = _codes(result, state, store)
    part = result.isel(token=slice(first, first + WINDOW))
    roles = [str(role) for role in part["role"].values]
    return {
        "first": first,
        "texts": [str(text) for text in part["text"].values],
        "special": [i for i, role in enumerate(roles) if role == "special"],
        "pad": [i for i, valid in enumerate(part["valid"].values) if not bool(valid)],
        "colours": _packed(colours[first : first + WINDOW]),
        "values": _packed(part["value"].values.astype("<f4")),
        "units": _packed(part["unit"].values.astype("<i4")) if "unit" in part else "",
    }


def _codes(result: xr.Dataset, state: State, store: Store) -> tuple[np.ndarray[Any, Any], float, float]:
    key = (
        "codes",
        result.attrs["label"],
        state.tower,
        state.sample,
        state.layer,
        state.head,
        state.by,
        state.scale,
    )

    def make(_: object) -> _Coded:
        return _Coded(*codes(result["value"].values, log=state.scale == "log"))

    found = store.remember(state.record, key, make)
    return found.colours, found.low, found.high


class _Coded:
    """Colours with the ends of their scale, as the cache keeps them."""

    def __init__(self, colours: np.ndarray[Any, Any], low: float, high: float) -> None:
        self.colours, self.low, self.high, self.nbytes = colours, low, high, colours.nbytes


def _packed(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
