"""From calls of attention to statistics, checks and layers of a record."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe._later import Later
from probe.call import AttentionCall, MapCall
from probe.deepzoom.kept import Kept
from probe.errors import ModelError
from probe.kernels.sampled import sampled_columns
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import map_statistics
from probe.kernels.visible import visible_counts
from probe.positions import Positions, everywhere, numbered
from probe.record import Check
from probe.record.writer import Writer
from probe.stats import SAMPLED
from probe.taps.rules.derive import describe
from probe.validity import Report

Array = np.ndarray[Any, Any]
#: Every head of every layer is kept.
ALL_HEADS: Mapping[int, Sequence[int]] = {}
Call = AttentionCall | MapCall
#: What the places of a group are where nothing is known but their number.
_ROLES = {"patches": "patch", "frames": "frame"}
#: Statistics that have no meaning between two different sequences, and those that need q and k.
_SAME_AXIS = ("distance",)
_FROM_SCORES = ("lse", "pooled", *SAMPLED)
#: Blocks of queries that a sample is drawn in: about so many, of a multiple of so many queries.
_DRAWN, _BLOCK = 16, 128


class Recorder:
    """Turns calls into statistics, checks and layers of the record.

    Args:
        stats: names of the statistics.
        implementation: of the kernels.
        positions: what is known of the input's positions; what is not, is added as calls come.
        progress: called with (layers done, layers expected, module name).
        grid: cells of the pooled map, if it is asked for.
        keep: heads whose q, k and v are kept, by layer; `ALL_HEADS`, or None to keep none.
        sampled: share of the query blocks that estimates rest on, and the seed of the draw.

    A context: inside, layers are written by a thread of their own while the model goes on; a clean exit waits for them.
    """

    def __init__(
        self,
        stats: Sequence[str],
        implementation: str,
        positions: Mapping[str, Positions],
        progress: Callable[[int, int, str], None] | None = None,
        *,
        grid: tuple[int, int] = (512, 512),
        keep: Mapping[int, Sequence[int]] | None = None,
        sampled: tuple[float, int] | None = None,
    ) -> None:
        self._sampled = sampled
        self.stats = list(stats)
        self.implementation = implementation
        self.positions = dict(positions)
        self.expected = 0
        self.target: Writer
        self._progress = progress
        self._grid = grid
        self._keep = keep
        self._done = 0
        self._counts: dict[tuple[object, ...], tuple[dict[str, Array], object]] = {}
        self._heads: dict[str, int] = {}
        self._later: Later | None = None

    def __enter__(self) -> "Recorder":
        self._later = Later()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        later, self._later = self._later, None
        if later is not None:
            later.close(abandon=kind is not None)

    def receive(self, call: Call) -> None:
        """Take one call: compute its statistics, check them, write the layer.

        Raises:
            ModelError: its shape does not fit the tower, or its rules cannot be computed.
        """
        self._check_shape(call)
        self._done += 1
        if not self.target.has(call.stream, call.layer):
            self._record(call)
        if self._progress is not None:
            self._progress(self._done, max(self.expected, self._done), call.name)

    def _record(self, call: Call) -> None:
        names = self._names(call)
        found = self._from_map(call, names) if isinstance(call, MapCall) else self._from_scores(call, names)
        values = {name: _numpy(x) for name, x in found.items()}
        counts = self._visible(call)
        apart: list[Callable[[], Check]] = []
        report = Report()
        report.layer(
            call,
            {name: x for name, x in values.items() if name != "pooled"},
            counts["keys_seen"],
            self.implementation,
            query_valid=self.positions[call.queries].valid,
            key_valid=self.positions[call.keys].valid,
            later=apart,
        )
        kept = self._kept(call, found)
        write = partial(
            self.target.add,
            call.stream,
            call.layer,
            call.name,
            {name: values[name] for name in names} | counts,
            queries=call.queries,
            keys=call.keys,
            facts=self._facts(call),
        )

        def finish() -> None:
            stored = None if kept is None else kept.dataset(self.target.keep_bits)
            write(kept=stored, checks=[*(check() for check in apart), *report.checks])

        if self._later is None:
            finish()
        else:
            self._later.do(finish)

    def _kept(self, call: Call, found: Mapping[str, Tensor]) -> Kept | None:
        """What deep zoom needs of this call, if it was asked for."""
        if not self._keeps(call):
            return None
        if isinstance(call, MapCall):
            raise ModelError(f"{call.name}: its q and k cannot be had ({call.source}); leave keep=… out")
        heads = None if self._keep is ALL_HEADS or self._keep is None else self._keep[call.layer]
        kept = Kept.of(call.q, call.k, call.v, found["lse"], call.spec, heads)
        return kept.with_pyramid(self.implementation) if kept.large else kept

    def _keeps(self, call: Call) -> bool:
        return self._keep is not None and (self._keep is ALL_HEADS or call.layer in self._keep)

    def _names(self, call: Call) -> list[str]:
        """The statistics that this call can have, of those that were asked for."""
        names = [n for n in self.stats if call.queries == call.keys or n not in _SAME_AXIS]
        if isinstance(call, MapCall):
            names = [n for n in names if n not in _FROM_SCORES]
        if not names:
            why = (
                "its weights are all that can be had"
                if isinstance(call, MapCall)
                else "it is cross-attention"
            )
            raise ModelError(f"{call.name}: none of {', '.join(self.stats)} can be computed, because {why}")
        return names

    def _from_scores(self, call: AttentionCall, names: list[str]) -> dict[str, Tensor]:
        asked = [name for name in names if name != "pooled" and name not in SAMPLED]
        if call.spec.sink is not None and "received" in names and "key_mass" not in names:
            asked.append("key_mass")  # the column sums are checked against it
        if self._keeps(call) and "lse" not in asked:
            asked.append("lse")
        grid = None
        if "pooled" in names:
            grid = (min(self._grid[0], call.q.shape[2]), min(self._grid[1], call.k.shape[2]))
        try:
            found = self._estimates(call) if set(names) & set(SAMPLED) else {}
            if asked or grid is not None:
                found |= map_statistics(
                    call.q, call.k, call.spec, asked, self.implementation, grid=grid, reduce="mean"
                )
        except ValueError as error:
            raise ModelError(f"{call.name}: {error}") from error
        return found

    def _estimates(self, call: AttentionCall) -> dict[str, Tensor]:
        """What keys receive, from a sample of the queries; the same blocks in every layer."""
        fraction, seed = self._sampled if self._sampled is not None else (1.0, 0)
        block = max(1, round(fraction * call.q.shape[2] / _DRAWN / _BLOCK)) * _BLOCK
        found = sampled_columns(
            call.q, call.k, call.spec, fraction, seed, block=block, implementation=self.implementation
        )
        return {"received_sampled": found.received, "received_error": found.standard_error}

    def _from_map(self, call: MapCall, names: list[str]) -> dict[str, Tensor]:
        from probe.kernels.dense import dense_statistics

        try:
            return dense_statistics(call.weights, names, call.query_valid, call.key_valid)
        except ValueError as error:
            raise ModelError(f"{call.name}: {error}") from error

    def _check_shape(self, call: Call) -> None:
        batch, heads, n_queries, n_keys = _shape(call)
        query_valid, key_valid = _validity(call)
        device = (call.weights if isinstance(call, MapCall) else call.q).device
        for group, n, valid in ((call.queries, n_queries, query_valid), (call.keys, n_keys, key_valid)):
            if group not in self.positions:
                there = everywhere(batch, n, device) if valid is None else valid
                self.positions[group] = numbered(group, _ROLES.get(group, "position"), there)
            known = tuple(self.positions[group].valid.shape)
            if known != (batch, n):
                raise ModelError(
                    f"{call.name}: attention of {n} {group} (batch {batch}), but the input has {known[1]} "
                    f"(batch {known[0]}); choose layers of one kind (layers=…, towers=…)"
                )
        before = self._heads.setdefault(call.stream, heads)
        if before != heads:
            raise ModelError(
                f"{call.name}: {heads} heads, but {before} before; choose layers of one kind (layers=…)"
            )

    def _visible(self, call: Call) -> dict[str, Array]:
        batch, _, n_queries, n_keys = _shape(call)
        if isinstance(call, MapCall):
            spec, device = _rule_of_weights(call), call.weights.device
        else:
            spec, device = call.spec, call.q.device
        tensors = (spec.groups, spec.documents, spec.key_valid)
        key = (spec.causal, spec.offset, spec.window, spec.chunk, device, call.stream, *map(id, tensors))
        if key not in self._counts:
            counts = visible_counts(spec, batch, n_queries, n_keys, device)
            known = dict(zip(("keys_seen", "seen_by"), (_numpy(x) for x in counts), strict=True))
            self._counts[key] = known, tensors  # held, so that their ids stay theirs
        return self._counts[key][0]

    def _facts(self, call: Call) -> dict[str, str]:
        if isinstance(call, MapCall):
            return {"rule": "as the model wrote it", "backend": call.source}
        return {"rule": describe(call.spec), "backend": call.backend}


def _shape(call: Call) -> tuple[int, int, int, int]:
    if isinstance(call, MapCall):
        batch, heads, n_queries, n_keys = call.weights.shape
        return batch, heads, n_queries, n_keys
    return call.q.shape[0], call.q.shape[1], call.q.shape[2], call.k.shape[2]


def _validity(call: Call) -> tuple[Tensor | None, Tensor | None]:
    if isinstance(call, MapCall):
        return call.query_valid, call.key_valid
    return call.spec.query_valid, call.spec.key_valid


def _rule_of_weights(call: MapCall) -> ScoreSpec:
    """Which keys a row sees, told by where its weights are: a map that is zero above its diagonal is causal."""
    n_queries, n_keys = call.weights.shape[2:]
    offset = n_keys - n_queries
    causal = offset >= 0 and not any(
        bool(call.weights[:, :, row, row + offset + 1 :].any()) for row in range(n_queries)
    )
    return ScoreSpec(
        scale=1.0,
        causal=causal and n_keys > 1,
        offset=offset if causal else 0,
        key_valid=call.key_valid,
        query_valid=call.query_valid,
    )


def _numpy(x: Tensor) -> Array:
    array: Array = x.to("cpu", torch.float32 if x.is_floating_point() else torch.int32).numpy()
    return array
