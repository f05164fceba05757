"""The checks that every record carries: identities that an exact map obeys, and parity with the model.

Tolerances are bounds on rounding, not chosen numbers. With ε of float32, n terms in a sum, head size D and δ
the bound on the error of one score (`_parity.score_error`), a probability is off by 2δ relative, a sum of n
by (√n + 8)·ε relative, an entropy by (2δ + 2(√n + 8)ε)(1 + ln n). Parity allows twice as much, since eager
rounds too. A backend's output is off by the largest value times (2δ + (√n + 8)ε + two roundings to the dtype
of the model), and by twice the error of plain torch in that dtype.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from probe import _parity
from probe.call import AttentionCall
from probe.errors import ModelError
from probe.families.text import Prepared
from probe.kernels.statistics import map_statistics
from probe.record import strings

Array = np.ndarray[Any, Any]
_EPS = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Check:
    """One figure of a report: the worst error found, and what rounding can explain."""

    name: str
    layer: int
    worst: float
    tolerance: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the error is explained; NaN never is."""
        return self.worst <= self.tolerance


@dataclass
class Report:
    """Collects the checks of a run, layer by layer.

    Attributes:
        checks: what was found so far.
    """

    checks: list[Check] = field(default_factory=list)

    def layer(
        self, call: AttentionCall, values: Mapping[str, Array], keys_seen: Array, implementation: str
    ) -> None:
        """Check one layer.

        Args:
            call: the call.
            values: its statistics, [B, H, N]; "key_mass" among them if the call has a sink logit.
            keys_seen: visible keys per query, [B, N].
            implementation: of the kernels, for the window.
        """
        add = self.checks.append
        valid = (
            torch.ones(call.q.shape[0], call.q.shape[2], dtype=torch.bool)
            if call.spec.query_valid is None
            else call.spec.query_valid
        )
        add(padding(call.layer, values, valid.cpu().numpy()))
        if "received" in values:
            add(column_sums(call, values, keys_seen, valid))
        if "entropy" in values:
            add(entropy_bounds(call, values["entropy"], keys_seen, valid))
        cut = _parity.window(call, valid)
        out, weights = _parity.eager(call, cut, _exact(call.q))
        known = _parity.reference(weights, cut.valid)
        add(_parity_of_statistics(call, cut, known, values, implementation))
        if bool(cut.contained.any()):
            add(_parity_of_output(call, cut, out))
        if call.q.shape[2] > _parity.WINDOW:
            add(_parity_of_last_rows(call, values, valid))

    def tokens(self, prepared: Prepared) -> None:
        """Check that the pieces of each sample join to its text."""
        if prepared.texts is None:
            return
        text, valid = prepared.tokens["text"].values, prepared.tokens["valid"].values
        start, end = prepared.tokens["start"].values, prepared.tokens["end"].values
        placed = valid & ((start >= 0) | (prepared.tokens["role"].values == "text"))
        broken = sum(
            "".join(row[keep].tolist()) != given
            for row, keep, given in zip(text, placed, prepared.texts, strict=True)
        )
        broken += int((valid & (end < start)).sum())
        self.checks.append(
            Check("tokens", -1, float(broken), 0.0, "samples whose token pieces do not join to the text")
        )

    def dataset(self) -> xr.Dataset:
        """The record's /validity."""
        columns: dict[str, Array] = {
            "name": strings([c.name for c in self.checks]),
            "layer": np.array([c.layer for c in self.checks], dtype=np.int64),
            "worst": np.array([c.worst for c in self.checks], dtype=np.float64),
            "tolerance": np.array([c.tolerance for c in self.checks], dtype=np.float64),
            "passed": np.array([c.passed for c in self.checks], dtype=bool),
            "meaning": strings([c.meaning for c in self.checks]),
        }
        passed = bool(columns["passed"].all()) and bool(self.checks)
        return xr.Dataset(
            {name: ("check", values) for name, values in columns.items()}, attrs={"passed": passed}
        )

    def complaint(self) -> str | None:
        """One line about what failed, or None."""
        failed = [c for c in self.checks if not c.passed]
        if not failed:
            return None
        c = failed[0]
        place = f"layer {c.layer}" if c.layer >= 0 else "the tokens"
        return (
            f"{len(failed)} of {len(self.checks)} validity checks failed, first {c.name!r} in {place}: "
            f"{c.worst:.3g} where rounding explains {c.tolerance:.3g} ({c.meaning}); do not trust this record"
        )


def padding(layer: int, values: Mapping[str, Array], valid: Array) -> Check:
    """Statistics are absent at padded positions and nowhere else."""
    wrong = 0
    for x in values.values():
        absent = x < 0 if x.dtype.kind == "i" else np.isnan(x)
        wrong += int((absent != ~valid[:, None, :]).sum())
    return Check(
        "padding", layer, float(wrong), 0.0, "statistics that are absent at tokens, or there at padding"
    )


def column_sums(call: AttentionCall, values: Mapping[str, Array], keys_seen: Array, valid: Tensor) -> Check:
    """What all keys receive is what all valid queries give: 1 each, or 1 minus the sink's mass."""
    total = np.nansum(values["received"], axis=2, dtype=np.float64)
    if call.spec.sink is None:
        given = ((keys_seen > 0) & valid.cpu().numpy()).sum(1)[:, None].astype(np.float64)
    else:
        given = np.nansum(values["key_mass"], axis=2, dtype=np.float64)
    n = call.q.shape[2]
    tolerance = np.maximum(given, 1) * (2 * _score_error(call, valid) + (math.sqrt(n) + 8) * _EPS)
    meaning = "|Σ_k received - Σ_q mass given to keys|, per head"
    return _worst("column sums", call.layer, np.abs(total - given), tolerance, meaning)


def entropy_bounds(call: AttentionCall, entropy: Array, keys_seen: Array, valid: Tensor) -> Check:
    """0 ≤ H ≤ ln(keys seen); with a sink logit the bound of two keys or one is n/e instead (mass below 1)."""
    n = np.maximum(keys_seen, 1).astype(np.float64)
    upper = np.log(n)
    if call.spec.sink is not None:
        upper = np.where(n < math.e, n / math.e, upper)
    over = np.maximum(-entropy, entropy - upper[:, None, :])
    tolerance = _entropy_error(_score_error(call, valid), call.k.shape[2])
    worst = np.nanmax(np.maximum(over, 0), axis=2, initial=0.0)
    return _worst("entropy bounds", call.layer, worst, tolerance, "entropy outside [0, ln of the keys seen]")


def _entropy_error(delta: Array, n: int) -> Array:
    bound: Array = (2 * delta + 2 * (math.sqrt(n) + 8) * _EPS) * (1 + math.log(max(n, 1)))
    return bound


def _score_error(call: AttentionCall, valid: Tensor) -> Array:
    """Bound on the rounding error of any score of the call, [B, H], with |q·k| ≤ ‖q‖‖k‖."""

    def largest(x: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(x, dim=3, dtype=torch.float32)
        most: Tensor = norms.masked_fill(~valid.to(x.device)[:, None], 0).amax(2)
        return most

    group = call.q.shape[1] // call.k.shape[1]
    size = largest(call.q) * largest(call.k).repeat_interleave(group, 1) * abs(call.spec.scale)
    error: Array = ((call.q.shape[3] ** 0.5 + 4) * _EPS * size).cpu().double().numpy()
    return error


def _parity_of_statistics(
    call: AttentionCall,
    cut: _parity.Window,
    known: Mapping[str, Tensor],
    values: Mapping[str, Array],
    implementation: str,
) -> Check:
    """Kernels on the window, and recorded rows that see nothing outside it, against eager in float64."""
    names = [name for name in values if name in known]
    rule = cut.rule(call.spec)
    got = map_statistics(cut.cut(call.q), cut.cut(call.k), rule, names or ["key_mass"], implementation)
    delta = _parity.score_error(call, cut).cpu().double().numpy()
    meaning = "statistics of the kernels against the model's eager attention in float64, on a prefix"
    found = [_worst("eager parity", call.layer, np.zeros(1), np.full(1, _EPS), meaning)]
    samples, index = cut.samples.cpu().numpy(), cut.index.cpu().numpy()
    for name in names or ["key_mass"]:
        want = known[name].cpu().double().numpy()
        tolerance = 2 * _statistic_error(name, want, delta, want.shape[2])
        errors = [np.abs(got[name].cpu().double().numpy() - want)]
        if name in values and name != "received":
            recorded = np.stack([values[name][b][:, at] for b, at in zip(samples, index, strict=True)])
            inside = cut.contained.cpu().numpy()[:, None, None]
            errors.append(np.where(inside, np.abs(recorded - want), 0.0))
        for error in errors:
            there = np.where(cut.valid.cpu().numpy()[:, None], np.where(np.isnan(error), np.inf, error), 0.0)
            found.append(
                _worst("eager parity", call.layer, there.max(2), tolerance, f"{meaning} (worst: {name})")
            )
    return max(found, key=_ratio)


def _statistic_error(name: str, want: Array, delta: Array, n: int) -> Array:
    """Bound on the error of a statistic of n keys, per head, from the largest value `want` of the head."""
    if name == "entropy":
        return _entropy_error(delta, n)
    size = np.maximum(np.nanmax(np.abs(want), axis=2, initial=0.0), _EPS)
    share = 4 if name == "second_moment" else 2
    bound: Array = size * (share * delta + (math.sqrt(n) + 8) * _EPS)
    return bound


def _parity_of_output(call: AttentionCall, cut: _parity.Window, exact: Tensor) -> Check:
    """The backend's output against eager's, per head, where the window holds all that its rows see."""
    if call.output.shape != (*call.q.shape[:1], call.q.shape[2], call.q.shape[1], call.v.shape[3]):
        raise ModelError(
            f"{call.name}: the backend's output has shape {list(call.output.shape)}, expected [B, N, H, D]"
        )
    plain, _ = _parity.eager(call, cut, call.q.dtype)
    own = cut.cut(call.output.transpose(1, 2)).transpose(1, 2)
    rows = (cut.valid & cut.contained[:, None])[:, :, None]

    def error(x: Tensor) -> Array:
        gap = (x.to(exact.dtype) - exact).abs().amax(3)
        worst: Array = gap.masked_fill(~rows, 0).amax(1).cpu().double().numpy()
        return worst

    values = cut.cut(call.v).abs().amax(3).masked_fill(~cut.valid[:, None], 0).amax(2)
    delta = _parity.score_error(call, cut).cpu().double().numpy()
    tolerance = 2 * error(plain) + _output_error(call, delta, values.cpu().double().numpy())
    meaning = "the backend's output per head against eager A·V in float64, on a prefix"
    return _worst("output", call.layer, error(own), tolerance, meaning)


def _output_error(call: AttentionCall, delta: Array, largest: Array) -> Array:
    """Bound on the rounding error of A·V in float32, rounded twice to the model's dtype.

    Args:
        call: the call.
        delta: bound on the error of a score, per head.
        largest: largest value, per key head.
    """
    n, own = call.k.shape[2], torch.finfo(call.q.dtype).eps
    values = largest.repeat(call.q.shape[1] // call.v.shape[1], -1)
    bound: Array = values * (2 * delta + (math.sqrt(n) + 8) * _EPS + 2 * own)
    return bound


def _parity_of_last_rows(call: AttentionCall, values: Mapping[str, Array], valid: Tensor) -> Check:
    """The last rows of some samples over all keys: recorded row statistics, and the backend's output."""
    meaning = "row statistics and the backend's output against float64, in the last rows over all keys"
    delta = _score_error(call, valid)
    found = []
    for sample in {0, call.q.shape[0] // 2, call.q.shape[0] - 1}:
        rows, weights, exact = _parity.last_rows(call, valid, sample, _exact(call.q))
        _, _, plain = _parity.last_rows(call, valid, sample, call.q.dtype)
        there = valid[sample, rows.start : rows.stop].cpu().numpy()
        at = torch.arange(rows.start, rows.stop, device=weights.device)
        for name, known in _parity.row_statistics(weights, at).items():
            if name in values:
                want = known.cpu().double().numpy()[None]
                error = np.abs(values[name][sample][None, :, rows.start : rows.stop] - want)
                error = np.where(there, np.where(np.isnan(error), np.inf, error), 0.0).max(2)
                tolerance = 2 * _statistic_error(name, want, delta[sample][None], call.k.shape[2])
                found.append(_worst("last rows", call.layer, error, tolerance, f"{meaning} (worst: {name})"))
        own = call.output[sample, rows.start : rows.stop]
        gaps = [
            (x.to(exact.dtype) - exact).abs().amax(2)[there].amax(0).cpu().double().numpy()
            for x in (own, plain)
        ]
        largest = call.v[sample, :, valid[sample].to(call.v.device)].abs().amax((1, 2)).cpu().double().numpy()
        tolerance = 2 * gaps[1] + _output_error(call, delta[sample], largest)
        found.append(_worst("last rows", call.layer, gaps[0], tolerance, f"{meaning} (worst: output)"))
    return max(found, key=_ratio)


def _exact(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _worst(name: str, layer: int, errors: Array, tolerances: Array, meaning: str) -> Check:
    """The error that is largest beside its own tolerance."""
    tiny = np.finfo(np.float64).tiny
    ratio = np.where(np.isnan(errors), np.inf, errors) / np.maximum(tolerances, tiny)
    at = np.unravel_index(int(ratio.argmax()), ratio.shape)
    return Check(
        name, layer, float(errors[at]), float(np.broadcast_to(tolerances, errors.shape)[at]), meaning
    )


def _ratio(check: Check) -> float:
    return check.worst / max(check.tolerance, float(np.finfo(np.float64).tiny))
