"""Running a model from one of its layers on: what the layers below gave is kept and handed on, not computed again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Below:
    """What the blocks below a level gave, batch by batch, and runs that start there.

    A block's `forward` is replaced while a run lasts and is as before afterwards, whatever happens. Whether a run from a
    level gives the scores of the whole model bit by bit is for the caller to check (`Trials` does, at every level).

    Args:
        blocks: the layers' blocks in their order.
        batches: how many batches there are.
        run: runs the plain model over one batch.
    """

    def __init__(self, blocks: Sequence[nn.Module], batches: int, run: Callable[[int], object]) -> None:
        self.level = 0
        self._blocks, self._batches, self._run = blocks, batches, run
        self._kept: list[Any] = []
        self._current = 0

    def rise(self, level: int) -> None:
        """Keep what the blocks below `level` give: from the level kept so far if that is lower, else from the start."""
        if level < self.level:
            self.level, self._kept = 0, []
        if level == self.level:
            return
        kept: list[Any] = []

        def reached(_module: nn.Module, _inputs: object, output: object) -> None:
            kept.append(output)
            raise _Reached

        with self.running():
            handle = self._blocks[level - 1].register_forward_hook(reached)
            try:
                for batch in range(self._batches):
                    self.at(batch)
                    self._until_reached(batch)
            finally:
                handle.remove()
        self.level, self._kept = level, kept

    def at(self, batch: int) -> None:
        """The next pass runs this batch."""
        self._current = batch

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts, passes start at the level."""
        low = self._blocks[: self.level]
        before = [block.__dict__.get("forward") for block in low]
        try:
            for block in low:
                block.forward = self._hand_on
            yield
        finally:
            for block, forward in zip(low, before, strict=True):
                block.__dict__.pop("forward", None)
                if forward is not None:
                    block.forward = forward

    def _hand_on(self, *_: object, **__: object) -> Any:
        return self._kept[self._current]

    def _until_reached(self, batch: int) -> None:
        try:
            self._run(batch)
        except _Reached:
            return


class _Reached(Exception):
    """The pass has given what it was run for."""


def blocks_of(model: nn.Module, attention: Sequence[str]) -> list[nn.Module] | None:
    """The block around each attention module: its nearest ancestor that stands in a list of modules.

    Args:
        model: the model.
        attention: names of its attention modules, in the order of layers.

    Returns:
        A block per name, all of one list and different; None where the model is not built so.
    """
    modules = dict(model.named_modules())
    found: list[nn.Module] = []
    lists = set()
    for name in attention:
        parts = name.split(".")
        places = [
            i
            for i in range(len(parts) - 1, 0, -1)
            if isinstance(modules.get(".".join(parts[:i])), nn.ModuleList)
        ]
        if not places:
            return None
        lists.add(".".join(parts[: places[0]]))
        found.append(modules[".".join(parts[: places[0] + 1])])
    whole = len(lists) == 1 and len(modules[next(iter(lists))]) == len(found)
    return found if whole and len({id(block) for block in found}) == len(found) else None


def layout_of(model: nn.Module, pad: int) -> dict[int, tuple[str, int]]:
    """Layer → (name of its attention module, number of heads), of the model's own text; found by one short pass.

    Args:
        model: a language model.
        pad: any token id.
    """
    from probe._inputs import device_of, run
    from probe.taps import tap_of
    from probe.taps.streams import main_stream

    found: dict[int, tuple[str, int]] = {}

    def receive(call: Any) -> None:
        found[call.layer] = (call.name, call.q.shape[1])

    with torch.no_grad(), tap_of(model, receive, towers=[main_stream(model).name]):
        run(model, {"input_ids": torch.full((1, 2), pad, device=device_of(model))})
    return dict(sorted(found.items()))
