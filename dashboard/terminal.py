"""Results go to standard output, progress and remarks to standard error; colours only for people."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


PIPED = 1000
"""Columns when standard output is no terminal: what reads it wraps lines itself."""


def out() -> Console:
    """The console of results; without colours when standard output is no terminal or NO_COLOR is set."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.soft_wrap, console.width = True, PIPED
    return console


def clean(text: str) -> str:
    """The text with control characters as visible signs, so that no input can drive the terminal.

    Args:
        text: Anything; line breaks and tabs stay.

    Returns:
        The same text, each other control character replaced by its picture or by `�`.
    """
    return "".join(_shown(sign) for sign in text)


def _shown(sign: str) -> str:
    code = ord(sign)
    if sign in "\n\t" or (code >= 0x20 and not 0x7F <= code < 0xA0):
        return "�" if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 else sign
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "�"


@contextmanager
def working(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error, shown only when that is a terminal.

    Args:
        title: What is being done.

    Yields:
        A function to be called with (done, expected, name of the step).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, markup=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def step(done: int, expected: int, name: str) -> None:
            progress.update(
                task, completed=done, total=expected, description=f"{title} {clean(name)}".strip()
            )

        yield step


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """While this lasts, what libraries print to standard output goes to standard error."""
    from contextlib import redirect_stdout

    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def busy(title: str) -> Iterator[None]:
    """A moving sign on standard error while something of unknown length goes on; only on a terminal.

    Args:
        title: What is being done.
    """
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        yield
        return
    with console.status(title):
        yield
