"""Many texts for one command: a folder of text files, or a file with a JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.dashboard.source import TEXT_SUFFIXES, read_file
from probe.errors import InputError

_FIELDS = ("target", "contrast")


@dataclass(frozen=True)
class Item:
    """One text.

    Attributes:
        name: Its id, or its file's name.
        text: What is explained.
        options: Its own target and contrast, where the line gives them.
        where: Place of the input, for messages.
    """

    name: str
    text: str
    options: dict[str, str]
    where: str


def is_many(source: str) -> bool:
    """Whether an argument names a folder or a JSONL file."""
    path = Path(source) if source.strip() and len(source) <= 1024 and "\n" not in source else None
    return path is not None and (path.is_dir() or (path.suffix.lower() == ".jsonl" and path.is_file()))


def read_many(source: str) -> list[Item]:
    """Read all texts behind a folder or a JSONL file; everything is read before anything runs.

    Args:
        source: See `is_many`.

    Raises:
        InputError: No text, a line that is no object with `text`, a name that stands twice, an unreadable file.
    """
    path = Path(source)
    items = _folder(path) if path.is_dir() else _lines(path)
    if not items:
        raise InputError(f"{path} holds no text")
    seen: dict[str, str] = {}
    for item in items:
        if item.name in seen:
            raise InputError(f"{item.where}: the id {item.name!r} stands already in {seen[item.name]}")
        seen[item.name] = item.where
    return items


def _folder(path: Path) -> list[Item]:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in TEXT_SUFFIXES and p.is_file())
    return [Item(p.name, read_file(p), {}, str(p)) for p in files]


def _lines(path: Path) -> list[Item]:
    items = []
    for number, line in enumerate(read_file(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            given: Any = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is no JSON: {error}") from error
        if not isinstance(given, dict) or not isinstance(given.get("text"), str) or not given["text"].strip():
            raise InputError(f'{where}: expected an object with a "text" that is not empty')
        options = {name: given[name] for name in _FIELDS if isinstance(given.get(name), str)}
        items.append(Item(str(given.get("id", number)), given["text"], options, where))
    return items
