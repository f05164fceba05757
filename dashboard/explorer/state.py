"""What the explorer shows, whole, as the query string of its address: a link reproduces the view."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 4000
"""Characters of one value; a longer text is explained from a file by `probe explain`."""
LARGEST = 2**31 - 1
_CHOICES = {
    "sinks": ("on", "off"),
    "scale": ("linear", "log"),
    "by": ("token", "word", "sentence", "segment"),
}
_REGION = re.compile(r"(\d{1,10})-(\d{1,10})x(\d{1,10})-(\d{1,10})")


@dataclass(frozen=True)
class State:
    """The selection that all panels share, and their settings; every field has its default in an empty address.

    Attributes:
        record: name of the record in the explorer's folder.
        other: name of a second record to compare with; empty for none.
        tower: group of the record; empty for its first.
        sample: index of the sample.
        step: index of a generation step or answer word.
        layer: number of the layer, None for all.
        head: number of the head, None for all.
        query: position of the query token.
        key: position of the key token.
        region: queries and keys shown by the map, "0-128x0-128" ([first, last) of each).
        statistic: name of the quantity shown, "entropy" or "sinks.sink_rate" (explainer and variable).
        x: quantity along the horizontal axis of the scatter.
        y: quantity along its vertical axis.
        sinks: "on", or "off" to leave sink tokens out.
        scale: "linear" or "log" colours and axes.
        colour: what colours the tokens of a text: a statistic, or an explainer of token strips.
        by: unit of text: token, word, sentence or segment.
        text: a text that was typed.
        model: name of a model for what runs one.
        method: name of a method, of a page that offers several.
        calibration: name of a calibration file in the explorer's folder.
        beta: percent of its weight that a sink keeps.
        picture: id of a picture that was dropped on this server.
        job: id of a job whose results are shown.
        part: a page's own choice of a layer's name, an image's map or the like.
    """

    record: str = ""
    other: str = ""
    tower: str = ""
    sample: int = 0
    step: int | None = None
    layer: int | None = None
    head: int | None = None
    query: int | None = None
    key: int | None = None
    region: str = ""
    statistic: str = ""
    x: str = ""
    y: str = ""
    sinks: str = "on"
    scale: str = "linear"
    colour: str = ""
    by: str = "token"
    text: str = ""
    model: str = ""
    method: str = ""
    calibration: str = ""
    beta: int = 40
    picture: str = ""
    job: str = ""
    part: str = ""

    @classmethod
    def of(cls, query: str) -> State:
        """The state that a query string names.

        Args:
            query: what follows the path of an address, with or without its question mark.

        Raises:
            InputError: an unknown or repeated name, or a value outside its domain.
        """
        try:
            pairs = parse_qsl(
                query.removeprefix("?"), keep_blank_values=True, errors="strict", max_num_fields=64
            )
        except ValueError as error:
            raise InputError(
                f"this address cannot be read ({error}): use the explorer's permalink button"
            ) from error
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"the address names {', '.join(twice)} more than once: leave one of each")
        return cls.from_fields(dict(pairs))

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> State:
        """The state of these fields, as texts or numbers; what is not given stands at its default.

        Raises:
            InputError: an unknown name, or a value outside its domain.
        """
        if not hasattr(given, "items"):
            raise InputError(f"a state: got {type(given).__name__}, expected names with values")
        unknown = sorted(str(name) for name in set(given) - set(_TYPES))
        if unknown:
            raise InputError(
                f"the address names {', '.join(map(repr, unknown))}; known are: {', '.join(_TYPES)}"
            )
        return cls(**{name: _checked(name, value) for name, value in given.items()})

    def fields(self) -> dict[str, str | int]:
        """The fields that differ from their defaults, in order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def query_string(self) -> str:
        """The state as a query string without a question mark; empty for the default."""
        return urlencode(self.fields())

    def url(self, path: str) -> str:
        """The permalink of a page in this state.

        Args:
            path: the page's path, "/overview".
        """
        query = self.query_string()
        return f"{path}?{query}" if query else path

    def but(self, **changes: Any) -> State:
        """The state with some fields changed, checked.

        Raises:
            InputError: as for `from_fields`.
        """
        return replace(self, **{name: _checked(name, value) for name, value in changes.items()})

    @property
    def rows_and_columns(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """The region as queries [first, last) and keys [first, last); None where none is chosen."""
        found = _REGION.fullmatch(self.region)
        if found is None:
            return None
        a, b, c, d = map(int, found.groups())
        return (a, b), (c, d)


_TYPES = {f.name: str if isinstance(f.default, str) else int for f in fields(State)}


_ALWAYS = ("sample", "beta")


def _checked(name: str, value: Any) -> Any:
    if name not in _TYPES:
        raise InputError(f"a state has no field {name!r}; it has: {', '.join(_TYPES)}")
    return _number(name, value) if _TYPES[name] is int else _text(name, value)


def _number(name: str, value: Any) -> int | None:
    if value is None and name not in _ALWAYS:
        return None
    return whole(name, value, 100 if name == "beta" else LARGEST)


def whole(name: str, value: Any, most: int = LARGEST) -> int:
    """A whole number from outside, as a number or as its digits.

    Raises:
        InputError: something else, or more than `most`.
    """
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{name} = {str(value)[:60]!r}, expected a whole number from 0 to {most}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        got = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise InputError(f"{name}: got {got}, expected a text of at most {LONGEST} characters")
    lines = name == "text"
    if any(not (sign.isprintable() or (lines and sign in "\n\t")) for sign in value):
        raise InputError(f"{name} = {value[:60]!r} holds a control character: take it out")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise InputError(f"{name} = {value[:60]!r}, expected one of {', '.join(_CHOICES[name])}")
    if name == "region" and value:
        _check_region(value)
    return value


def _check_region(value: str) -> None:
    found = _REGION.fullmatch(value)
    if found is not None:
        a, b, c, d = map(int, found.groups())
        if a < b <= LARGEST and c < d <= LARGEST:
            return
    raise InputError(
        f"region = {value[:60]!r}, expected queries and keys as first-last x first-last, such as 0-128x0-64"
    )
