"""Correctness before speed: whatever will be timed is compared with the whole map in float64 at a small size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from probe.dashboard.bench.case import BETA, LINKS, SINKS, grid_of, rectangle, values_of_queries
from probe.errors import ProbeError
from probe.kernels.dense import DEFINITIONS, row_definitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from probe.dashboard.bench.case import Case

LENGTH = 512
_ROUNDINGS = 4


@dataclass(frozen=True)
class Verdict:
    """How far a result is from the truth, and how far it may be."""

    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed; a NaN is not."""
        return self.error <= self.allowed


class Truth:
    """Every statistic of one case from the whole map, written from its definition; no code of the kernels.

    Args:
        case: Of a small size: the map is formed, [H, N, N].
        dtype: float64 for the truth; float32 for plain torch's own error.
    """

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        group = case.q.shape[1] // case.k.shape[1]
        keys = case.k[0].to(dtype).repeat_interleave(group, 0)
        scores = case.q[0].to(dtype) @ keys.transpose(-1, -2) * case.spec.scale
        scores = scores.masked_fill(~case.mask(), -torch.inf)
        self.case, self.dtype = case, dtype
        self.lse = scores.logsumexp(-1)
        self.map = scores.softmax(-1).nan_to_num(0.0)

    def of(self, name: str) -> Tensor:
        """One statistic [1, H, …] in float64; NaN where the position is padding.

        Raises:
            ProbeError: The gate does not know this statistic, so that it may not be timed.
        """
        a = self.map
        if name in DEFINITIONS:
            at = torch.arange(self.case.n, device=a.device)
            return self.present(name, row_definitions(a, at, [name])[name][None].double())
        known: dict[str, Callable[[], Tensor]] = {
            "lse": lambda: self.lse,
            "applied": self._output,
            "shifted": self._shifted,
            "pooled": self._pooled,
            "tile": self._tile,
            "link_probs": lambda: a.topk(LINKS, -1).values,
            "received": lambda: a.sum(-2),
            "transposed": self._transposed,
        }
        if name not in known:
            raise ProbeError(f"bench: no float64 truth is known for {name!r}, so it is not timed")
        return self.present(name, known[name]()[None].double())

    def present(self, name: str, values: Tensor) -> Tensor:
        """The values with NaN where the position is padding."""
        spec = self.case.spec
        valid = spec.key_valid if name in ("received", "transposed") else spec.query_valid
        if valid is None or name == "pooled":
            return values
        if name == "tile":
            valid = valid[:, rectangle(self.case.n)[0].start : rectangle(self.case.n)[0].stop]
        hidden = ~valid[:, None, :]
        return values.masked_fill(hidden if values.ndim == 3 else hidden[..., None], torch.nan)

    def at_keys(self, keys: Tensor) -> Tensor:
        """The weights [1, H, N, L] of given keys [1, H, N, L]; 0 where there is none (-1), NaN where the query is padding."""
        weights = self.map[None].gather(-1, keys.clamp(min=0)).double().masked_fill(keys < 0, 0.0)
        return self.present("link_probs", weights)

    def _output(self, weights: Tensor | None = None) -> Tensor:
        """Weights times values, as plain torch multiplies them: the weights rounded to the values' format before it."""
        v, a = self.case.v[0], self.map if weights is None else weights
        values = v.to(self.dtype).repeat_interleave(a.shape[0] // v.shape[0], 0)
        return (a if self.dtype == torch.float64 else a.to(v.dtype).to(a.dtype)) @ values

    def _transposed(self) -> Tensor:
        """The map's columns times vectors of the queries, the weights rounded to their format in plain torch."""
        y, a = values_of_queries(self.case)[0], self.map
        weights = a if self.dtype == torch.float64 else a.to(y.dtype).to(a.dtype)
        return weights.transpose(-1, -2) @ y.to(self.dtype)

    def _shifted(self) -> Tensor:
        """The map with its sinks at `BETA` of their weight, the rest to the other keys in proportion; then the output."""
        a = self.map
        sink = torch.arange(self.case.n, device=a.device) < SINKS
        on_sinks, others = (a * sink).sum(-1, keepdim=True), (a * ~sink).sum(-1, keepdim=True)
        gain = 1 + (1 - BETA) * on_sinks / others.clamp(min=1e-300 if a.dtype == torch.float64 else 1e-38)
        shifted = torch.where(others > 0, torch.where(sink, BETA * a, gain * a), a)
        out = self._output(shifted)
        return out if self.dtype == torch.float64 else out.to(self.case.q.dtype)

    def _pooled(self) -> Tensor:
        rows, keys = grid_of(self.case.n)
        n, valid, a = self.case.n, self.case.spec.query_valid, self.map
        a = a if valid is None else a * valid[0, :, None]
        i = torch.arange(n, device=a.device)
        ends = [((i + 1) * cells - 1) // n for cells in (rows, keys)]
        inside = [
            torch.nn.functional.one_hot(at, cells).to(a.dtype)
            for at, cells in zip(ends, (rows, keys), strict=True)
        ]
        return inside[0].T @ a @ inside[1]

    def _tile(self) -> Tensor:
        rows, keys = rectangle(self.case.n)
        return self.map[:, rows.start : rows.stop, keys.start : keys.stop]


def worst(got: Tensor, truth: Tensor) -> float:
    """The largest error where the truth is finite; infinite where one of the two is absent and the other is not."""
    got, truth = got.double(), truth.double()
    if got.shape != truth.shape:
        return float("inf")
    finite = truth.isfinite()
    same = torch.equal(got[~finite].nan_to_num(), truth[~finite].nan_to_num())
    error = (got[finite] - truth[finite]).abs().amax().item() if finite.any() else 0.0
    return error if same and error == error else float("inf")


def judge(name: str, got: Tensor, truth: Truth, plain: Truth) -> Verdict:
    """Hold one statistic against float64.

    Args:
        name: Of the statistic.
        got: What the kernel returned.
        truth: In float64.
        plain: The same in float32.

    Returns:
        The error, and twice plain torch's own; at least four roundings of the largest value count as its own.
    """
    if name == "max_key":  # of equal weights either key will do: what counts is that none is heavier
        name, got = "max_prob", truth.at_keys(got[..., None])[..., 0]
    elif name == "link_keys":
        name, got = "link_probs", truth.at_keys(got)
    elif name == "shifted":  # the output of a padded query may be any number
        got = truth.present(name, got.double())
    exact = truth.of(name)
    largest = exact[exact.isfinite()].abs().max().clamp(min=1).item()
    rounding = _ROUNDINGS * torch.finfo(torch.float32).eps * largest
    return Verdict(worst(got, exact), 2 * max(worst(plain.of(name), exact), rounding))


def judge_peer(gives: str, got: Tensor, truth: Truth) -> Verdict:
    """Whether a peer computes the same thing, to the precision of its own format; padded rows are not looked at.

    Args:
        gives: As `peers.Peer.gives`.
        got: What it returned.
        truth: In float64.

    Returns:
        The error, and four roundings of a weight and of the largest value in the peer's own format.
    """
    if gives == "output":
        exact, rounded = truth.of("applied"), truth.present("applied", got.double())
    else:
        exact, rounded = truth.map.mean((0, 1))[None], got.double()
    eps = torch.finfo(got.dtype).eps if got.dtype != torch.float32 else 2.0**-20
    return Verdict(worst(rounded, exact), 4 * eps * exact[exact.isfinite()].abs().max().item())
