"""`probe capture --jsonl`: many inputs through one model, summed up per layer and head, resumable after a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.dashboard.capture_request import layers_of, stats_of
from probe.dashboard.failure import FAILED, INTERRUPTED, say
from probe.dashboard.terminal import clean, out, quiet_stdout, working

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

_MOST_NAMED = 10


def corpus(
    model: str,
    jsonl: Path,
    folder: Path,
    stats: str,
    *,
    layers: str | None,
    batch: int,
    keep_records: bool,
    resume: bool,
    on_error: str,
    device: str,
    as_json: bool,
    calibration: Path | None = None,
) -> int:
    """Capture every line of a file and print the report of the run.

    Args:
        model: Name for `probe.load`.
        jsonl: A JSON object a line: `text` or `input_ids`, perhaps `id`, other fields as labels.
        folder: Of the run.
        stats: Names, joined by commas.
        layers: Numbers or patterns of module names, joined by commas; None for all.
        batch: Inputs that run together.
        keep_records: Keep every input's own record.
        resume: Go on with a run that was killed.
        on_error: `stop` or `skip`.
        device: `auto`, `cpu`, `cuda`, …
        as_json: Print JSON instead of a table.
        calibration: What `probe calibrate` wrote, to run the model under ACT.

    Returns:
        0; 1 if an input's record failed its own checks; 130 when interrupted, what was done until then is kept.
    """
    from probe.corpus import capture_corpus, read_jsonl

    inputs = read_jsonl(jsonl)
    done = 0
    try:
        with quiet_stdout(), working(f"capturing {len(inputs)} inputs:") as show:

            def step(now: int, expected: int, name: str) -> None:
                nonlocal done
                done = now
                show(now, expected, name)

            import probe
            from probe.dashboard.calibrate_command import under

            loaded = probe.load(model, device=device)
            with under(calibration, loaded):
                tree = capture_corpus(
                    loaded,
                    inputs,
                    out=folder,
                    stats=stats_of(stats),
                    layers=layers_of(layers),
                    batch=batch,
                    keep_records=keep_records,
                    resume=resume,
                    on_error=on_error,
                    progress=step,
                )
    except KeyboardInterrupt:
        say(
            f"{done} of {len(inputs)} inputs are done and kept in {folder}; the same command with --resume goes on"
        )
        return INTERRUPTED
    report = dict(tree.attrs["report"])
    if as_json:
        from probe.dashboard.as_json import emit

        emit({"corpus": str(folder), "model": tree.attrs["model"], "stats": tree.attrs["stats"], **report})
    else:
        _show(out(), folder, report)
    return _ended(report)


def _show(console: Console, folder: Path, report: dict[str, Any]) -> None:
    from rich.table import Table

    speed, worst = report["tokens_per_second"], report["worst"]
    share = (
        "beyond any tolerance"
        if worst["of_tolerance"] is None
        else f"{worst['of_tolerance']:.2g} of its tolerance"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    for name, value in (
        ("inputs", f"{report['done']:,} of {report['inputs']:,}"),
        ("tokens", f"{report['tokens']:,}"),
        ("seconds", f"{report['seconds']:.2f}"),
        ("tokens/s", "–" if speed is None else f"{speed:,.0f}"),
        ("passed all checks", f"{report['passed']:,} of {report['done']:,}"),
        ("worst check", f"{worst['check']}, input {clean(worst['id'])}: {share}"),
        ("skipped", f"{len(report['failures']):,}"),
    ):
        table.add_row(name, value)
    console.print(f"{folder}:")
    console.print(table)
    for one in report["failures"][:_MOST_NAMED]:
        console.print(f"  {clean(one['where'])} ({clean(one['id'])}): {clean(one['error'])}", style="dim")
    if len(report["failures"]) > _MOST_NAMED:
        console.print(
            f"  and {len(report['failures']) - _MOST_NAMED} more; report.json lists all", style="dim"
        )


def _ended(report: dict[str, Any]) -> int:
    if report["failures"]:
        say(f"warning: {len(report['failures'])} of {report['inputs']} inputs were skipped and are in no sum")
    if not report["not_passed"]:
        return 0
    named = ", ".join(clean(name) for name in report["not_passed"][:_MOST_NAMED])
    say(
        f"error: {len(report['not_passed'])} inputs failed their own checks ({named}); do not rely on sums they are in"
    )
    return FAILED
