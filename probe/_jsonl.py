"""Files with one JSON object a line: every line is looked at before anything runs, and bad ones are named by number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from probe.errors import InputError

T = TypeVar("T")
_MOST_NAMED = 5


def read_lines(path: str | Path, take: Callable[[str, dict[str, Any]], T], example: str) -> list[T]:
    """What `take` makes of each line; empty lines count for the numbers and for nothing else.

    Args:
        path: the file, UTF-8.
        take: called with the name of a line ("data.jsonl line 3") and its object; raises InputError for a bad one.
        example: a good line, for messages.

    Raises:
        InputError: no such file, not UTF-8, no line, or bad lines: up to five are named, and how many there are.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"{file}: {'a folder' if file.is_dir() else 'no such file'}, expected a file with one JSON object a line"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not text in UTF-8 (byte {error.start}): convert it first") from error
    found: list[T] = []
    complaints = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(take(f"{file.name} line {number}", _object(line, example)))
        except InputError as error:
            complaints.append(str(error).removeprefix(f"{file.name} "))
        except ValueError as error:
            complaints.append(f"line {number}: {error}")
    if complaints:
        more = f"; and {len(complaints) - _MOST_NAMED} more" if len(complaints) > _MOST_NAMED else ""
        raise InputError(f"{file}: {'; '.join(complaints[:_MOST_NAMED])}{more}; nothing was run")
    if not found:
        raise InputError(f"{file}: holds no input, expected one JSON object a line, such as {example}")
    return found


def _object(line: str, example: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(value, dict):
        raise ValueError(f"got {type(value).__name__}, expected an object such as {example}")
    return value
