"""Work that takes long: each job is a process of its own; its labelled results stand in a folder named by its request."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

KEEP = 200
"""Results that are kept; the oldest go first."""
_ID = re.compile(r"[0-9a-f]{16}")


class Jobs:
    """A private folder of this server, removed with it: what jobs made, and pictures that were dropped.

    Nothing in it is ever unpickled: results are zarr folders.
    """

    def __init__(self) -> None:
        """Make the folder, readable by its owner alone."""
        self.folder = Path(tempfile.mkdtemp(prefix="probe-explorer-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def run(self, request: dict[str, Any], told: Callable[[int, int, str], None]) -> str:
        """Do what a request asks, unless it was done before.

        Args:
            request: "kind" and what that kind of job needs; JSON values.
            told: called with steps done, steps in all, and what is being done.

        Returns:
            The job's id, from which the request's results are read.

        Raises:
            InputError: the job failed; its own one line.
        """
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
        target = self.folder / name
        if target.is_dir():
            return name
        partial = self.folder / f"{name}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        (partial / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "probe.dashboard.explorer.job", str(partial)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with (partial / "errors").open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env)
            try:
                for line in process.stdout or ():
                    told(*json.loads(line))
                code = process.wait()
            finally:
                process.kill()
        if code:
            lines = (partial / "errors").read_text(encoding="utf-8").strip().splitlines()
            shutil.rmtree(partial, ignore_errors=True)
            raise InputError(
                lines[-1].removeprefix("error: ") if lines else f"the job ended with code {code}"
            )
        if target.exists():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.rename(target)
        self._trim()
        return name

    def result(self, job: str, name: str, kinds: tuple[str, ...]) -> xr.Dataset:
        """One result of a job.

        Args:
            job: its id.
            name: "result", "words" or what else the job wrote.
            kinds: of jobs that may be meant.

        Raises:
            InputError: no such job, or no such result, or a job of another page.
        """
        import xarray as xr

        if self.kind(job) not in kinds:
            raise InputError("the job of this link is another page's: press the button to compute this one")
        folder = self._place(job) / f"{name}.zarr"
        if not folder.is_dir():
            raise InputError("this job gave nothing of the kind")
        found: xr.Dataset = xr.open_zarr(folder, consolidated=False, chunks=None).load()
        return found

    def kind(self, job: str) -> str:
        """Of what kind a job's request was.

        Raises:
            InputError: no such job.
        """
        return str(json.loads((self._place(job) / "request.json").read_text(encoding="utf-8"))["kind"])

    def has(self, job: str, name: str, kinds: tuple[str, ...]) -> bool:
        """Whether there is a job of these kinds that has this result."""
        known = bool(_ID.fullmatch(job)) and (self.folder / job / f"{name}.zarr").is_dir()
        return known and self.kind(job) in kinds

    def keep_picture(self, data: bytes) -> str:
        """Keep a dropped picture, made anew from its pixels so that nothing but a picture is kept.

        Returns:
            Its id.

        Raises:
            InputError: no picture, or one that is too large.
        """
        import io

        from PIL import Image

        from probe._pictures import read_picture

        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > 40_000_000:
                    raise InputError(
                        f"the picture has {image.width} × {image.height} pixels, expected at most 40 million"
                    )
                pixels = read_picture(image)
        except InputError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise InputError(f"this file is no picture that can be read ({type(error).__name__})") from error
        name = hashlib.sha256(data).hexdigest()[:16]
        pixels.save(self.folder / f"{name}.png")
        return name

    def picture(self, name: str) -> Path:
        """The file of a picture that was dropped.

        Raises:
            InputError: it is not here (any more).
        """
        path = self.folder / f"{name}.png"
        if not _ID.fullmatch(name) or not path.is_file():
            raise InputError("the picture of this link is not on this server any more: drop it again")
        return path

    def _place(self, job: str) -> Path:
        if not _ID.fullmatch(job) or not (self.folder / job).is_dir():
            raise InputError("this has not been computed by this server yet: press the button to compute it")
        return self.folder / job

    def _trim(self) -> None:
        done = [p for p in self.folder.iterdir() if _ID.fullmatch(p.name)]
        for old in sorted(done, key=lambda p: p.stat().st_mtime)[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
