"""`probe bench` from the options to the exit code: run, then show what there is, whole or not."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from probe.dashboard.bench.options import check_target, resolve
from probe.dashboard.failure import FAILED, INTERRUPTED, say
from probe.dashboard.terminal import quiet_stdout, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from probe.dashboard.bench.options import Plan, Request


def bench(request: Request) -> int:
    """Measure and show.

    Args:
        request: The options.

    Returns:
        0; 1 when a statistic failed somewhere, the others are shown; or 130 when interrupted: what was measured until then is
        shown and said to be partial.

    Raises:
        InputError: An option makes no sense here; nothing was run.
        ProbeError: A statistic is wrong; nothing is shown.
    """
    figure, numbers = check_target(request.html), check_target(request.json)
    plan = resolve(request)
    from probe.dashboard.bench.facts import begin
    from probe.dashboard.bench.summary import complete

    document = begin(plan)
    begun = time.perf_counter()
    try:
        with quiet_stdout(), working("bench:") as step:
            _measure(plan, document, step)
        document["partial"], document["why_partial"] = False, None
    except KeyboardInterrupt:
        document["why_partial"] = "interrupted"
    document["wall_seconds"] = time.perf_counter() - begun
    complete(document)
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    if numbers is not None:
        numbers.write_text(text, encoding="utf-8")
    if figure is not None:
        from probe.viz._bench import write_bench

        write_bench(document, figure)
    _show(document, text if request.json == "-" else None)
    for target in (numbers, figure):
        if target is not None:
            say(f"written: {target}")
    if document["partial"]:
        return INTERRUPTED
    from probe.dashboard.bench.rows import all_rows

    own = {row.name for row in all_rows()}
    broken = own & {one["name"] for one in document["skipped"] if one["why"].startswith("failed")}
    if broken:
        say(f"error: bench: {', '.join(sorted(broken))} failed somewhere, see what was left out")
    return FAILED if broken else 0


def _show(document: dict[str, Any], text: str | None) -> None:
    if text is None:
        from probe.dashboard.bench.show import show

        show(document)
        return
    import sys

    sys.stdout.write(text)
    sys.stdout.flush()


def _measure(plan: Plan, document: dict[str, Any], step: Callable[[int, int, str], None]) -> None:
    from probe.dashboard.bench.run import Bench

    Bench(plan, document, step).run()
    if not plan.capture:
        return
    from probe.dashboard.bench import snapshot
    from probe.errors import ProbeError

    step(0, 1, f"capture of {snapshot.MODEL} beside its forward")
    try:
        document["capture"] = snapshot.beside_forward(plan.device, plan.repeats or 3)
    except (ProbeError, ImportError) as error:
        why = str(error).strip() or type(error).__name__
        document["skipped"].append({"pattern": "causal", "n": snapshot.LENGTH, "name": "capture", "why": why})
