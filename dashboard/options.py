"""Options of commands: each command has them in one dataclass, whose fields' metadata become the help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field, fields
from inspect import Parameter, Signature
from typing import Annotated, Any, get_type_hints


def option(text: str, default: object = None, metavar: str | None = None, name: str | None = None) -> Any:
    """A field that is an option; `default` MISSING: it must be given; `name`: other than the field's ("--out")."""
    return field(default=default, metadata={"help": text, "metavar": metavar, "name": name})


def argument(text: str, metavar: str) -> Any:
    """A field that is the command's argument."""
    return field(metadata={"help": text, "metavar": metavar, "argument": True})


def with_options_of(request: type, command: Callable[..., int]) -> Callable[..., int]:
    """Give a command an option for each field of a dataclass.

    Args:
        request: the dataclass; a flag that is off has one name, one that is on a second to turn it off.
        command: called with the fields by name.
    """
    import typer

    kinds, parameters = get_type_hints(request), []
    for member in fields(request):
        shown = {"help": member.metadata["help"], "metavar": member.metadata["metavar"]}
        if member.metadata.get("argument"):
            told: Any = typer.Argument(**shown)
        else:
            single = kinds[member.name] is bool and member.default is False
            name = member.metadata["name"] or (f"--{member.name.replace('_', '-')}" if single else None)
            told = typer.Option(*((name,) if name else ()), **shown)
        default = Parameter.empty if member.default is MISSING else member.default
        annotation = Annotated[kinds[member.name], told]
        parameters.append(
            Parameter(member.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
