"""Tell what the user gave: words, the name of a text file, or `-` for standard input; and read it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from probe.errors import InputError

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text", ".log", ".csv", ".json", ".jsonl", ".html", ".py")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def read_source(source: str) -> str:
    """The text behind a command line's argument.

    Args:
        source: `-`, the path of an existing file, or the text itself. What ends in a known suffix, or has
            a separator and no blank, is taken for a path.

    Returns:
        The text, not empty.

    Raises:
        InputError: A path that does not exist, a folder, an image, a binary file, or an empty text.
    """
    if source == "-":
        return _filled(_decoded(sys.stdin.buffer.read(), "standard input"), "standard input")
    if os.path.exists(source):
        return read_file(Path(source))
    if _is_path_like(source):
        hint = "to explain these characters themselves, pipe them to `probe explain -`"
        raise InputError(f"no such file: {source} ({hint})")
    return _filled(source, "the text")


def read_file(path: Path) -> str:
    """The text of a file in UTF-8.

    Args:
        path: An existing file.

    Returns:
        The text, not empty; a byte-order mark is left out.

    Raises:
        InputError: No file, a folder, an image, a binary file, or an empty one.
    """
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a text file")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{path} is an image; supported now: text, text files (UTF-8) and standard input")
    return _filled(_decoded(path.read_bytes(), str(path)), str(path))


def _decoded(data: bytes, name: str) -> str:
    if b"\0" in data:
        raise InputError(f"{name} is binary (it holds a zero byte), expected text in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8 (byte {error.start}): convert it first") from error


def _filled(text: str, name: str) -> str:
    if not text.strip():
        raise InputError(f"{name} is empty: give at least one word")
    return text


def _is_path_like(source: str) -> bool:
    if "\n" in source or len(source) > 1024:
        return False
    if source.lower().endswith(TEXT_SUFFIXES + IMAGE_SUFFIXES):
        return True
    blank = any(sign.isspace() for sign in source)
    return not blank and (os.sep in source or source.startswith("~"))
