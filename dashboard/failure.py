"""Every way a command can end, each as one line on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING

from probe.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED, USAGE, UNEXPECTED, INTERRUPTED, PIPE = 1, 2, 70, 130, 141


def guarded(action: Callable[[], object], *, debug: Callable[[], bool]) -> int:
    """Run an action and turn its end into an exit code.

    Args:
        action: Returns an exit code, or nothing for success.
        debug: Whether to show tracebacks; asked after the failure, when the options have been read.

    Returns:
        0 success; 1 an error of the user's world (input, model, record, disk, memory); 2 a usage error; 70 a
        fault of ours; 130 interrupted; 141 the reader of standard output went away.
    """
    try:
        code = action()
    except Exception as error:  # noqa: BLE001 - the last frame of the program: every failure becomes one line
        return _told(error, debug())
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        say("interrupted")
    return code if isinstance(code, int) else 0


def _told(error: Exception, debug: bool) -> int:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    if debug:
        traceback.print_exception(error)
    message = getattr(error, "format_message", None)
    if message is not None:
        say(f"error: {_line(message())}")
        return int(getattr(error, "exit_code", USAGE))
    if type(error).__name__ == "Abort":
        say("interrupted")
        return INTERRUPTED
    if isinstance(error, ProbeError):
        say(f"error: {_line(str(error))}")
        return FAILED
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        say(f"error: {place}{_line(error.strerror or str(error))}")
        return FAILED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        say(f"error: out of memory: use a shorter text or a smaller batch size ({_line(str(error))})")
        return FAILED
    hint = "" if debug else "; `probe --debug …` shows where"
    say(f"error: unexpected {type(error).__name__}: {_line(str(error))} (a fault of attention-probe{hint})")
    return UNEXPECTED


def say(line: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _line(text: str) -> str:
    line = " ".join(text.split()) or "no message"
    return line if len(line) <= 600 else f"{line[:597]}…"


def show_own_warnings(*, debug: bool) -> None:
    """From now on, show warnings of this package as one line and drop other libraries' (all, with debug).

    Args:
        debug: Show everything in Python's own form.
    """
    if debug:
        warnings.simplefilter("always")
        return
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    rooms = tuple(
        os.path.join(root, name) + os.sep for name in ("probe", "kernels", "explainers", "viz", "dashboard")
    )

    def show(
        message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object
    ) -> None:
        if os.path.abspath(filename).startswith(rooms) and not issubclass(category, DeprecationWarning):
            say(f"warning: {_line(str(message))}")

    warnings.showwarning = show
