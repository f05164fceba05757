"""Which of a model's attention modules are recorded: their towers, their layer numbers, the choice by number or by name."""

import fnmatch
from collections.abc import Sequence

import torch

from probe.errors import InputError, ModelError
from probe.taps.streams import stream_of


class Plan:
    """The attention modules of a model, sorted into towers, and which of them were asked for.

    Args:
        model: the model.
        modules: its attention modules and their names, in the model's order.
        layers: numbers of layers (of any tower), or patterns of module names (`"model.layers.1?.*"`); None for all.
        towers: names of the towers that are wanted; None for all.

    Raises:
        InputError: `layers` or `towers` names nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        modules: Sequence[tuple[str, torch.nn.Module]],
        layers: Sequence[int | str] | None = None,
        towers: Sequence[str] | None = None,
    ) -> None:
        self.streams = {name: stream_of(model, name, module) for name, module in modules}
        have = list(dict.fromkeys(stream.name for stream in self.streams.values()))
        unknown = [tower for tower in towers or () if tower not in have]
        if unknown or (towers is not None and not towers):
            raise InputError(f"towers: got {list(towers or ())}, expected some of {have}")
        self.towers = have if towers is None else [tower for tower in have if tower in towers]
        self.names = [name for name, _ in modules]
        self._numbers = {tower: self._numbered(tower, modules) for tower in have}
        self._layers, self._patterns = self._selection(layers)
        self._all = layers is None

    def _numbered(self, tower: str, modules: Sequence[tuple[str, torch.nn.Module]]) -> dict[str, int] | None:
        """The layer number of each module of a tower; None where they are numbered as they are called."""
        mine = [(name, module) for name, module in modules if self.streams[name].name == tower]
        own = [getattr(module, "layer_idx", None) for _, module in mine]
        if not all(isinstance(n, int) for n in own) or len(set(own)) != len(own):
            return None
        return {name: int(n) for (name, _), n in zip(mine, own, strict=True) if n is not None}

    def _selection(self, layers: Sequence[int | str] | None) -> tuple[set[int], list[str]]:
        numbers = {n for n in layers or () if isinstance(n, int)}
        patterns = [p for p in layers or () if isinstance(p, str)]
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in self.names):
                raise InputError(
                    f"layers: no attention module is called {pattern!r}; there are {self._listed()}"
                )
        known: set[int] = set()
        open_ended = False
        for tower in self.towers:
            numbered = self._numbers[tower]
            open_ended |= numbered is None
            known |= set() if numbered is None else set(numbered.values())
        wrong = {n for n in numbers if n < 0} if open_ended else numbers - known
        if layers is not None and (wrong or not (numbers or patterns)):
            have = f"0 to {len(self.names) - 1}" if open_ended else sorted(known)
            raise InputError(f"layers: got {list(layers)}, expected some of {have}")
        return numbers, patterns

    def _listed(self) -> str:
        return ", ".join(self.names if len(self.names) < 5 else [*self.names[:2], "…", self.names[-1]])

    def numbered(self, name: str) -> bool:
        """Whether a module's layer number is known before it is called."""
        return self._numbers[self.streams[name].name] is not None

    def number(self, name: str, called: int) -> int:
        """The layer number of a module.

        Args:
            name: the module's name.
            called: how many modules of its tower were called before it in this pass.
        """
        numbers = self._numbers[self.streams[name].name]
        return called if numbers is None else numbers[name]

    def wanted(self, name: str, layer: int) -> bool:
        """Whether a layer is to be recorded."""
        if self.streams[name].name not in self.towers:
            return False
        return self._all or layer in self._layers or any(fnmatch.fnmatchcase(name, p) for p in self._patterns)

    @property
    def expected(self) -> int:
        """How many layers a forward pass should give; more if modules without a number are called again."""
        total = 0
        for tower in self.towers:
            mine = [name for name in self.names if self.streams[name].name == tower]
            numbers = self._numbers[tower]
            if numbers is not None:
                total += sum(self.wanted(name, numbers[name]) for name in mine)
            else:
                total += len(mine) if self._all else max(1, len(self._layers) + len(self._patterns))
        return total

    def require(self, called: set[str], recorded: set[int], heard: int) -> None:
        """Check that all was called that had to be; a tower that was not used at all is left out.

        Args:
            called: names of the modules that were called.
            recorded: layer numbers that were recorded.
            heard: how many calls were heard in all.

        Raises:
            ModelError: a wanted module of a tower that was used was never called, or no tower was.
            InputError: a layer number never came.
        """
        used = {self.streams[name].name for name in called}
        missing = [
            name
            for name in self.names
            if name not in called
            and (self.streams[name].name in used or not used)
            and self._must_be_called(name)
        ]
        if missing:
            raise ModelError(
                f"{missing[0]}: its attention was never called in the forward pass ({len(missing)} of "
                f"{len(self.names)} modules); choose the layers to record (layers=…)"
            )
        unreached = self._layers - recorded
        if unreached:
            raise InputError(f"layers: {sorted(unreached)} never came; the model called {heard} layers")

    def unused(self, called: set[str]) -> list[str]:
        """Towers that were wanted, and of which no module was called."""
        used = {self.streams[name].name for name in called}
        return [tower for tower in self.towers if tower not in used]

    def _must_be_called(self, name: str) -> bool:
        if self.streams[name].name not in self.towers:
            return False
        numbers = self._numbers[self.streams[name].name]
        if self._all or numbers is not None:
            return self._all or self.wanted(name, numbers[name] if numbers is not None else -1)
        return any(fnmatch.fnmatchcase(name, p) for p in self._patterns)
