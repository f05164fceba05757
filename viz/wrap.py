"""Set tokens in lines like prose: words stay whole, blanks lie between boxes, wide signs take two cells."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BREAK = "↵"


@dataclass(frozen=True)
class Box:
    """A piece of one token on one line.

    Attributes:
        token: Which of the given pieces it belongs to.
        line: Line number from 0.
        column: First cell on that line.
        width: Number of cells.
        text: What stands in the box.
    """

    token: int
    line: int
    column: int
    width: int
    text: str


def cells(text: str) -> int:
    """Width of a text in cells of a monospaced font: 2 for East Asian wide signs, 0 for combining ones."""
    return sum(_cell(sign) for sign in text)


def _cell(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def lay_out(pieces: Sequence[str], columns: int) -> list[Box]:
    """Place pieces of text in lines of at most `columns` cells.

    Args:
        pieces: Tokens with their own blanks; a new word begins where a piece starts with a blank.
        columns: Cells per line, at least 2.

    Returns:
        Boxes in reading order. A piece gives no box if it is empty, several if it is longer than a line or
        holds line breaks; a line break shows as `↵`.
    """
    if columns < 2:
        raise ValueError(f"columns must be at least 2, got {columns}")
    boxes: list[Box] = []
    line = column = 0
    for word in _words(pieces):
        lead = len(word[0][1]) - len(word[0][1].lstrip(" "))
        width = sum(cells(text) for _, text in word) - lead
        if column and column + lead + width > columns and width <= columns:
            line, column = line + 1, 0
        for position, (token, text) in enumerate(word):
            if position == 0 and text.strip(" "):
                column += lead if column else 0
                text = text[lead:]
            for part in text.splitlines(keepends=True):
                line, column = _place(boxes, token, part, line, column, columns)
    return boxes


def _words(pieces: Sequence[str]) -> list[list[tuple[int, str]]]:
    words: list[list[tuple[int, str]]] = []
    fresh = True
    for index, piece in enumerate(pieces):
        if not piece:
            continue
        if fresh or piece[0].isspace():
            words.append([])
        words[-1].append((index, piece))
        fresh = piece[-1].isspace()
    return words


def _place(boxes: list[Box], token: int, part: str, line: int, column: int, columns: int) -> tuple[int, int]:
    body = part.rstrip("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029")
    ends = len(body) < len(part)
    shown = body.replace("\t", "→") + (BREAK if ends else "")
    trail = len(shown) - len(shown.rstrip(" "))
    if trail == len(shown):
        shown, trail = "·" * trail, 0
    shown = shown[: len(shown) - trail]
    while shown:
        if column >= columns:
            line, column = line + 1, 0
        taken, width = "", 0
        for sign in shown:
            if taken and column + width + _cell(sign) > columns:
                break
            taken, width = taken + sign, width + _cell(sign)
        if column and column + width > columns:
            line, column = line + 1, 0
            continue
        boxes.append(Box(token, line, column, max(width, 1), taken))
        column += max(width, 1)
        shown = shown[len(taken) :]
    return (line + 1, 0) if ends else (line, column + trail)
