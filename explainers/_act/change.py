"""One attention call under ACT: what its keys received, the sinks, and the output that takes the place of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.call import AttentionCall, MapCall
from probe.edits import Place, Sequence
from probe.errors import InputError, ModelError
from probe.explainers._act import dense, row
from probe.explainers._act.rule import Columns, Options, columns_of, decide, new_columns, visible_of
from probe.kernels.heads import of_heads
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.sink_shift import SinkKeys, sink_keys, sink_shift


@dataclass(frozen=True, eq=False)
class _Pass:
    """What is kept of a layer, and what is true of the pass that it is asked for.

    Attributes:
        columns: what is kept.
        place: where the pass stands.
        counted: whether its rows count for the sinks.
        rows: which of its rows do, [B, Nq]; None for all.
        is_first: the first token among the keys, [B, Nk].
    """

    columns: Columns
    place: Place
    counted: bool
    rows: Bool[Tensor, "B Nq"] | None
    is_first: Bool[Tensor, "B Nk"]


def _named(method: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """What the kernels refuse is refused in the name of the module."""

    @wraps(method)
    def named(self: Any, call: AttentionCall | MapCall, *args: Any) -> Tensor | None:
        try:
            return method(self, call, *args)
        except ValueError as error:
            raise ModelError(f"{call.name}: {error}") from error

    return named


class Calibration:
    """Changes the outputs of chosen heads, call by call, and remembers the last sequence for the report.

    Args:
        heads: by layer, rising.
        options: what is done.
        implementation: of the kernels.
    """

    def __init__(self, heads: Mapping[int, tuple[int, ...]], options: Options, implementation: str) -> None:
        self.heads, self.options, self.implementation = heads, options, implementation
        self.prompt: Tensor | None = None
        self.last: Sequence | None = None
        self.n_heads: dict[int, int] = {}

    def columns(self, layer: int) -> Columns | None:
        """What is kept of a layer of the last sequence."""
        kept: Columns | None = None if self.last is None else self.last.kept.get((self, layer))  # type: ignore[assignment]
        return kept

    @_named
    def change(self, call: AttentionCall, place: Place) -> Float[Tensor, "B Nq H Dv"] | None:
        """The output of a call under the calibration; None if it stays what it is.

        Raises:
            ModelError: rules that the kernels cannot compute, or a cache that was cut back.
            InputError: a prompt that is longer than the pass.
        """
        heads, beta = self.heads[call.layer], self.options.beta
        now = self._pass(
            call, place, call.q.shape, call.k.shape[2], call.spec.query_valid, call.spec.key_valid
        )
        q, k, spec = _chosen(call, heads)
        short = place.past > 0 and self.implementation == "auto"
        if short and row.fits(spec, q.shape[2], k.shape[2]):
            out, mass, rest, first = self._by_row(call, now, row.row_of(q, k, spec), spec)
        else:
            out, mass, rest, first = self._by_kernels(call, now, q, k, spec)
        pays = (mass > 0) & (rest > 0) & (beta < 1)
        freed = torch.where(pays | mass.isnan(), (1 - beta) * mass, 0)
        to_first = freed * first / torch.where(pays, rest, 1) * self._first_receives(now.columns)
        now.columns.tell(freed, to_first)
        if beta == 1:
            return None
        output = call.output.clone()
        own, new = output[:, :, list(heads)], out.transpose(1, 2)
        output[:, :, list(heads)] = torch.where(pays.transpose(1, 2)[..., None], new.to(own.dtype), own)
        return output

    def _by_kernels(
        self, call: AttentionCall, now: _Pass, q: Tensor, k: Tensor, spec: ScoreSpec
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, sink mass, receivers' mass and weight of the first token, of every row of the chosen heads."""
        first = now.is_first[:, None, :, None]
        found = row_stats(q, k, spec, ("lse",), self.implementation, key_sets=first)
        if now.counted:
            self._count(now, q, k, spec, found["lse"])
        marked = self._marked(now, self.heads[call.layer])
        shifted = sink_shift(call.q, call.k, call.v, call.spec, marked, implementation=self.implementation)
        return shifted.out, shifted.sink_mass, shifted.rest_mass, found["set_mass"][..., 0]

    def _by_row(
        self, call: AttentionCall, now: _Pass, own: row.Row, spec: ScoreSpec
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same of one row that sees everything, written out."""
        columns, first, n_keys = now.columns, now.place.first, own.weights.shape[2]
        if now.counted:
            counts = row.counts_of(spec, own.weights)
            uniform = None if columns.uniform is None else counts / counts.sum(1, keepdim=True).clamp(min=1)
            columns.add((own.weights * counts[:, None]).nan_to_num(0.0), counts, uniform, first)
            columns.sinks, columns.marked = decide(columns, self.options), None
        sinks = columns.sinks[..., first : first + n_keys]
        sinks = torch.nn.functional.pad(sinks, (0, n_keys - sinks.shape[2]))
        kept = now.is_first if self.options.targets == "no_first" else None
        group = call.q.shape[1] // call.k.shape[1]
        v = call.v[:, [head // group for head in self.heads[call.layer]]]
        out, mass, rest = row.shift_row(own, v, sinks, kept, self.options.beta)
        if spec.query_valid is not None:
            mass, rest = (x.masked_fill(~spec.query_valid, torch.nan) for x in (mass, rest))
        weight = (own.weights * now.is_first[:, None]).sum(2)
        return tuple(x[:, :, None] for x in (out, mass, rest, weight))  # type: ignore[return-value]

    @_named
    def change_map(
        self, call: MapCall, visible: Bool[Tensor, "B Hv Nq Nk"], place: Place
    ) -> Float[Tensor, "B H Nq Nk"] | None:
        """The map of a call under the calibration, where a model (TransformerLens) writes it out itself.

        Raises:
            ModelError: a cache that was cut back.
            InputError: a prompt that is longer than the pass.
        """
        heads, weights = list(self.heads[call.layer]), call.weights
        now = self._pass(call, place, weights.shape, weights.shape[3], call.query_valid, call.key_valid)
        own = weights[:, heads].to(torch.promote_types(weights.dtype, torch.float32))
        if now.counted:
            rows = call.query_valid if now.rows is None else now.rows
            found = dense.columns(own, visible, rows, uniform=now.columns.uniform is not None)
            now.columns.add(*found, place.first)
            now.columns.sinks = decide(now.columns, self.options)
        sinks = torch.nn.functional.pad(
            now.columns.sinks, (0, max(0, now.columns.length - now.columns.sinks.shape[2]))
        )
        sinks = sinks[..., place.first : place.first + weights.shape[3]]
        kept = now.is_first if self.options.targets == "no_first" else torch.zeros_like(now.is_first)
        changed, freed, rest = dense.shift(own, sinks, kept, self.options.beta)
        share = (own * now.is_first[:, None, None]).sum(3) / torch.where(freed > 0, rest, 1)
        to_first = freed * share * self._first_receives(now.columns)
        if call.query_valid is not None:
            freed, to_first = (
                x.masked_fill(~call.query_valid[:, None], torch.nan) for x in (freed, to_first)
            )
        now.columns.tell(freed, to_first)
        if self.options.beta == 1:
            return None
        pays = (freed > 0)[..., None]
        out = weights.clone()
        out[:, heads] = torch.where(pays, changed.to(out.dtype), out[:, heads])
        return out

    def _pass(
        self,
        call: AttentionCall | MapCall,
        place: Place,
        shape: torch.Size,
        n_keys: int,
        query_valid: Tensor | None,
        key_valid: Tensor | None,
    ) -> _Pass:
        batch, n_heads, n_queries, _ = shape
        self.last, self.n_heads[call.layer] = place.sequence, n_heads
        device = call.q.device if isinstance(call, AttentionCall) else call.weights.device
        running = self.options.decoding == "running"
        if place.past == 0:
            kept = self._begin(call, batch, n_keys, key_valid, device)
            place.sequence.kept[self, call.layer] = kept
        else:
            kept = self._go_on(call, place, batch)
            if running:
                kept.tokens = kept.tokens + (n_queries if query_valid is None else query_valid.sum(1))
        kept.length = place.past + n_queries
        rows = None
        if self.prompt is not None:
            at = torch.arange(kept.length - n_queries, kept.length, device=device)
            rows = at < (kept.first + kept.tokens)[:, None]
            rows = rows if query_valid is None else rows & query_valid
        inside = torch.arange(place.first, place.first + n_keys, device=device)
        return _Pass(kept, place, running or place.past == 0, rows, inside == kept.first[:, None])

    def _begin(
        self,
        call: AttentionCall | MapCall,
        batch: int,
        n_keys: int,
        valid: Tensor | None,
        device: torch.device,
    ) -> Columns:
        """A sequence begins: its first token, its tokens, and how many of them decide."""
        if valid is None:
            first = torch.zeros(batch, dtype=torch.int64, device=device)
            tokens = torch.full_like(first, n_keys)
        else:
            first, tokens = valid.int().argmax(1), valid.sum(1)
        if self.prompt is not None:
            prompt = self.prompt.to(device)
            if (
                prompt.ndim > 1
                or (prompt.ndim == 1 and len(prompt) != batch)
                or bool(((prompt > tokens) | (prompt < 1)).any())
            ):
                raise InputError(
                    f"prompt: got {prompt.tolist()}, expected 1 to the tokens of each sample in the first pass, "
                    f"{tokens.tolist()} ({call.name})"
                )
            tokens = prompt.expand(batch)
        n = len(self.heads[call.layer])
        return new_columns(batch, n, first, tokens, uniform=self.options.threshold == "corrected")

    def _go_on(self, call: AttentionCall | MapCall, place: Place, batch: int) -> Columns:
        kept: Any = place.sequence.kept[self, call.layer]
        if kept.first.shape[0] != batch:
            raise ModelError(f"{call.name}: {batch} samples, and {kept.first.shape[0]} in the pass before")
        if place.past < kept.length:
            if self.options.decoding == "running":
                raise ModelError(
                    f"{call.name}: its cache was cut back from {kept.length} positions to {place.past} (assisted "
                    "decoding?), and what the rows that are gone gave is counted; use decoding='frozen'"
                )
            kept.cut(place.past)
        columns: Columns = kept
        return columns

    def _count(self, now: _Pass, q: Tensor, k: Tensor, spec: ScoreSpec, lse: Tensor) -> None:
        """Add the rows of a pass to the columns, and decide."""
        columns = now.columns
        spec = spec if now.rows is None else replace(spec, query_valid=now.rows)
        uniform = columns.uniform is not None
        counts, expected = visible_of(
            spec, q, k.shape[2], uniform=uniform, implementation=self.implementation
        )
        columns.add(columns_of(q, k, spec, lse, self.implementation), counts, expected, now.place.first)
        columns.sinks, columns.marked = decide(columns, self.options), None

    def _marked(self, now: _Pass, heads: tuple[int, ...]) -> SinkKeys:
        """The sinks among the keys of a pass, as the kernel takes them; the same as before as long as nothing moves."""
        columns, first = now.columns, now.place.first
        known = columns.marked
        if known is not None and known[0] == first:
            marked: SinkKeys = known[1]
            return marked
        sinks = columns.sinks[..., first : first + now.is_first.shape[1]]
        if not sinks.shape[-1]:  # a sliding cache has let go of all keys that were decided on
            sinks = torch.zeros_like(now.is_first[:, None].expand(-1, len(heads), -1))
        kept = now.is_first[:, : sinks.shape[-1]] if self.options.targets == "no_first" else None
        marked = sink_keys(sinks, self.options.beta, heads=heads, kept=kept)
        columns.marked = first, marked
        return marked

    def _first_receives(self, columns: Columns) -> Tensor | float:
        """1 where the first token is among those that share the freed weight, else 0, [B, n, 1]."""
        if self.options.targets == "no_first":
            return 0.0
        if self.options.protect_first:
            return 1.0
        at = columns.first[:, None, None].expand(-1, columns.sinks.shape[1], 1)
        return (~columns.sinks.gather(2, at)).float()


def _chosen(call: AttentionCall, heads: tuple[int, ...]) -> tuple[Tensor, Tensor, ScoreSpec]:
    """Queries, keys and rules of the chosen heads alone; keys are repeated for them, unless all heads are chosen."""
    group = call.q.shape[1] // call.k.shape[1]
    if len(heads) == call.q.shape[1]:
        return call.q, call.k, call.spec
    keys = [head // group for head in heads]
    k = call.k if keys == list(range(call.k.shape[1])) else call.k[:, keys]
    return call.q[:, list(heads)], k, of_heads(call.spec, list(heads))
