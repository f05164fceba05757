"""What the deep zoom asks the server for: tiles, cells, texts and curves of one kept map, each answer small.

`/_zoom/<what>?record=…&tower=…&layer=…&head=…&sample=…`. Maps and tiles are held in the store's one bounded cache;
what cannot be answered is a 4xx with one line as JSON.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from flask import Response, jsonify, request

from probe.dashboard.explorer.state import whole
from probe.errors import InputError, ProbeError, RecordError
from probe.viz._tiles import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from probe.dashboard.explorer.store import Store

AT = "/_zoom"
_AT_ONCE = threading.BoundedSemaphore(2)
"""Tiles that are computed together: many sessions wait for each other, and do not fill the memory."""
_SECONDS = 3600
"""For which a browser may keep a tile: its address carries when the record was finished."""


@dataclass(frozen=True)
class Picture:
    """A tile as the cache holds it."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """Its size."""
        return len(self.data)


def register(server: Flask, store: Store) -> None:
    """Add the routes to the server.

    Args:
        server: the explorer's Flask app.
        store: its records.
    """
    answers: dict[str, Callable[[Store], Response]] = {
        "about": _about, "tile.png": _tile, "cell": _cell, "links": _links, "texts": _texts, "curve": _curve,
    }  # fmt: skip
    for what, answer in answers.items():
        server.add_url_rule(f"{AT}/{what}", f"zoom_{what}", _safely(answer, store))
    for name, kind in (("deepzoom.js", "text/javascript"), ("deepzoom.css", "text/css")):
        server.add_url_rule(f"{AT}/{name}", f"zoom_{name}", partial(_part, name, kind))


def map_of(store: Store, record: str, tower: str, layer: int, head: int, sample: int) -> Tiles:
    """The map of a kept head, from the store's cache.

    Raises:
        InputError: no such record, head or sample.
        RecordError: the record cannot be read, or kept nothing of that layer.
    """

    def make() -> Tiles:
        return Tiles(store.open(record), layer=layer, head=head, stream=tower, sample=sample)

    return store.hold(record, ("map", tower, layer, head, sample), make)


def _safely(answer: Callable[[Store], Response], store: Store) -> Callable[[], Response]:
    def view() -> Response:
        try:
            with _AT_ONCE:
                return answer(store)
        except ProbeError as error:
            said = jsonify(error=str(error))
            said.status_code = 404 if isinstance(error, RecordError) else 400
            return said

    return view


def _about(store: Store) -> Response:
    return jsonify(_asked(store).about())


def _tile(store: Store) -> Response:
    reduce, (size, row, column) = _word("reduce"), (_number(name) for name in ("size", "row", "column"))
    where = _where()
    key = ("tile", *where[1:], reduce, size, row, column)
    picture = store.hold(
        where[0], key, lambda: Picture(map_of(store, *where).tile(reduce, size, row, column))
    )
    found = Response(picture.data, mimetype="image/png")
    found.headers["Cache-Control"] = f"private, max-age={_SECONDS}" if "v" in request.args else "no-cache"
    return found


def _cell(store: Store) -> Response:
    return jsonify(_asked(store).cell(_number("q"), _number("k")))


def _links(store: Store) -> Response:
    one = {name: _number(short) for short, name in (("q", "query"), ("k", "key")) if short in request.args}
    return jsonify(_asked(store).links(**one, links=_number("links", 12)))


def _texts(store: Store) -> Response:
    return jsonify(_asked(store).texts(_word("side"), _number("first"), _number("last")))


def _curve(store: Store) -> Response:
    values = _asked(store).curve(_word("side"), _number("size"), _number("block"))
    return Response(values.tobytes(), mimetype="application/octet-stream")


def _part(name: str, kind: str) -> Response:
    """The viewer itself, which notebooks use too."""
    return Response(files("probe.viz").joinpath("page", name).read_text(encoding="utf-8"), mimetype=kind)


def _asked(store: Store) -> Tiles:
    return map_of(store, *_where())


def _where() -> tuple[str, str, int, int, int]:
    return _word("record"), _word("tower", "text"), _number("layer"), _number("head"), _number("sample", 0)


def _word(name: str, other: str | None = None) -> str:
    found: Any = request.args.get(name, other)
    if not found or len(found) > 300:
        raise InputError(f"{name}: got {len(found or '')} characters, expected 1 to 300")
    return str(found)


def _number(name: str, other: int | None = None) -> int:
    return whole(name, request.args.get(name, other))
