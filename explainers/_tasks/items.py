"""The items of a task, read from lines and checked before any model sees them."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probe._jsonl import read_lines
from probe.errors import InputError

TEMPLATE = "Text: {text}\nLabel:"
_EXAMPLE = '{"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1} or {"text": "…", "label": "…"}'
_BETWEEN_SHOTS = "\n\n"


@dataclass(frozen=True)
class Item:
    """One question: where it stands, the prompt, the possible continuations, and which of them is right."""

    where: str
    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Task:
    """Items with a name."""

    name: str
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over prompts, choices and answers in their order."""
        told = [[item.prompt, item.choices, item.answer] for item in self.items]
        return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()

    def take(self, places: Sequence[int]) -> "Task":
        """The items at these places, in this order."""
        return dataclasses.replace(self, items=tuple(self.items[int(place)] for place in places))


@dataclass
class _Reader:
    """Takes line after line; labels are known when all are read."""

    template: str = TEMPLATE
    words: dict[str, str] | None = None
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def take(self, where: str, line: Mapping[str, Any]) -> None:
        if "template" in line or "labels" in line:
            self._settings(where, line)
        elif "prompt" in line:
            self.lines.append((where, {"item": _choice(where, line)}))
        elif "text" in line or "label" in line:
            self.lines.append((where, self._classified(where, line)))
        else:
            fields = ", ".join(map(str, line)) or "nothing"
            raise InputError(f"{where}: got {fields}, expected {_EXAMPLE}")

    def _settings(self, where: str, line: Mapping[str, Any]) -> None:
        if self.lines or self.words is not None or self.template != TEMPLATE:
            raise InputError(f"{where}: template and labels belong into the first line, once")
        template, words = line.get("template", TEMPLATE), line.get("labels")
        if not isinstance(template, str) or "{text}" not in template:
            raise InputError(f"{where}: template: got {template!r}, expected a text with {{text}} in it")
        if words is not None:
            good = isinstance(words, Mapping) and all(isinstance(w, str) and w for w in words.values())
            if not good or len(set(words.values())) < max(2, len(words)):
                raise InputError(
                    f"{where}: labels: got {words!r}, expected at least two labels, each with words of its own"
                )
            self.words = dict(words)
        self.template = template

    def _classified(self, where: str, line: Mapping[str, Any]) -> dict[str, Any]:
        text, label = line.get("text"), line.get("label")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: text: got {text!r}, expected at least one word")
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{where}: label: got {label!r}, expected a name")
        if self.words is not None and label not in self.words:
            raise InputError(
                f"{where}: label: got {label!r}, expected one of the first line's: {', '.join(self.words)}"
            )
        return {"text": text, "label": label}

    def task(self, name: str) -> Task:
        classified = [line for _, line in self.lines if "item" not in line]
        words = self.words or {label: f" {label}" for label in sorted({line["label"] for line in classified})}
        if classified and len(words) < 2:
            raise InputError(
                f"{name}: all labels are {next(iter(words))!r}, expected at least two different ones"
            )
        labels = list(words)
        items = []
        for where, line in self.lines:
            if "item" in line:
                items.append(line["item"])
                continue
            prompt = self.template.replace("{text}", line["text"])
            items.append(Item(where, prompt, tuple(words.values()), labels.index(line["label"])))
        if not items:
            raise InputError(f"{name}: holds no items, expected lines such as {_EXAMPLE}")
        return Task(name, tuple(items))


def _choice(where: str, line: Mapping[str, Any]) -> Item:
    prompt, choices, answer = line["prompt"], line.get("choices"), line.get("answer")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: prompt: got {prompt!r}, expected at least one word")
    good = isinstance(choices, Sequence) and not isinstance(choices, str)
    if not good or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):  # type: ignore[arg-type,union-attr]
        raise InputError(f"{where}: choices: got {choices!r}, expected at least two texts")
    listed = tuple(choices)  # type: ignore[arg-type]
    if len(set(listed)) < len(listed):
        raise InputError(f"{where}: choices: got {list(listed)}, expected different ones")
    if isinstance(answer, str) and answer in listed:
        answer = listed.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(listed):
        raise InputError(
            f"{where}: answer: got {answer!r}, expected 0 to {len(listed) - 1} or one of the choices"
        )
    return Item(where, prompt, listed, answer)


def from_file(path: Path) -> Task:
    """A task from a JSONL file (see `read_task`)."""
    reader = _Reader()
    read_lines(path, reader.take, _EXAMPLE)
    return reader.task(path.name)


def from_mappings(lines: Iterable[Mapping[str, Any]]) -> Task:
    """A task from mappings with the fields of a line (see `read_task`)."""
    if isinstance(lines, Mapping) or not isinstance(lines, Iterable):
        raise InputError(f"task: got {type(lines).__name__}, expected a JSONL file or several mappings")
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        if not isinstance(line, Mapping):
            raise InputError(f"item {number}: got {type(line).__name__}, expected {_EXAMPLE}")
        reader.take(f"item {number}", line)
    return reader.task("the task")


def with_shots(task: Task, shots: int, seed: int) -> Task:
    """Take `shots` items out at random; they stand before all others, answered, an empty line after each.

    Raises:
        InputError: a negative number, or no item would be left.
    """
    if not 0 <= shots < len(task.items):
        raise InputError(
            f"shots: got {shots}, expected 0 to {len(task.items) - 1}: {task.name} has {len(task.items)} items"
        )
    if shots == 0:
        return task
    order = np.random.default_rng(seed).permutation(len(task.items))
    shown = [task.items[place] for place in order[:shots]]
    before = "".join(f"{item.prompt}{item.choices[item.answer]}{_BETWEEN_SHOTS}" for item in shown)
    rest = task.take(sorted(int(place) for place in order[shots:]))
    return dataclasses.replace(
        rest, items=tuple(dataclasses.replace(item, prompt=before + item.prompt) for item in rest.items)
    )
