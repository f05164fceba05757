"""One attention call under ACT: statistics of the chosen heads, the sinks, and the output that takes their place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.call import AttentionCall
from probe.edits import Place, Sequence
from probe.errors import InputError, ModelError
from probe.explainers._act.rule import Columns, Options, columns_of, decide, new_columns, visible_of
from probe.kernels.heads import of_heads
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.sink_shift import SinkKeys, sink_keys, sink_shift


class Calibration:
    """Changes the outputs of chosen heads, call by call, and remembers the last sequence for the report.

    Args:
        heads: by layer, rising.
        options: what is done.
        implementation: of the kernels.
    """

    def __init__(self, heads: Mapping[int, tuple[int, ...]], options: Options, implementation: str) -> None:
        self.heads, self.options, self.implementation = heads, options, implementation
        self.prompt: Tensor | int | None = None
        self.last: Sequence | None = None
        self.n_heads: dict[int, int] = {}

    def columns(self, layer: int) -> Columns | None:
        """What is kept of a layer of the last sequence."""
        kept: Any = None if self.last is None else self.last.kept.get((self, layer))
        return kept

    def change(self, call: AttentionCall, place: Place) -> Tensor | None:
        """The output of a call under the calibration; None if it stays what it is.

        Raises:
            ModelError: rules that the kernels cannot compute, or a cache that was cut back.
            InputError: a prompt that is longer than the pass.
        """
        try:
            return self._change(call, place)
        except ValueError as error:
            raise ModelError(f"{call.name}: {error}") from error

    def _change(self, call: AttentionCall, place: Place) -> Tensor | None:
        heads, beta = self.heads[call.layer], self.options.beta
        self.last, self.n_heads[call.layer] = place.sequence, call.q.shape[1]
        columns = self._known(call, place)
        q, k, spec = _chosen(call, heads)
        n_keys = k.shape[2]
        inside = (
            columns.first - place.first
        )  # of the first token among the keys; negative where a sliding cache let it go
        is_first = torch.arange(n_keys, device=q.device) == inside[:, None]
        found = row_stats(q, k, spec, ("lse",), self.implementation, key_sets=is_first[:, None, :, None])
        if place.past == 0 or self.options.decoding == "running":
            self._count(columns, q, k, spec, found["lse"], place)
            columns.sinks = decide(columns, self.options)
        columns.length = place.first + n_keys
        marked = self._marked(columns, place.first, n_keys, is_first, heads)
        if beta == 1 or marked is None:
            nothing = torch.where(found["lse"].isnan(), torch.nan, 0.0)
            self._tell(columns, nothing, nothing)
            return None
        shifted = sink_shift(call.q, call.k, call.v, call.spec, marked, implementation=self.implementation)
        pays = (shifted.sink_mass > 0) & (shifted.rest_mass > 0)
        freed = (1 - beta) * shifted.sink_mass
        freed = torch.where(pays | freed.isnan(), freed, 0)
        share = found["set_mass"][..., 0] / torch.where(pays, shifted.rest_mass, 1)
        if self.options.targets == "no_first":
            share = share * 0
        elif not self.options.protect_first:
            at = columns.first[:, None, None].expand(-1, len(heads), 1)
            share = share * ~columns.sinks.gather(2, at)
        self._tell(columns, freed, freed * share)
        output = call.output.clone()
        own = output[:, :, list(heads)]
        output[:, :, list(heads)] = torch.where(
            pays.transpose(1, 2)[..., None], shifted.out.transpose(1, 2).to(own.dtype), own
        )
        return output

    def _known(self, call: AttentionCall, place: Place) -> Columns:
        """What was kept of the layer; nothing at the beginning of a sequence."""
        kept: Any = place.sequence.kept.get((self, call.layer))
        batch, n_keys = call.q.shape[0], call.k.shape[2]
        valid = call.spec.key_valid
        if place.past == 0:
            device = call.q.device
            if valid is None:
                first = torch.zeros(batch, dtype=torch.int64, device=device)
                tokens = torch.full_like(first, n_keys)
            else:
                first, tokens = valid.int().argmax(1), valid.sum(1)
            kept = new_columns(
                batch, len(self.heads[call.layer]), first, self._deciding(tokens, call.name),
                uniform=self.options.threshold == "corrected",
            )  # fmt: skip
            place.sequence.kept[self, call.layer] = kept
            return kept
        if kept.first.shape[0] != batch:
            raise ModelError(f"{call.name}: {batch} samples, and {kept.first.shape[0]} in the pass before")
        if place.past < kept.length:
            if self.options.decoding == "running":
                raise ModelError(
                    f"{call.name}: the cache was cut back from {kept.length} positions to {place.past} (assisted decoding?), and what "
                    "those rows gave is counted; use decoding='frozen'"
                )
            kept.cut(place.past)
        if self.options.decoding == "running":
            n_queries = call.q.shape[2]
            new = n_queries if call.spec.query_valid is None else call.spec.query_valid.sum(1)
            kept.tokens = kept.tokens + new
        return kept

    def _deciding(self, tokens: Tensor, name: str) -> Tensor:
        """How many first tokens of each sample decide on its sinks."""
        if self.prompt is None:
            return tokens
        prompt = torch.as_tensor(self.prompt, device=tokens.device).expand(tokens.shape)
        if bool((prompt > tokens).any()) or bool((prompt < 1).any()):
            raise InputError(
                f"prompt: got {prompt.tolist()}, expected 1 to the tokens of each sample in the first pass, {tokens.tolist()} ({name})"
            )
        return prompt

    def _count(
        self, columns: Columns, q: Tensor, k: Tensor, spec: ScoreSpec, lse: Tensor, place: Place
    ) -> None:
        """Add the rows of a pass to the columns; of a prompt that decides, its own rows only."""
        if self.prompt is not None:
            at = torch.arange(q.shape[2], device=q.device) + place.first + spec.offset
            rows = at < (columns.first + columns.tokens)[:, None]
            spec = replace(spec, query_valid=rows if spec.query_valid is None else rows & spec.query_valid)
        counts, uniform = visible_of(
            spec, q, k.shape[2], uniform=columns.uniform is not None, implementation=self.implementation
        )
        columns.add(columns_of(q, k, spec, lse, self.implementation), counts, uniform, place.first)

    def _marked(
        self, columns: Columns, first: int, n_keys: int, is_first: Tensor, heads: tuple[int, ...]
    ) -> SinkKeys | None:
        sinks = columns.sinks[..., first : first + n_keys]
        if not sinks.shape[-1]:
            return None
        kept = is_first[:, : sinks.shape[-1]] if self.options.targets == "no_first" else None
        return sink_keys(sinks, self.options.beta, heads=heads, kept=kept)

    def _tell(self, columns: Columns, freed: Tensor, to_first: Tensor) -> None:
        count = columns.sinks.sum(2, dtype=freed.dtype)[..., None].expand_as(freed)
        columns.rows.append(torch.stack([freed, to_first, count], 2))


def _chosen(call: AttentionCall, heads: tuple[int, ...]) -> tuple[Tensor, Tensor, ScoreSpec]:
    """Queries, keys and rules of the chosen heads alone; keys are repeated for them, unless all heads are chosen."""
    group = call.q.shape[1] // call.k.shape[1]
    if len(heads) == call.q.shape[1]:
        return call.q, call.k, call.spec
    keys = [head // group for head in heads]
    k = call.k if keys == list(range(call.k.shape[1])) else call.k[:, keys]
    return call.q[:, list(heads)], k, of_heads(call.spec, list(heads))
