"""What an explainer declares: title, shape, result kind, references, and parameters with domains.

One function with the decorator is the whole declaration:

    @explainer(title="Attention sinks", shape="reads", kind="head_table", references=("…",))
    def sinks(trace, *, factor: Annotated[float, Interval(1, 100, "times uniform")] = 5.0): ...

Positional arguments are what is explained; every keyword-only argument is a parameter and must carry a
domain, from which the command line and the explorer make their controls. The decorator checks values against
domains, writes the attributes that every result carries, and checks the result against the contract of its
kind.
"""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from probe.errors import InputError
from probe.explainers.kinds import KINDS, DeclarationError, check_result

if TYPE_CHECKING:
    pass

P = ParamSpec("P")
R = TypeVar("R")
Shape = Literal["reads", "runs", "steers", "searches"]
SHAPES = ("reads", "runs", "steers", "searches")


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    help: str

    def admits(self, value: object) -> bool:
        """Whether the value lies in the interval."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, init=False)
class Choice:
    """One of a few names."""

    values: tuple[str, ...]
    help: str

    def __init__(self, *values: str, help: str) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "help", help)

    def admits(self, value: object) -> bool:
        """Whether the value is one of the names."""
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(self.values)


@dataclass(frozen=True)
class Text:
    """Any text that is not empty."""

    help: str

    def admits(self, value: object) -> bool:
        """Whether the value is a text with at least one character."""
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return "a text that is not empty"


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    help: str

    def admits(self, value: object) -> bool:
        """Whether the value is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


Domain = Interval | Choice | Text | Flag
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One parameter: `type` is int, float, str or bool; `default` None means that it may be left open."""

    name: str
    type: type
    default: Any
    domain: Domain
    help: str

    def check(self, value: object, explainer: str = "") -> Any:
        """The value in the parameter's type.

        Args:
            value: what the caller gave; an int is taken where a float is asked for.
            explainer: name used in the message.

        Raises:
            InputError: wrong type or outside the domain; the message names both.
        """
        if value is None and self.default is None:
            return None
        number = self.type in (int, float)
        fits = isinstance(value, (int, float) if self.type is float else self.type)
        if not fits or (number and isinstance(value, bool)) or not self.domain.admits(value):
            where = f"{explainer}: " if explainer else ""
            raise InputError(
                f"{where}{self.name} = {value!r}, expected {self.domain} ({self.type.__name__}): {self.help}"
            )
        return float(value) if self.type is float else value  # type: ignore[arg-type]

    def parse(self, text: str, explainer: str = "") -> Any:
        """The value that a command line's text stands for, checked.

        Raises:
            InputError: the text is not such a value.
        """
        try:
            value = _WORDS[text.strip().lower()] if self.type is bool else self.type(text)
        except (KeyError, ValueError):
            value = text
        return self.check(value, explainer)


@dataclass(frozen=True, eq=False)
class Explainer:
    """A declared explainer; `function` is what users call."""

    name: str
    title: str
    summary: str
    shape: Shape
    kind: str
    parameters: tuple[Parameter, ...]
    references: tuple[str, ...]
    function: Callable[..., Any]


def explainer(
    *, title: str, shape: Shape, kind: str, references: tuple[str, ...]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a function that returns a result; one that steers returns a context, which makes its results itself.

    Args:
        title: a few words for lists and figures.
        shape: "reads" a record, "runs" a model, "steers" one, or "searches" in it over a whole task.
        kind: the kind of its result, a key of `KINDS`.
        references: papers or books that define the method; at least one.

    Returns:
        A decorator; the function it returns checks the parameters, completes and checks the result (a
        context gets the attributes that complete its results as `declared`), and carries its `Explainer` as
        `__explainer__`.

    Raises:
        DeclarationError: something is missing from the declaration.
    """

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        entry = _entry(function, signature, title, shape, kind, references)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = {p.name: p.check(bound.arguments[p.name], entry.name) for p in entry.parameters}
            bound.arguments.update(values)
            result: Any = function(*bound.args, **bound.kwargs)
            declared = {
                "kind": kind,
                "explainer": entry.name,
                "title": title,
                "parameters": json.dumps(values, ensure_ascii=False),
                "references": list(references),
            }
            if shape == "steers":
                result.declared = declared
            else:
                result.attrs |= declared
                check_result(result)
            return result  # type: ignore[no-any-return]

        object.__setattr__(entry, "function", call)
        call.__explainer__ = entry  # type: ignore[attr-defined]
        return call

    return declare


def _entry(
    function: Callable[..., Any],
    signature: inspect.Signature,
    title: str,
    shape: Shape,
    kind: str,
    references: tuple[str, ...],
) -> Explainer:
    name = function.__name__
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    if not (title and summary and references):
        raise DeclarationError(f"{name}: an explainer needs a title, a docstring and at least one reference")
    if shape not in SHAPES or kind not in KINDS:
        raise DeclarationError(
            f"{name}: shape {shape!r} or kind {kind!r} is unknown; shapes {SHAPES}, kinds {tuple(KINDS)}"
        )
    parameters = tuple(_parameter(p, name) for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY)
    return Explainer(name, title, summary, shape, kind, parameters, tuple(references), function)


def _parameter(parameter: inspect.Parameter, name: str) -> Parameter:
    if parameter.default is parameter.empty:
        raise DeclarationError(f"{name}: parameter {parameter.name} needs a default")
    if get_origin(parameter.annotation) is not Annotated:
        raise DeclarationError(
            f"{name}: parameter {parameter.name} needs Annotated[type, domain], got {parameter.annotation!r}"
        )
    kind, *extras = get_args(parameter.annotation)
    domains = [extra for extra in extras if isinstance(extra, Domain)]
    members = (
        [m for m in get_args(kind) if m is not NoneType] if get_origin(kind) in (Union, UnionType) else [kind]
    )
    if len(domains) != 1 or len(members) != 1 or members[0] not in (int, float, str, bool):
        raise DeclarationError(
            f"{name}: parameter {parameter.name} needs one of int, float, str, bool and exactly one domain"
        )
    entry = Parameter(parameter.name, members[0], parameter.default, domains[0], domains[0].help)
    entry.check(parameter.default, name)
    return entry
