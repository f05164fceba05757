"""The inputs of a corpus: read, checked and named before the model sees any of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe._jsonl import read_lines
from probe.errors import InputError
from probe.record import strings

_OWN = ("id", "text", "input_ids")


@dataclass(frozen=True)
class Item:
    """One input of a corpus.

    Attributes:
        number: its place among all inputs, from 0.
        name: what the user calls it (`id`), else its place from 1.
        where: how messages name it, with its line where it came from a file.
        text: its text, or None.
        ids: its token ids, or None.
        labels: the other fields that it came with.
    """

    number: int
    name: str
    where: str
    text: str | None
    ids: tuple[int, ...] | None
    labels: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Characters of a text, or tokens: inputs of one kind sort by it."""
        return len(self.ids if self.text is None else self.text)  # type: ignore[arg-type]


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The inputs of a file with one JSON object a line; empty lines count for the numbers and for nothing else.

    Args:
        path: the file, UTF-8.

    Returns:
        The objects; each carries its line number under the key None, which no JSON object has.

    Raises:
        InputError: no such file, not UTF-8, or lines that are no inputs: up to five are named, and how many there are.
    """

    def take(where: str, line: dict[Any, Any]) -> dict[Any, Any]:
        line[None] = where
        _item(0, line)
        return line

    return read_lines(path, take, '{"text": "…"}')


def read_items(inputs: Iterable[Any]) -> list[Item]:
    """Check all inputs and name them.

    Args:
        inputs: texts, or mappings with "text" or "input_ids", perhaps "id", and any other fields, which become labels.

    Raises:
        InputError: no inputs, one that is none, or two of one name.
    """
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise InputError(
            f"inputs: got {type(inputs).__name__}, expected several texts or mappings; `probe.capture` takes one"
        )
    items = [_item(number, value) for number, value in enumerate(inputs)]
    if not items:
        raise InputError("inputs: got none, expected at least one text or mapping")
    name, count = Counter(item.name for item in items).most_common(1)[0]
    if count > 1:
        twice = [item.where for item in items if item.name == name]
        raise InputError(
            f"{twice[0]} and {twice[1]}: both have the id {name!r}; give every input its own, or none"
        )
    return items


def _item(number: int, value: Any) -> Item:
    if isinstance(value, str):
        value = {"text": value}
    where = f"input {number + 1}"
    if not isinstance(value, Mapping):
        raise InputError(
            f'{where}: got {type(value).__name__}, expected a text or a mapping with "text" or "input_ids"'
        )
    where = value.get(None, where)
    if ("text" in value) == ("input_ids" in value):
        got = (
            "both"
            if "text" in value
            else f"only {', '.join(str(k) for k in value if k is not None) or 'nothing'}"
        )
        raise InputError(f'{where}: got {got}, expected either "text" or "input_ids"')
    name = value.get("id", str(number + 1))
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise InputError(f"{where}: id: got {name!r}, expected a word or a whole number")
    text, ids = value.get("text"), None
    if "text" in value and not (isinstance(text, str) and text.strip()):
        raise InputError(f"{where}: text: got {_short(text)}, expected at least one word")
    if "input_ids" in value:
        ids = _ids(where, value["input_ids"])
    labels = {key: x for key, x in value.items() if key is not None and key not in _OWN}
    try:
        json.dumps(labels, allow_nan=False)
        fits = all(isinstance(key, str) for key in labels)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(
            f"{where}: labels: got {_short(labels)}, expected names with values that JSON can hold"
        )
    return Item(number, str(name), where, text, ids, labels)


def _ids(where: str, value: Any) -> tuple[int, ...]:
    listed = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    whole = isinstance(listed, Sequence) and all(
        isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in listed
    )
    if isinstance(listed, str) or not whole or not listed:
        raise InputError(
            f"{where}: input_ids: got {_short(value)}, expected one list of token ids, whole numbers from 0"
        )
    return tuple(listed)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def digest(items: Sequence[Item]) -> str:
    """One line that is the same for the same inputs in the same order."""
    told = [[item.name, item.text, item.ids, dict(item.labels)] for item in items]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Inputs that run together: of one kind and of similar length; one by one in their order for `size` 1."""
    if size == 1:
        return [[item] for item in items]
    found = []
    for kind in (True, False):
        alike = sorted(
            (item for item in items if (item.text is None) is kind),
            key=lambda item: (item.length, item.number),
        )
        found += [alike[at : at + size] for at in range(0, len(alike), size)]
    return found


def forward_inputs(batch: Sequence[Item]) -> list[str] | dict[str, Tensor]:
    """What `probe.capture` takes: texts, or padded ids with their mask."""
    if batch[0].text is not None:
        return [str(item.text) for item in batch]
    longest = max(item.length for item in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(batch):
        ids[row, : item.length] = torch.tensor(item.ids)
        mask[row, : item.length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def label_columns(items: Sequence[Item]) -> dict[str, np.ndarray[Any, Any]]:
    """Each label as a column over the inputs: numbers (NaN where absent), or words ("" where absent, else JSON)."""
    columns = {}
    for name in dict.fromkeys(name for item in items for name in item.labels):
        values = [item.labels.get(name) for item in items]
        given = [x for x in values if x is not None]
        if given and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in given):
            columns[name] = np.array([np.nan if x is None else x for x in values])
        else:
            words = (
                "" if x is None else x if isinstance(x, str) else json.dumps(x, ensure_ascii=False)
                for x in values
            )
            columns[name] = strings(list(words))
    return columns
