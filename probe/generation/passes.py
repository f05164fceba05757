"""All passes of one generation: heard, handed to the layers, and traced back from what was returned."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probe.call import AttentionCall
from probe.errors import InputError, ModelError
from probe.generation.running import Descent, Running
from probe.generation.steps import filled
from probe.generation.watch import Watch
from probe.taps.hf import HFTap, Site
from probe.taps.interface import Observed
from probe.taps.rules.derive import describe
from probe.taps.streams import main_stream

#: Cache implementations whose masks the model makes and attention alone reads.
_GROWING = (None, "dynamic", "offloaded")


class _Tap(HFTap):
    """The tap of a generation: a static cache is cut to what is filled before rules are derived."""

    watch: Watch

    def _take(self, site: Site, seen: Observed, lengths: tuple[int, ...] | None) -> None:
        if self.plan.streams[site.name].name in self.plan.towers:
            seen = filled(seen, self.watch.total, site.name, self.watch.shared)
        super()._take(site, seen, lengths)


class Passes:
    """Takes the calls of all passes of one generation.

    Args:
        module: the model.
        stats: names of the statistics.
        rows: heads by layer whose attention rows are kept.
        implementation: of the kernels.
        layers: numbers of layers or patterns of module names; None for all.
        config: the generation config.
        progress: called with (passes done, most passes that can come, name of the pass).
        static: whether the user gave a static cache of his own.

    Attributes:
        stream: the tower that is recorded.
        watch: what is known of the passes.
        tap: hears their attention.
        layers: what is known of each layer.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        stats: Sequence[str],
        rows: Mapping[int, Sequence[int]],
        implementation: str,
        layers: Sequence[int | str] | None,
        config: Any,
        progress: Callable[[int, int, str], None] | None,
        *,
        static: bool,
    ) -> None:
        self._stats, self._rows, self._implementation = list(stats), rows, implementation
        self.stream = main_stream(module).name
        self.watch = Watch(module, self._begin, self._descend, self._keep)
        self.tap = _Tap(
            module, self._receive, valid=self._valid, layers=layers, towers=[self.stream], passes=True
        )
        self.tap.watch = self.watch
        if config.cache_implementation not in _GROWING or static:
            self.tap._owner = None  # `generate` itself works on the masks of such caches: they stay dense
        self.layers: dict[int, Running] = {}
        self._mode = str(config.get_generation_mode().value)
        self._progress = progress
        self._check_rows()

    def story(self) -> dict[str, Any]:
        """What the record says of the generation."""
        watch = self.watch
        return {"mode": self._mode, "cache": watch.cache, "prompt": watch.prompt, "passes": watch.number + 1}

    def descent(self, ids: Tensor) -> Descent:
        """Where each position of the returned sequences was computed.

        Args:
            ids: what `generate` returned, [S, N].

        Raises:
            ModelError: the sequences are not what the passes fed.
        """
        watch = self.watch
        length = ids.shape[1] - 1
        at = torch.arange(length, device=ids.device)
        if watch.kept is None:
            number = torch.arange(ids.shape[0], device=ids.device)
            source, held = number[:, None].expand(-1, length), None
            new = torch.full_like(number, ids.shape[1] - watch.prompt)
        else:
            each = ids.shape[0] // watch.kept.shape[0]
            paths = watch.kept[:, :each].flatten(0, 1).long()
            new = (paths >= 0).sum(1)
            source = paths[:, (at - watch.prompt + 1).clamp(min=0)].clamp(min=0)
            held = [tuple(path[path >= 0].tolist()) for path in paths]
        fed = torch.cat(watch.fed, 1).to(ids.device)
        known = torch.nn.functional.pad(watch.valid(), (0, max(0, length - watch.total)))[:, :length].to(
            ids.device
        )
        valid = (at < watch.prompt + new[:, None] - 1) & ~self._after_end(ids)[:, :length]
        whole = fed.shape[1] >= length and bool((new > 0).all()) and source.shape[0] == ids.shape[0]
        if whole:
            valid &= known[source, at]
            whole = bool(((fed[source, at] == ids[:, :length]) | ~valid).all())
        if not whole or watch.number + 1 != watch.steps[-1] + 1:
            raise ModelError(
                f"generate() returned other tokens than its passes fed ({ids.shape[1]} of {fed.shape[1]}); expected the "
                "greedy search, sampling or beam search of transformers"
            )
        return Descent(source, valid, held)

    def _after_end(self, ids: Tensor) -> Tensor:
        """Whether a position of a sample that was not searched with beams lies after its end."""
        eos = self.watch.eos
        if eos is None or self.watch.kept is not None:
            return torch.zeros_like(ids, dtype=torch.bool)
        ends = torch.isin(ids, eos.to(ids.device))
        ends[:, : self.watch.prompt] = False
        return ends.cumsum(1) - ends.long() > 0

    def _check_rows(self) -> None:
        plan = self.tap.plan
        mine = [n for n in plan.names if plan.streams[n].name == self.stream]
        if all(plan.numbered(n) for n in mine):
            have = sorted(m for n in mine if plan.wanted(n, m := plan.number(n, 0)))
            wrong = [layer for layer in self._rows if layer not in have]
            if wrong:
                raise InputError(f"rows: got layers {wrong}, expected some of {have}")

    def _valid(self, group: str) -> Tensor | None:
        return self.watch.valid() if group == "tokens" else None

    def _begin(self) -> None:
        number, most = self.watch.number, self.watch.most
        if self._progress is not None and number > 0:
            self._progress(number, max(number, most), f"pass {number - 1}")

    def _descend(self, beams: Tensor) -> None:
        for running in self.layers.values():
            running.descend(beams)

    def _keep(self, hypotheses: Tensor) -> None:
        paths = [tuple(beam for beam in row if beam >= 0) for row in hypotheses.tolist()]
        for running in self.layers.values():
            running.hold({path: path[-1] for path in paths if path})

    def _receive(self, call: AttentionCall) -> None:
        watch = self.watch
        running = self.layers.get(call.layer)
        if running is None:
            told = {"rule": describe(call.spec), "backend": call.backend}
            heads = list(self._rows.get(call.layer, ()))
            running = Running(
                call.name, call.layer, self._stats, heads, watch.cached, self._implementation, told
            )
            self.layers[call.layer] = running
        running.take(call, watch)
