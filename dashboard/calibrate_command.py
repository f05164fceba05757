"""`probe calibrate`: search heads for ACT on a task, say in words whether they help, and keep them in a file."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.dashboard.explain_options import Places
from probe.dashboard.failure import INTERRUPTED, say
from probe.dashboard.terminal import out, quiet_stdout, working
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import xarray as xr

    from probe.dashboard.calibrate_options import Search

_OWN = ("model", "task", "out", "html", "resume", "overwrite", "device", "json")


def calibrate(asked: Search) -> int:
    """Search, write the calibration, print what was found.

    Args:
        asked: The options.

    Returns:
        0, also when no head helps; 130 when interrupted, what was done until then is kept.
    """
    place, page = Path(asked.out), None if asked.html is None else Path(asked.html)
    journal = place.with_name(f"{place.name}.journal")
    Places(html=page).check()
    _check_places(asked, place, journal)
    given = {f.name: getattr(asked, f.name) for f in fields(asked) if f.name not in _OWN}
    parameters = {name: value for name, value in given.items() if value is not None}
    done = 0
    try:
        with quiet_stdout(), working("searching heads:") as show:
            import probe
            from probe import explainers as ex

            task = ex.read_task(asked.task)

            def step(now: int, expected: int, name: str) -> None:
                nonlocal done
                done = now
                show(now, expected, name)

            loaded = probe.load(asked.model, device=asked.device)
            result = ex.act_heads(loaded, task, step, journal, **parameters)
            words = ex.verbalization(result)
            ex.write_calibration(result, place)
    except KeyboardInterrupt:
        if done:
            say(f"{done} trials are done and kept in {journal}; the same command with --resume goes on")
        return INTERRUPTED
    _show(asked, result, words, page)
    return 0


def _check_places(asked: Search, place: Path, journal: Path) -> None:
    if place.is_dir() or not place.absolute().parent.is_dir():
        raise InputError(f"--out {place}: expected a file name in a folder that exists, such as heads.json")
    if asked.overwrite:
        journal.unlink(missing_ok=True)
    elif place.exists():
        raise InputError(f"{place} exists already: choose another name, or give --overwrite")
    if journal.exists() and not asked.resume:
        raise InputError(
            f"{journal} holds a search that was not finished: go on with --resume, or begin anew with --overwrite"
        )


def _show(asked: Search, result: xr.Dataset, words: xr.Dataset, page: Path | None) -> None:
    if page is not None:
        from probe import viz

        viz.report(result, page, title=f"probe calibrate · {Path(asked.task).name}", texts=words)
    if asked.json:
        from probe.dashboard import as_json as documents

        found = json.loads(result.attrs["calibration"])
        documents.emit({"calibration": found, "sentences": documents.statements(words), "written": asked.out})
    else:
        from probe.dashboard.render import show_head_table

        show_head_table(out(), result, [str(sentence) for sentence in words["text"].values])
    say(f"calibration written: {asked.out}")
    if page is not None:
        say(f"report written: {page}")


def under(calibration: Path | None, loaded: Any) -> AbstractContextManager[str]:
    """Run what follows under a calibration; gives a line that says so, empty without one.

    Args:
        calibration: A file that `probe calibrate` wrote, or None.
        loaded: The model.

    Raises:
        InputError: No calibration, or one of another model.
    """
    return nullcontext("") if calibration is None else _steered(calibration, loaded)


@contextmanager
def _steered(calibration: Path, loaded: Any) -> Iterator[str]:
    from probe import explainers as ex
    from probe.explainers.wording import plural

    found = ex.calibration(calibration, loaded)
    verdict = ex.read_calibration(calibration)["held_out"].get("verdict", "unknown")
    heads = plural(sum(map(len, found["heads"].values())), "head")
    if verdict != "gain":
        say(f"warning: {calibration}: no gain on held-out items was shown for {heads} (verdict: {verdict})")
    with ex.act(loaded, **found):
        yield f"computed under ACT on {heads} of {calibration.name} (sinks keep {found['beta']:g} of their weight)"
