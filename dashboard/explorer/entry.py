"""One line of the list of records: read from the attributes that stand in its folder, no values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.errors import RecordError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """What is known of a record without opening it.

    Attributes:
        name: its path below the explorer's folder, with slashes.
        path: its folder.
        model: name of the model.
        created: when it was captured, ISO 8601.
        dtype: of the model's weights.
        backend: what computed its attention.
        stats: the statistics it holds.
        towers: sizes by tower: sample, layer, head, query, key.
        kept: whether it kept q, k and v, so that any cell of its maps can be seen.
        passed: whether its validity checks passed; None where that is not known.
        problem: why it cannot be opened; empty where it can.
    """

    name: str
    path: Path
    model: str = ""
    created: str = ""
    dtype: str = ""
    backend: str = ""
    stats: tuple[str, ...] = ()
    towers: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    kept: bool = False
    passed: bool | None = None
    problem: str = ""

    @property
    def tokens(self) -> int:
        """The most positions along one side of its maps."""
        return max(
            (size for _, sizes in self.towers for dim, size in sizes if dim in ("query", "key")), default=0
        )

    @property
    def validity(self) -> str:
        """In a word: passed, failed, unfinished or unknown."""
        if self.problem:
            return "unfinished"
        return "unknown" if self.passed is None else "passed" if self.passed else "failed"


def entry_of(folder: Path, path: Path) -> Entry:
    """The line of one record.

    Args:
        folder: the explorer's folder.
        path: the record's, below it.
    """
    from probe.record import SCHEMA, read_attributes

    name = path.relative_to(folder).as_posix()
    try:
        attrs = read_attributes(path)
    except RecordError as error:
        return Entry(name, path, problem=str(error).removeprefix(f"{path}: "))
    problem = ""
    if attrs.get("schema") != SCHEMA:
        problem = f"schema {attrs.get('schema')!r}, this version reads {SCHEMA}: capture again"
    elif attrs.get("status") != "complete":
        written, expected = attrs.get("layers_written", 0), attrs.get("layers_expected", "?")
        problem = f"unfinished: {written} of {expected} layers were written; capture again, or wait"
    passed = _attributes(path / "validity").get("passed")
    return Entry(
        name,
        path,
        model=str(attrs.get("model", "")),
        created=str(attrs.get("created", "")),
        dtype=str(attrs.get("dtype", "")),
        backend=str(attrs.get("backend", "")),
        stats=tuple(map(str, attrs.get("stats") or ())),
        towers=tuple(_towers(path)),
        kept=(path / "qkv").is_dir(),
        passed=bool(passed) if passed is not None else None,
        problem=problem,
    )


def _towers(path: Path) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    found = []
    for group in sorted(p for p in path.iterdir() if (p / "keys_seen" / "zarr.json").is_file()):
        sizes: dict[str, int] = {}
        for variable in ("keys_seen", "seen_by", "head"):
            shape = _metadata(group / variable).get("shape") or []
            names = {"keys_seen": ("sample", "layer", "query"), "seen_by": ("sample", "layer", "key")}
            sizes |= dict(zip(names.get(variable, ("head",)), map(int, shape), strict=False))
        found.append((group.name, tuple(sizes.items())))
    return found


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _attributes(folder: Path) -> dict[str, Any]:
    found = _metadata(folder).get("attributes")
    return found if isinstance(found, dict) else {}
