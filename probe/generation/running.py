"""Statistics of one layer over the passes of a generation: rows are appended, columns run on.

What a pass tells of its rows (its new queries) is final. What it tells of columns is added to a running mass, in float64, at
the positions of its keys. Beams descend from each other: columns follow the beam that goes on, rows are picked by descent at
the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probe.call import AttentionCall
from probe.errors import InputError, ModelError
from probe.generation.steps import latest
from probe.generation.watch import Watch
from probe.kernels.statistics import map_statistics
from probe.kernels.tile import tile
from probe.kernels.visible import visible_counts
from probe.record import Check
from probe.stats import STATS
from probe.validity import Report
from probe.validity.checks import ratio

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Descent:
    """Which row of each pass a returned sequence comes from.

    Attributes:
        source: row of the batch that fed each position, [S, N].
        valid: whether the position is a token of the sequence, [S, N].
        held: for beams the key of each sequence's hypothesis; None where row s is sequence s.
    """

    source: Int[Tensor, "S N"]
    valid: Bool[Tensor, "S N"]
    held: Sequence[tuple[int, ...]] | None = None


@dataclass(eq=False)
class Running:
    """What is known so far of one layer.

    Attributes:
        name: the module's name.
        layer: its number.
        stats: names of the statistics.
        heads: heads whose rows are kept; none without.
        cached: whether keys stand in a cache, and are checked to be those that were fed.
        implementation: of the kernels.
        facts: rule and backend, as the first pass tells them.
        rows: position of each kept row, number of its first key, and the row itself [B, heads, keys].
    """

    name: str
    layer: int
    stats: Sequence[str]
    heads: Sequence[int]
    cached: bool
    implementation: str
    facts: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[int, int, Array]] = field(default_factory=list)
    _worst: dict[str, Check] = field(default_factory=dict)
    _sizes: dict[str, Tensor] = field(default_factory=dict)
    _scale: float = 0.0
    _history: dict[str, Tensor] = field(default_factory=dict)
    _columns: dict[str, Tensor] = field(default_factory=dict)
    _held: dict[tuple[int, ...], dict[str, Tensor]] = field(default_factory=dict)
    _known: int = 0

    @property
    def needed(self) -> list[str]:
        """What is computed in each pass: what was asked for, and what it is checked against."""
        extra = ["key_mass"] if "received" in self.stats else []
        return list(dict.fromkeys([*self.stats, *extra, *(["lse"] if self.heads else [])]))

    def take(self, call: AttentionCall, watch: Watch) -> None:
        """Take one pass: its rows, what its columns add, and the checks of some passes.

        Args:
            call: the call, its keys cut to those that are filled.
            watch: what is known of the pass.

        Raises:
            ModelError: keys that are not those that were fed, or rules that cannot be computed.
            InputError: `heads` that the layer does not have.
        """
        n_keys, total, whole = call.k.shape[2], watch.total, call
        first = total - n_keys
        self._check_keys(call, first, watch.new)
        call = latest(call, watch.new, watch.ended)
        try:
            found = map_statistics(call.q, call.k, call.spec, self.needed, self.implementation)
        except ValueError as error:
            raise ModelError(f"{self.name}: {error}") from error
        seen, seen_by = _counts(call, watch.shared)
        self._check(whole, call, found, seen, watch.number)
        received = found.pop("received", None)
        if "max_key" in found:
            found["max_key"] = torch.where(found["max_key"] < 0, -1, found["max_key"] + first)
        self._append({**found, "keys_seen": seen})
        self._add("seen_by", seen_by.long(), first)
        if received is not None:
            wide = torch.float32 if received.device.type == "mps" else torch.float64
            self._add("received", received.nan_to_num(0.0).to(wide), first)
        if total > watch.prompt and self.heads:
            self._keep_rows(call, found["lse"], first, total)
        self._known = total

    def _check(
        self,
        whole: AttentionCall,
        call: AttentionCall,
        found: Mapping[str, Tensor],
        seen: Tensor,
        number: int,
    ) -> None:
        """Sizes for the bound on rounding; and of passes 0, 1, 2, 4, 8, … all that a record is checked for."""
        for name, x, valid in (
            ("q", call.q, call.spec.query_valid),
            ("k", whole.k[:, :, -call.q.shape[2] :], None),
        ):
            size = torch.linalg.vector_norm(x, dim=3, dtype=torch.float32)
            size = size if valid is None else size.masked_fill(~valid[:, None], 0)
            self._sizes[name] = torch.maximum(self._sizes.get(name, size.new_zeros(())), size.amax((0, 2)))
        self._scale = (call.q.shape[3] ** 0.5 + 4) * abs(call.spec.scale)
        if number & (number - 1):
            return
        report = Report()
        report.layer(call, {n: _numpy(x) for n, x in found.items()}, _numpy(seen), self.implementation)
        for check in report.checks:
            known = self._worst.get(check.name)
            if check.name != "column sums" and (known is None or ratio(check) > ratio(known)):
                self._worst[check.name] = check

    @property
    def checks(self) -> list[Check]:
        """What passes were checked for, each with its worst case."""
        return list(self._worst.values())

    def score_error(self) -> Array:
        """Bound on the rounding error of any score of any pass, [H], with |q·k| ≤ ‖q‖‖k‖."""
        q, k = self._sizes["q"], self._sizes["k"]
        bound = q * k.repeat_interleave(len(q) // len(k)) * self._scale * torch.finfo(torch.float32).eps
        error: Array = bound.cpu().double().numpy()
        return error

    def descend(self, beams: Int[Tensor, "B"]) -> None:
        """Columns follow the beams that go on."""
        self._columns = {name: x.index_select(0, beams.to(x.device)) for name, x in self._columns.items()}

    def hold(self, hypotheses: Mapping[tuple[int, ...], int]) -> None:
        """Hold the columns of hypotheses that have just ended, and let go of those that were given up.

        Args:
            hypotheses: all that are held now, and the beam of their last pass.
        """
        kept = {key: self._held[key] for key in hypotheses if key in self._held}
        for key in hypotheses.keys() - kept.keys():
            kept[key] = {n: x[hypotheses[key]].clone() for n, x in self._columns.items() if n != "keys"}
        self._held = kept

    def values(self, descent: Descent) -> dict[str, Array]:
        """The layer's variables over all positions of the returned sequences.

        Returns:
            Statistics [S, H, N] and the counts [S, N]; absent where a position is no token.
        """
        out: dict[str, Array] = {}
        length = descent.valid.shape[1]
        valid = descent.valid.cpu().numpy()
        source, at = descent.source.cpu(), torch.arange(length)
        for name, known in self._history.items():
            x = known[..., :length].cpu().movedim(-1, 1)[source, at].movedim(1, -1).numpy()
            there = valid if x.ndim == 2 else valid[:, None]
            out[name] = np.where(there, x, 0 if name == "keys_seen" else STATS[name].absent)
        for name in ("received", "seen_by"):
            if name in self._columns:
                x = self._column(name, descent, length)
                there = valid if x.ndim == 2 else valid[:, None]
                out[name] = np.where(there, x, 0 if name == "seen_by" else np.nan)
        kinds = {name: "int32" if x.dtype.kind == "i" else "float32" for name, x in out.items()}
        return {name: x.astype(kinds[name]) for name, x in out.items()}

    def _column(self, name: str, descent: Descent, length: int) -> Array:
        if descent.held is None:
            found = self._columns[name]
        else:
            room = [_room(self._held[key][name], length)[..., :length] for key in descent.held]
            found = torch.stack(room)
        array: Array = _room(found, length)[..., :length].cpu().numpy()
        return array

    def kept_rows(self, descent: Descent) -> tuple[Array, list[int]]:
        """The rows of chosen heads, [S, steps, heads, N], NaN where there is no token; and the position of each step."""
        samples, length = descent.valid.shape
        valid, source = descent.valid.cpu().numpy(), descent.source.cpu().numpy()
        rows = [row for row in self.rows if row[0] < length]
        out = np.full((samples, len(rows), len(self.heads), length), np.nan, dtype=np.float32)
        for step, (at, first, weights) in enumerate(rows):
            there = valid[:, at]
            out[there, step, :, :first] = 0  # what has left a sliding cache
            out[there, step, :, first : at + 1] = weights[source[there, at]]
        out = np.where(valid[:, None, None, :], out, np.nan).astype(np.float32)
        return out, [at for at, _, _ in rows]

    def _append(self, found: Mapping[str, Tensor]) -> None:
        for name, x in found.items():
            total = self._known + x.shape[-1]
            buffer = _room(self._history.get(name, x[..., :0]), total)
            buffer[..., self._known : total] = x
            self._history[name] = buffer

    def _add(self, name: str, x: Tensor, first: int) -> None:
        last = first + x.shape[-1]
        buffer = _room(self._columns.get(name, x[..., :0]), last)
        buffer[..., first:last] += x
        self._columns[name] = buffer

    def _check_keys(self, call: AttentionCall, first: int, new: int) -> None:
        """The keys of a cache must be those that were fed, bit for bit, each at the place of its position."""
        if not self.cached:
            return
        k = call.k
        own = k[..., :: max(1, k.shape[3] // 2)].transpose(2, 3)  # some coordinates of every key
        old = own.shape[-1] - new
        if old > 0:
            known = self._columns["keys"][..., first : first + old]
            same = (own[..., :old] == known).all(2).all(1)
            if call.spec.key_valid is not None:
                same |= ~call.spec.key_valid[:, :old]
            if known.shape[-1] != old or not bool(same.all()):
                raise ModelError(
                    f"{self.name}: its cache gave {k.shape[2]} keys that are not the last ones that were fed (a quantised "
                    "cache, or one that drops or moves keys); expected a dynamic, static or sliding cache of transformers"
                )
        elif first != self._known:
            raise ModelError(
                f"{self.name}: its cache gave {k.shape[2]} keys of {first + k.shape[2]} positions"
            )
        buffer = _room(self._columns.get("keys", own[..., :0]), first + k.shape[2])
        buffer[..., first + old : first + k.shape[2]] = own[..., old:]
        self._columns["keys"] = buffer

    def _keep_rows(self, call: AttentionCall, lse: Tensor, first: int, total: int) -> None:
        n_keys = call.k.shape[2]
        wrong = [head for head in self.heads if not 0 <= head < call.q.shape[1]]
        if wrong:
            raise InputError(
                f"rows: got heads {wrong} of layer {self.layer}, expected some of 0 to {call.q.shape[1] - 1}"
            )
        found = tile(
            call.q,
            call.k,
            call.spec,
            lse,
            range(call.q.shape[2]),
            range(n_keys),
            "prob",
            self.heads,
            self.implementation,
        )
        if call.spec.key_valid is not None:
            found = found.masked_fill(~call.spec.key_valid[:, None, None, :], torch.nan)
        self.rows.append((total - 1, first, found[:, :, 0].float().cpu().numpy()))


def _counts(call: AttentionCall, shared: dict[object, Any]) -> tuple[Tensor, Tensor]:
    """Visible keys and seeing queries of a pass; layers of one rule and as many keys have them in common."""
    spec, n_keys = call.spec, call.k.shape[2]
    key = (spec.causal, spec.offset, spec.window, spec.chunk, n_keys, call.q.device)
    if spec.groups is not None or spec.documents is not None or key not in shared:
        shared[key] = visible_counts(spec, call.q.shape[0], call.q.shape[2], n_keys, call.q.device)
    found: tuple[Tensor, Tensor] = shared[key]
    return found


def _room(x: Tensor, length: int) -> Tensor:
    """`x` with room for `length` positions along its last dimension, doubled so that this is seldom needed."""
    spare = length - x.shape[-1]
    return x if spare <= 0 else torch.nn.functional.pad(x, (0, max(spare, x.shape[-1])))


def _numpy(x: Tensor) -> Array:
    array: Array = x.to("cpu", torch.float32 if x.is_floating_point() else torch.int32).numpy()
    return array
