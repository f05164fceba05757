"""The folder of a record while it is written: what may be replaced, what is continued, what is removed."""

import asyncio
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from probe.errors import InputError, RecordError
from probe.record import SCHEMA, is_record, read_attributes

PATIENCE = 20.0  # seconds that zarr's own thread is given to end what it has begun


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a place where something stands that may not be replaced.

    Raises:
        InputError: what stands there, and what to do.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise InputError(f"{target}: exists already; choose another name, or overwrite it (overwrite=True)")
    if not is_record(target):
        raise InputError(f"{target}: exists and is not a record of attention-probe, so it is not overwritten")


def clear_stale(partial: Path) -> None:
    """Remove what a killed run left.

    Raises:
        InputError: it is not ours, or is being written now.
        RecordError: it cannot be removed.
    """
    if not os.path.lexists(partial):
        return
    _check_partial(partial)
    remove(partial)
    if partial.exists():
        raise RecordError(f"{partial}: is left from a run that ended early and cannot be removed")


def resumable(partial: Path, request: str) -> bool:
    """Whether there is something to continue; what holds no layer yet is removed.

    Raises:
        InputError: it is not ours, is being written now, or was begun by another request.
        RecordError: it cannot be removed.
    """
    if not os.path.lexists(partial):
        return False
    _check_partial(partial)
    if not is_record(partial):
        clear_stale(partial)
        return False
    attrs = read_attributes(partial)
    again = f"give the model, inputs and options that began it, or start anew without resuming (this removes {partial})"
    if attrs.get("schema") != SCHEMA:
        raise InputError(
            f"{partial}: got an unfinished record of schema {attrs.get('schema')!r}, expected {SCHEMA}; {again}"
        )
    if attrs.get("request") != request:
        raise InputError(
            f"{partial}: got an unfinished record of the request {attrs.get('request')!r}, expected {request!r}; {again}"
        )
    return True


def _check_partial(partial: Path) -> None:
    if not partial.is_dir() or not (is_record(partial) or _is_bare(partial)):
        raise InputError(
            f"{partial}: is in the way and is not an unfinished record; remove it or choose another name"
        )
    begun = read_attributes(partial).get("writer", {}) if is_record(partial) else {}
    if (
        begun.get("host") == socket.gethostname()
        and begun.get("pid") != os.getpid()
        and _alive(begun.get("pid"))
    ):
        raise InputError(
            f"{partial}: process {begun['pid']} is writing this record; wait, or choose another name"
        )


def writer_of() -> dict[str, Any]:
    """Who writes: by it another run sees whether this one is alive."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing, or nothing but a root file that zarr had not finished."""
    return all(path.match("zarr.*.partial") for path in folder.iterdir())


def settle() -> None:
    """Wait, within reason, until zarr writes nothing any more.

    Its files are written by a thread of its own, where an interrupt of ours stops nothing: what had been begun
    would appear again in a folder that we have just removed.
    """
    from zarr.core.sync import sync

    async def rest() -> None:
        deadline = time.monotonic() + PATIENCE
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.wait(others, timeout=left)

    with suppress(TimeoutError):  # its thread is gone, or never began
        sync(rest(), timeout=2 * PATIENCE)


def remove(folder: Path) -> None:
    """Remove a record, its root file last: cut short, what is left is still known as an unfinished record."""
    for _ in range(20):
        for entry in folder.glob("*"):
            shutil.rmtree(entry, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.05)


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or os.name == "nt":  # there, signal 0 would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def publish(partial: Path, target: Path) -> None:
    """Move a complete record to its name; an old record there goes only when the new one stands."""
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f"{target.name}.replaced-{os.getpid()}")
    try:
        target.rename(old)
        partial.rename(target)
    finally:  # an interrupt may come between the two
        if target.exists():
            remove(old)
        else:
            old.rename(target)
