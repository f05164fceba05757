"""The context that `ex.act` gives: opening and closing an edit, and its report."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe._inputs import parts
from probe.edits import Edit, Editing
from probe.errors import InputError
from probe.explainers._act.change import Calibration
from probe.explainers._act.rule import Columns, Options
from probe.explainers.kinds import check_result
from probe.kernels.launch import choose


class Steering:
    """A calibrated model: `with act(…) as steering: …`, then `steering.report()`. It may be opened again.

    Args:
        model: what `probe.load` gave, or a bare module.
        heads: {layer: heads} or (layer, head) pairs.
        options: what is done.
        prompt: how many first tokens decide on the sinks; None for the whole first pass.
        tower: whose layers are meant; None for the model's own text.
        implementation: of the kernels.

    Raises:
        InputError: heads or options that cannot be used.
        ModelError: a model that cannot be steered exactly.
    """

    def __init__(
        self,
        model: Any,
        heads: Any,
        options: Options,
        prompt: int | Sequence[int] | None,
        tower: str | None,
        implementation: str,
    ) -> None:
        module, _ = parts(model)
        self.heads = _by_layer(heads)
        if options.targets == "no_first" and not options.protect_first:
            raise InputError(
                "targets: got 'no_first' with protect_first=False: the first token would be kept and shrunk; give one of them"
            )
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        try:
            choose(implementation, torch.empty(0, device=device))
        except ValueError as error:
            raise InputError(str(error)) from error
        self.declared: dict[str, Any] = {}
        self._model = str(getattr(model, "name", None) or type(module).__name__)
        self._options = options
        self._calibration = Calibration(self.heads, options, implementation)
        self.prompt = prompt
        name = (
            f"act({sum(map(len, self.heads.values()))} heads, beta={options.beta:g}, alpha={options.alpha:g})"
        )
        edit = Edit(name, self.heads, self._calibration.change, self._calibration.change_map)
        self._editing = Editing(module, edit, tower) if self.heads else None

    def __enter__(self) -> "Steering":
        if self._editing is not None:
            self._editing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._editing is not None:
            self._editing.__exit__(kind, error, trace)

    @property
    def prompt(self) -> int | Sequence[int] | Tensor | None:
        """How many first tokens of each sample decide on its sinks, for the sequences to come; None: the whole first pass."""
        return self._prompt

    @prompt.setter
    def prompt(self, value: int | Sequence[int] | Tensor | None) -> None:
        if value is not None and self._options.decoding != "frozen":
            raise InputError(
                "prompt: it decides once, and decoding='running' decides anew; give decoding='frozen'"
            )
        self._prompt = value
        self._calibration.prompt = value if value is None else torch.as_tensor(value)

    def report(self) -> xr.Dataset:
        """What happened in the last sequence (a generation, or one pass without a cache).

        Returns:
            head_table over (layer, head), NaN where a head was not calibrated: sinks (in force at the end, mean over samples),
            freed (mean mass that a row's sinks gave up), to_first (share of it that the first token got), unchanged (share of
            the rows that stayed as they were). Per calibrated head: row_freed, row_to_first, row_sinks (calibrated, sample,
            query), NaN at padding; sink (calibrated, sample, key), with the coordinates calibrated_layer and calibrated_head.

        Raises:
            InputError: nothing was computed under the calibration yet.
        """
        found = {layer: self._calibration.columns(layer) for layer in self.heads}
        known = {layer: columns for layer, columns in found.items() if columns is not None and columns.rows}
        if not known:
            raise InputError(
                "report: no attention came while the calibration was open; run the model inside the context"
            )
        result = _table(known, self.heads, max(self._calibration.n_heads.values()))
        result.attrs = {"unit": "1", "value": "freed", "model": self._model, **self.declared}
        check_result(result)
        return result


def _by_layer(heads: Any) -> dict[int, tuple[int, ...]]:
    """{layer: heads}, rising and each once."""
    wrong = InputError(
        f"heads: got {str(heads)[:80]!r}, expected {{layer: [heads]}} or (layer, head) pairs of whole numbers from 0 on"
    )
    found: dict[int, set[int]] = {}
    if not isinstance(heads, (Mapping, Iterable)):
        raise wrong
    try:
        if isinstance(heads, Mapping):
            pairs = [(layer, head) for layer, some in heads.items() for head in some]
        else:
            pairs = [(layer, head) for layer, head in heads]
        for layer, head in pairs:
            found.setdefault(operator.index(layer), set()).add(operator.index(head))
    except (TypeError, ValueError):
        raise wrong from None
    if any(layer < 0 or min(some) < 0 for layer, some in found.items()):
        raise wrong
    return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}


def _table(known: Mapping[int, Columns], heads: Mapping[int, tuple[int, ...]], n_heads: int) -> xr.Dataset:
    at = [(layer, head) for layer in known for head in heads[layer]]
    length = max(columns.length for columns in known.values())
    rows, sinks = [], []
    for columns in known.values():
        passes = torch.cat(columns.rows, 3).cpu().float()
        rows.append(torch.nn.functional.pad(passes, (0, length - passes.shape[3]), value=torch.nan))
        flags = columns.sinks.cpu()
        sinks.append(torch.nn.functional.pad(flags, (0, length - flags.shape[2])))
    row = torch.cat(rows, 1).transpose(0, 1).numpy()  # calibrated, sample, what, query
    sink = torch.cat(sinks, 1).transpose(0, 1).numpy()
    freed, to_first, count = (row[:, :, what] for what in range(3))
    there = ~np.isnan(freed)
    total = np.maximum(there.sum((1, 2)), 1)
    given = np.nansum(freed, (1, 2), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        means = {
            "sinks": sink.sum(2).mean(1),
            "freed": given / total,
            "to_first": np.nansum(to_first, (1, 2), dtype=np.float64) / given,
            "unchanged": ((freed == 0) & there).sum((1, 2)) / total,
        }
    layers = list(known)
    values = {name: np.full((len(layers), n_heads), np.nan) for name in means}
    for place, (layer, head) in enumerate(at):
        for name, mean in means.items():
            values[name][layers.index(layer), head] = mean[place]
    over = ("calibrated", "sample", "query")
    return xr.Dataset(
        {
            **{name: (("layer", "head"), x) for name, x in values.items()},
            "row_freed": (over, freed),
            "row_to_first": (over, to_first),
            "row_sinks": (over, np.where(there, count, np.nan)),
            "sink": (("calibrated", "sample", "key"), sink),
        },
        coords={
            "layer": layers,
            "head": np.arange(n_heads),
            "calibrated_layer": ("calibrated", [layer for layer, _ in at]),
            "calibrated_head": ("calibrated", [head for _, head in at]),
        },
    )
