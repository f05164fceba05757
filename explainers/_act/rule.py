"""Which keys are sinks: ACT's rule on what every key has received so far, kept up over the passes of a sequence."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.column_pass import column_mass
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.sink_shift import SinkKeys
from probe.kernels.visible import visible_counts


@dataclass(frozen=True)
class Options:
    """The parameters of `ex.act` that say what is done; see there."""

    beta: float
    alpha: float
    threshold: str
    min_queries: int
    protect_first: bool
    targets: str
    decoding: str


@dataclass(eq=False)
class Columns:
    """What the keys of one layer have received, n chosen heads, L positions so far; and the report's rows.

    Attributes:
        received: mass from all rows that count, [B, n, L] float64.
        seen_by: how many of these rows see a key, [B, L].
        uniform: mass that a uniform map would have given, [B, L]; None if nobody asks.
        first: position of the first token, [B].
        tokens: tokens so far, or those that decide, [B].
        sinks: the sinks in force, [B, n, L].
        rows: per pass, freed mass, what of it the first token got, sinks in force: [B, n, 3, Nq] each.
        length: L.
        marked: the sinks as the kernel takes them, and the position of key 0 that they are for.
    """

    received: Float[Tensor, "B n L"]
    seen_by: Float[Tensor, "B L"]
    uniform: Float[Tensor, "B L"] | None
    first: Int[Tensor, "B"]
    tokens: Int[Tensor, "B"]
    sinks: Bool[Tensor, "B n L"]
    rows: list[Float[Tensor, "B n 3 Nq"]] = field(default_factory=list)
    length: int = 0
    marked: tuple[int, SinkKeys] | None = None

    def follow(self, become: Callable[[Tensor], Tensor]) -> None:
        """The samples were reordered, chosen or repeated."""
        for name in ("received", "seen_by", "uniform", "first", "tokens", "sinks"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else become(value))
        self.rows = [become(torch.cat(self.rows, 3))] if self.rows else []
        self.marked = None

    def tell(self, freed: Float[Tensor, "B n Nq"], to_first: Float[Tensor, "B n Nq"]) -> None:
        """Keep what the report says of the rows of a pass."""
        count = self.sinks.sum(2, dtype=freed.dtype)[..., None].expand_as(freed)
        self.rows.append(torch.stack([freed, to_first, count], 2))

    def cut(self, length: int) -> None:
        """Forget the rows from a position on (their columns stay)."""
        self.rows = [torch.cat(self.rows, 3)[..., :length]] if self.rows else []
        self.length = length

    def add(
        self,
        received: Float[Tensor, "B n Nk"],
        counts: Float[Tensor, "B Nk"],
        uniform: Float[Tensor, "B Nk"] | None,
        at: int,
    ) -> None:
        """Add what the keys from position `at` on got from the rows of a pass."""
        last = at + received.shape[-1]
        self.received = _room(self.received, last)
        self.seen_by = _room(self.seen_by, last)
        self.received[..., at:last] += received
        self.seen_by[..., at:last] += counts
        if uniform is not None and self.uniform is not None:
            self.uniform = _room(self.uniform, last)
            self.uniform[..., at:last] += uniform


def new_columns(
    batch: int, heads: int, first: Int[Tensor, "B"], tokens: Int[Tensor, "B"], *, uniform: bool
) -> Columns:
    """Columns of a sequence of which nothing was fed yet."""
    device = first.device
    wide = torch.float32 if device.type == "mps" else torch.float64

    def nothing(*shape: int) -> Tensor:
        return torch.zeros(*shape, 0, dtype=wide, device=device)

    none = torch.zeros(batch, heads, 0, dtype=torch.bool, device=device)
    expected = nothing(batch) if uniform else None
    return Columns(nothing(batch, heads), nothing(batch), expected, first, tokens, none)


def decide(columns: Columns, options: Options) -> Bool[Tensor, "B n L"]:
    """The keys that are sinks now: α_k above the threshold, seen by enough queries, and not the first token if protected.

    α_k = received_k / seen_by_k, compared with a/T ("relative": T is the number of tokens of the sample), a ("absolute"), or
    a·E_k ("corrected": E_k is what a uniform map over the same visible keys would give).
    """
    alpha = columns.received / columns.seen_by.clamp(min=1)[:, None]
    limit: Tensor | float = options.alpha
    if options.threshold == "relative":
        limit = options.alpha / columns.tokens[:, None, None].to(alpha.dtype)
    elif columns.uniform is not None and options.threshold == "corrected":
        limit = options.alpha * (columns.uniform / columns.seen_by.clamp(min=1))[:, None]
    sinks = (alpha > limit) & (columns.seen_by >= options.min_queries)[:, None]
    if options.protect_first:
        at = columns.first[:, None, None].expand(-1, sinks.shape[1], 1)
        sinks = sinks.scatter(2, at, False)
    return sinks


def columns_of(
    q: Float[Tensor, "B n Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B n Nq"],
    implementation: str,
) -> Float[Tensor, "B n Nk"]:
    """What each key receives from the valid rows of a pass; 0 at padding."""
    return column_mass(q, k, spec, lse, implementation=implementation).nan_to_num(0.0)


def visible_of(
    spec: ScoreSpec, q: Float[Tensor, "B n Nq D"], n_keys: int, *, uniform: bool, implementation: str
) -> tuple[Tensor, Tensor | None]:
    """How many valid rows of a pass see each key, [B, Nk]; and what each would receive if the rows were uniform, or None."""
    batch, _, n_queries, _ = q.shape
    counts = visible_counts(spec, batch, n_queries, n_keys, q.device)[1]
    if not uniform:
        return counts, None
    # a uniform map is the map of scores that are all 0 under the same rules of visibility
    flat = replace(spec, softcap=None, slopes=None, distance_bias=None, sink=None)
    rows, keys = (torch.zeros(batch, 1, n, 1, device=q.device) for n in (n_queries, n_keys))
    lse = row_stats(rows, keys, flat, ("lse",), implementation)["lse"]
    return counts, columns_of(rows, keys, flat, lse, implementation)[:, 0]


def _room(x: Tensor, length: int) -> Tensor:
    spare = length - x.shape[-1]
    return x if spare <= 0 else torch.nn.functional.pad(x, (0, spare))
