"""The run: the gate over everything first, then times, kept in the document as they come."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from probe.dashboard.bench import case as cases
from probe.dashboard.bench.clock import measure
from probe.dashboard.bench.floor import Rates, rates
from probe.dashboard.bench.gate import LENGTH, Truth, judge, judge_peer
from probe.dashboard.bench.peers import Peer, UnavailableError, all_peers
from probe.dashboard.bench.rows import Row, all_rows
from probe.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from probe.dashboard.bench.case import Case
    from probe.dashboard.bench.options import Plan

    Step = Callable[[int, int, str], None]
    Document = dict[str, Any]


class Bench:
    """One run.

    Args:
        plan: What to measure.
        document: From `facts.begin`; gate, measurements and skipped are added to it as they come.
        step: Told of progress: done, expected, name.
    """

    def __init__(self, plan: Plan, document: Document, step: Step) -> None:
        self.plan, self.document, self.step = plan, document, step
        self.rows = all_rows()
        self.peers = all_peers(plan.device, flex=plan.flex)
        self.left_out: set[tuple[str, str]] = set()
        entries = len(self.rows) + len(self.peers)
        self.expected = len(plan.patterns) * (1 + len(plan.lengths) * entries)
        self.done = 0

    def run(self) -> None:
        """Gate, then times.

        Raises:
            ProbeError: A statistic is wrong; nothing was timed then.
        """
        with torch.no_grad():
            for pattern in self.plan.patterns:
                self._tell(f"gate, {pattern}")
                self._gate(pattern)
            limits = rates(self.plan)
            self.document["rates"] = asdict(limits)
            for pattern in self.plan.patterns:
                for n in self.plan.lengths:
                    self._times(cases.make(self.plan, pattern, n), limits)

    def _tell(self, name: str) -> None:
        self.step(self.done, self.expected, name)
        self.done += 1

    def _gate(self, pattern: str) -> None:
        case = cases.make(self.plan, pattern, LENGTH)
        truth, plain = Truth(case, torch.float64), Truth(case, torch.float32)
        for row in self.rows:
            try:
                results = row.make(case)()
            except ValueError as error:
                self._leave_out(pattern, row.name, f"refused: {error}")
                continue
            except Exception as error:  # noqa: BLE001 - one broken kernel does not take the others' times away
                self._leave_out(pattern, row.name, f"failed: {_first_line(error)}")
                continue
            for name, got in results.items():
                verdict = judge(name, got, truth, plain)
                if not verdict.passed:
                    raise ProbeError(
                        f"bench: {name} of “{row.label}” is wrong: error {verdict.error:.2g}, allowed {verdict.allowed:.2g} "
                        f"({pattern}, {self.document['shape']['dtype']}, {LENGTH} tokens, against float64); no time is printed"
                    )
                place = {"pattern": pattern, "n": LENGTH, "name": row.name, "statistic": name}
                self.document["gate"].append(place | asdict(verdict))
        for peer in self.peers:
            self._check_peer(peer, case, truth)

    def _check_peer(self, peer: Peer, case: Case, truth: Truth) -> None:
        """A peer that fails or computes something else is left out of this pattern, and said to be."""
        try:
            verdict = judge_peer(peer.gives, peer.make(case)(), truth)
        except UnavailableError as error:
            self._leave_out(case.pattern, peer.name, str(error))
        except Exception as error:  # noqa: BLE001 - other people's code may fail in any way; the run goes on and says so
            self._leave_out(case.pattern, peer.name, _first_line(error))
        else:
            if not verdict.passed:
                why = f"its result is another one: error {verdict.error:.2g}, allowed {verdict.allowed:.2g}"
                self._leave_out(case.pattern, peer.name, why)

    def _leave_out(self, pattern: str, name: str, why: str, n: int | None = None) -> None:
        self.document["skipped"].append({"pattern": pattern, "n": n, "name": name, "why": why})
        if n is None:
            self.left_out.add((pattern, name))

    def _times(self, case: Case, limits: Rates) -> None:
        entries: list[Row | Peer] = [*self.rows, *self.peers]
        for entry in entries:
            self._tell(f"{case.pattern}, {case.n:,} tokens: {entry.label}")
            if (case.pattern, entry.name) in self.left_out:
                continue
            try:
                timing = measure(entry.make(case), case.q.device, self.plan.budget, self.plan.repeats)
            except UnavailableError as error:
                self._leave_out(case.pattern, entry.name, str(error), case.n)
                continue
            except Exception as error:  # noqa: BLE001 - out of memory, or out of the device's resources at this length
                self._leave_out(case.pattern, entry.name, f"failed: {_first_line(error)}", case.n)
                continue
            pairs = entry.side(case.n) ** 2 if isinstance(entry, Row) and entry.side else case.pairs
            pairs_of_all = pairs * case.q.shape[1]
            flops = 2 * entry.products * pairs_of_all * case.q.shape[3]
            self.document["measurements"].append(
                {
                    "pattern": case.pattern,
                    "n": case.n,
                    "name": entry.name,
                    "label": entry.label,
                    "kind": "statistic" if isinstance(entry, Row) else "peer",
                    **asdict(timing),
                    "pairs": pairs,
                    "flops": flops,
                    "tflops": flops / timing.seconds / 1e12,
                    "floor_seconds": limits.floor(flops, entry.sweeps * pairs_of_all),
                    "ratio": {},
                }
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
