"""The tap for convolutional networks: maps at named modules, their gradients, and the gates that multiply maps.

Modules are read by forward hooks; where maps lie on the picture and which tensors are gates is read off the operations
themselves (see `_lineage`), so functional pools and gates without a module of their own count too. The model runs once.
"""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe import placement
from probe.errors import InputError, ModelError
from probe.taps.cnn.gates import Gate, GateFinder, from_output
from probe.taps.cnn.receptive import Grid, Receptive
from probe.taps.hooks import Hooks
from probe.taps.lineage import Stack, Step, Watch, unfused

LAST_CONV = "last-conv"


@dataclass(frozen=True, eq=False)
class MapOutput:
    """What one module gave.

    Attributes:
        name: the module's name in the model.
        kind: the module's class.
        values: its output, a copy; taken to be [B, C, H, W] unless the grid says that channels are last.
        grid: where its cells lie on the picture; None if that cannot be told.
        edge: the point of autograd's graph where this output was made; None without gradients.
    """

    name: str
    kind: str
    values: Float[Tensor, "B C H W"]
    grid: Grid | None
    edge: Any


class MapTap:
    """Reads maps and gates of one forward pass while the context is open.

    Args:
        model: any network of torch modules.
        picture: what is given to it, [B, C, H, W]: the very tensor.
        layers: names or patterns of modules ("layer4.*"), or "last-conv": the last convolution that was called whose map
            has more than one cell and that makes no gate.
        gates: "auto" for the gates found by structure (see `_gates`), or names of modules whose output is a gate.
        gradients: keep the points of autograd's graph.

    Raises:
        InputError: `layers` or `gates` names nothing.
        ModelError: the model cannot be heard (see `placement.refuse`).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        picture: Tensor,
        *,
        layers: str | Sequence[str],
        gates: str | Sequence[str] = "auto",
        gradients: bool = False,
    ) -> None:
        placement.refuse(model)
        self._model, self._gradients = model, gradients
        self._modules = dict(unfused(model))
        asked = [layers] if isinstance(layers, str) else list(layers)
        self._last_conv = LAST_CONV in asked
        self._layers = self._named(asked, "layers")
        self._gates: dict[str, bool] = {}
        if gates != "auto" and gates:
            self._gates = self._named([gates] if isinstance(gates, str) else gates, "gates")
        self._receptive = Receptive(picture)
        self._stack = Stack(model)
        self._finder = GateFinder(self._receptive.marks, self._stack) if gates == "auto" else None
        self._heard: dict[str, MapOutput] = {}
        self._convolutions: dict[str, MapOutput] = {}
        self._own_gates: list[Gate] = []
        #: Modules that a pattern named and that gave no map.
        self.without_map: list[str] = []

    def _named(self, asked: Sequence[str], option: str) -> dict[str, bool]:
        """Names of modules → whether the name was given in full."""
        found: dict[str, bool] = {}
        for pattern in asked:
            if pattern == LAST_CONV and option == "layers":
                continue
            if pattern in self._modules and pattern:
                found[pattern] = True
                continue
            matches = [n for n in self._modules if n and fnmatch.fnmatchcase(n, pattern)]
            if not matches:
                names = [n for n in self._modules if n]
                listed = ", ".join(names if len(names) < 9 else [*names[:4], "…", *names[-3:]])
                raise InputError(f"{option}: no module is called {pattern!r}; there are {listed}")
            found |= {name: found.get(name, False) for name in matches}
        if not asked:
            raise InputError(f"{option}: got nothing, expected names or patterns of modules")
        return found

    def __enter__(self) -> "MapTap":
        with Hooks() as hooks:
            hooks.enter_context(self._stack)
            for name, module in self._modules.items():
                convolution = self._last_conv and isinstance(module, torch.nn.Conv2d)
                if name in self._layers or convolution:
                    hooks.after(module, self._hear(name, convolution))
                if name in self._gates:
                    hooks.after(module, self._hear_gate(name))
            hooks.enter_context(Watch(self._follow))
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _follow(self, step: Step) -> None:
        self._receptive.follow(step)
        if self._finder is not None:
            self._finder.follow(step)

    def _hear(self, name: str, convolution: bool) -> Callable[..., None]:
        def hear(module: torch.nn.Module, _args: Any, output: Any) -> None:
            made = self._output(name, module, output)
            if convolution and made is not None:
                self._convolutions.pop(name, None)  # so that the last call stands last
                self._convolutions[name] = made
            if name not in self._layers:
                return
            if name in self._heard:
                raise ModelError(
                    f"{name}: called more than once in one forward pass; choose a module that is called once (layers=…)"
                )
            if made is None:
                if self._layers[name]:
                    raise InputError(f"{name}: its output is {_shape(output)}, expected a map [B, C, H, W]")
                self.without_map.append(name)
                return
            self._heard[name] = made

        return hear

    def _output(self, name: str, module: torch.nn.Module, output: Any) -> MapOutput | None:
        if not isinstance(output, Tensor) or output.ndim != 4 or not output.is_floating_point():
            return None
        grid = self._receptive.of(output)
        edge = None
        if self._gradients and output.requires_grad:
            edge = torch.autograd.graph.get_gradient_edge(output)
        values = output.detach().clone()
        return MapOutput(name, type(module).__name__, channels_second(values, grid), grid, edge)

    def _hear_gate(self, name: str) -> Callable[..., None]:
        def hear(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            grid = self._receptive.of(output) if isinstance(output, Tensor) else None
            self._own_gates.append(from_output(name, output, grid))

        return hear

    @property
    def gates(self) -> list[Gate]:
        """The gates of the pass, in the order of their use."""
        return self._own_gates if self._finder is None else self._finder.found

    @property
    def outputs(self) -> list[MapOutput]:
        """The maps of the pass, in the order of the calls.

        Raises:
            InputError: a module that was asked for was not called, or nothing gave a map.
        """
        missing = [n for n, in_full in self._layers.items() if in_full and n not in self._heard]
        if missing:
            raise InputError(f"layers: {missing[0]} was not called in the forward pass")
        found = list(self._heard.values())
        if self._last_conv:
            makers = {gate.convolution for gate in self.gates}
            inside = tuple(f"{name}." for name in self._gates)
            maps = [
                c
                for c in self._convolutions.values()
                if c.values.shape[-2] * c.values.shape[-1] > 1
                and c.name not in makers
                and c.name not in self._gates
                and not (inside and c.name.startswith(inside))
            ]
            if not maps:
                raise InputError(
                    "layers: no Conv2d gave a map of more than one cell; name a module (layers=…)"
                )
            found += [maps[-1]] if maps[-1].name not in self._heard else []
        if not found:
            raise InputError(f"layers: none of {len(self.without_map)} modules named gave a map [B, C, H, W]")
        return found


def channels_second(x: Tensor, grid: Grid | None) -> Tensor:
    """[B, C, H, W], where a network keeps channels last."""
    return x if grid is None else x.movedim(grid.at, (-2, -1))


def _shape(output: Any) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__
