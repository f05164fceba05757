"""Trials: a part of the task run with chosen heads calibrated, one model load for all, each trial done once."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from probe.explainers._act_heads.below import Below, blocks_of, layout_of
from probe.explainers._act_heads.journal import Heads, Journal, Outcome, joined
from probe.explainers._tasks.items import Task
from probe.explainers._tasks.score import Scorer, losses, predictions

Steer = Callable[[Heads], AbstractContextManager[object]]


@dataclass
class Cost:
    """What the trials took: passes of one item through the model, the layers that they computed, and seconds."""

    trials: int = 0
    passes: int = 0
    layers: int = 0
    seconds: float = 0.0


class Trials:
    """Runs and remembers trials.

    Args:
        loaded: from `probe.load`.
        parts: the parts of the task by name; a trial runs one of them.
        steer: gives the context under which a trial of some heads runs.
        journal: keeps outcomes.
        scoring: normalise and batch_size of the scorer.
        progress: called with (done, expected, name) after each trial.
    """

    def __init__(
        self,
        loaded: Any,
        parts: Mapping[str, Task],
        steer: Steer,
        journal: Journal,
        scoring: Mapping[str, Any],
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self._scorers = {name: Scorer(loaded, part, **scoring) for name, part in parts.items()}
        self._steer, self.journal, self._progress = steer, journal, progress
        first = next(iter(self._scorers.values()))
        self.layout = layout_of(first.model, first.pad)
        self.cost, self.expected, self.whole_passes = Cost(), 0, ""
        self._blocks = self._usable_blocks(first)
        self._below: dict[str, Below] = {}
        self._plain: dict[str, list[list[float]]] = {}  # scores of the first batch

    def run(self, sets: Sequence[Heads], parts: Sequence[str]) -> list[Outcome]:
        """The outcomes of sets of heads over some parts together, in the order of `sets`; () is the plain model."""
        todo = [(heads, part) for part in parts for heads in dict.fromkeys(sets)]
        todo = [one for one in todo if self.journal.get(*one) is None]
        self.expected = max(self.expected, self.cost.trials + len(todo))
        for heads, part in sorted(todo, key=lambda one: (parts.index(one[1]), min(one[0], default=(-1, 0)))):
            self.journal.put(heads, part, self._trial(heads, part))
            self._tell(heads)
        known = [[self.journal.get(heads, part) for part in parts] for heads in sets]
        return [joined([outcome for outcome in row if outcome is not None]) for row in known]

    def _trial(self, heads: Heads, part: str) -> Outcome:
        scorer, begun = self._scorers[part], time.perf_counter()
        level = self._level(heads, part)
        if not heads:
            scores = scorer.scores()
        elif level:
            below = self._at(part)
            with below.running(), self._steer(heads):
                scores = scorer.scores(before=below.at)
        else:
            with self._steer(heads):
                scores = scorer.scores()
        items = len(scorer.answers)
        self.cost.trials += 1
        self.cost.passes += items
        self.cost.layers += items * (len(self.layout) - level)
        self.cost.seconds += time.perf_counter() - begun
        return Outcome(losses(scores, scorer.answers), predictions(scores) == scorer.answers)

    def _tell(self, heads: Heads) -> None:
        if self._progress is not None:
            named = (
                ", ".join(f"layer {layer} head {head}" for layer, head in heads[:1]) or "the model as it is"
            )
            more = f" and {len(heads) - 1} more" if len(heads) > 1 else ""
            self._progress(self.cost.trials, max(self.expected, self.cost.trials), named + more)

    def _usable_blocks(self, scorer: Scorer) -> list[Any] | None:
        if not all(s.one_token for s in self._scorers.values()):
            self.whole_passes = "answers of several tokens need the cache of all layers"
            return None
        found = blocks_of(scorer.model, [name for name, _ in self.layout.values()])
        if found is None or list(self.layout) != list(range(len(self.layout))):
            self.whole_passes = "the model's layers do not stand in one list"
            return None
        return found

    def _level(self, heads: Heads, part: str) -> int:
        """The layer from which a trial has to be computed; 0 where only whole passes are exact."""
        level = min((layer for layer, _ in heads), default=0)
        if not level or self._blocks is None:
            return 0
        below, scorer = self._at(part), self._scorers[part]
        if below.level == level:
            return level
        below.rise(level)
        if part not in self._plain:
            self._plain[part] = scorer.batch(0)
        with below.running():
            below.at(0)
            again = scorer.batch(0)
        if again == self._plain[part]:
            return level
        self._blocks = None
        self._below.clear()
        self.whole_passes = f"a pass from layer {level} on did not give the model's own scores bit by bit"
        return 0

    def _at(self, part: str) -> Below:
        if part not in self._below:
            scorer = self._scorers[part]
            self._below[part] = Below(self._blocks or (), len(scorer.batches), scorer.batch)
        return self._below[part]


def act_on(loaded: Any, options: Mapping[str, Any]) -> Steer:
    """Contexts of `ex.act` with these options; the plain model for no heads."""
    from probe.explainers._act import act

    def steer(heads: Heads) -> AbstractContextManager[object]:
        return act(loaded, heads, **options, decoding="frozen") if heads else nullcontext()

    return steer
