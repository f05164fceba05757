"""The checks that every record carries: identities that an exact map obeys, and parity with the model.

Tolerances are bounds on rounding, not chosen numbers. With ε of float32, n terms in a sum, head size D and δ
the bound on the error of one score (`parity.score_error`), a probability is off by 2δ relative, a sum of n
by (√n + 8)·ε relative, an entropy by (2δ + 2(√n + 8)ε)(1 + ln n). Parity allows twice as much, since eager
rounds too. A backend's output is off by the largest value times (2δ + (√n + 8)ε + two roundings to the dtype
of the model), and by twice the error of plain torch in that dtype.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.call import AttentionCall, MapCall
from probe.errors import ModelError
from probe.families.text import Prepared
from probe.kernels.dense import row_definitions
from probe.kernels.statistics import map_statistics
from probe.record import Check, strings
from probe.validity import parity
from probe.validity.checks import (
    EPS,
    given_by_rows,
    map_checks,
    outside,
    padding,
    ratio,
    worst_of,
)

Array = np.ndarray[Any, Any]


@dataclass
class Report:
    """Collects the checks of a run, layer by layer.

    Attributes:
        checks: what was found so far.
    """

    checks: list[Check] = field(default_factory=list)

    def layer(
        self,
        call: AttentionCall | MapCall,
        values: Mapping[str, Array],
        keys_seen: Array,
        implementation: str,
        *,
        query_valid: Tensor | None = None,
        key_valid: Tensor | None = None,
        later: list[Callable[[], Check]] | None = None,
    ) -> None:
        """Check one layer.

        Args:
            call: the call.
            values: its statistics, [B, H, Nq] or [B, H, Nk]; "key_mass" among them if the call has a sink logit.
            keys_seen: visible keys per query, [B, Nq].
            implementation: of the kernels, for the window.
            query_valid: False where a query is padding, [B, Nq], as the input says; None: as the call says.
            key_valid: the same of the keys, [B, Nk].
            later: the checks that need nothing of the device are put here instead, to be made when there is time.
        """
        said = parity.validity(call)
        queries, keys = (
            (own if given is None else given).cpu().numpy()
            for own, given in zip(said, (query_valid, key_valid), strict=True)
        )
        add = self.checks.append
        apart: list[Callable[[], Check]] = [partial(padding, call.layer, values, queries, keys)]
        if not isinstance(call, MapCall):
            delta, own = _score_error(call), said[0].cpu().numpy()
            facts = (call.layer, call.spec.sink is not None, max(call.q.shape[2], call.k.shape[2]), delta)
            if "received" in values:
                apart.append(partial(column_sums, *facts, values, given_by_rows(keys_seen, own)))
            if "entropy" in values:
                apart.append(
                    partial(
                        entropy_bounds,
                        *facts[:2],
                        call.k.shape[2],
                        delta,
                        values["entropy"],
                        keys_seen,
                    )
                )
        if later is None:
            self.checks += [check() for check in apart]
        else:
            later += apart
        if isinstance(call, MapCall):
            self.checks += map_checks(call, values, keys_seen)
            return
        cut = parity.window(call)
        out, weights = parity.eager(call, cut, _exact(call.q))
        known = parity.reference(weights, cut)
        add(_parity_of_statistics(call, cut, known, values, implementation))
        if bool(cut.contained.any()):
            add(_parity_of_output(call, cut, out))
        if call.q.shape[2] > parity.WINDOW or bool((cut.row_valid & ~cut.contained).any()):
            add(_parity_of_last_rows(call, values, delta))

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


def column_sums(
    layer: int, sink: bool, n: int, delta: Array, values: Mapping[str, Array], given: Array
) -> Check:
    """What all keys receive is what all valid queries give: 1 each, or 1 minus the sink's mass.

    Args:
        layer: number of the layer.
        sink: whether a sink logit takes a part.
        n: the longer side of the map.
        delta: bound on the error of a score, [B, H].
        values: "received" and, with a sink, "key_mass".
        given: what the queries give without a sink, [B, 1].
    """
    total = np.nansum(values["received"], axis=2, dtype=np.float64)
    if sink:
        given = np.asarray(np.nansum(values["key_mass"], axis=2, dtype=np.float64))
    tolerance = np.maximum(given, 1) * (2 * delta + (math.sqrt(n) + 8) * EPS)
    meaning = "|Σ_k received - Σ_q mass given to keys|, per head"
    return worst_of("column sums", layer, np.abs(total - given), tolerance, meaning)


def entropy_bounds(layer: int, sink: bool, n: int, delta: Array, entropy: Array, keys_seen: Array) -> Check:
    """0 ≤ H ≤ ln(keys seen); with a sink logit the bound of two keys or one is n/e instead (mass below 1)."""
    seen = np.maximum(keys_seen, 1).astype(np.float64)
    upper = np.log(seen)
    if sink:
        upper = np.where(seen < math.e, seen / math.e, upper)
    return outside(layer, entropy, upper, _entropy_error(delta, n))


def _entropy_error(delta: Array, n: int) -> Array:
    bound: Array = (2 * delta + 2 * (math.sqrt(n) + 8) * EPS) * (1 + math.log(max(n, 1)))
    return bound


def _score_error(call: AttentionCall) -> Array:
    """Bound on the rounding error of any score of the call, [B, H], with |q·k| ≤ ‖q‖‖k‖."""

    def largest(x: Tensor, valid: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(x, dim=3, dtype=torch.float32)
        most: Tensor = norms.masked_fill(~valid[:, None], 0).amax(2)
        return most

    queries, keys = parity.validity(call)
    group = call.q.shape[1] // call.k.shape[1]
    size = largest(call.q, queries) * largest(call.k, keys).repeat_interleave(group, 1) * abs(call.spec.scale)
    error: Array = ((call.q.shape[3] ** 0.5 + 4) * EPS * size).cpu().double().numpy()
    return error + parity.bias_error(call.spec)


def _parity_of_statistics(
    call: AttentionCall,
    cut: parity.Window,
    known: Mapping[str, Tensor],
    values: Mapping[str, Array],
    implementation: str,
) -> Check:
    """Kernels on the window, and recorded rows that see nothing outside it, against eager in float64."""
    names = [name for name in values if name in known]
    rule = cut.rule(call.spec)
    got = map_statistics(
        cut.of_rows(call.q), cut.of_keys(call.k), rule, names or ["key_mass"], implementation
    )
    delta = parity.score_error(call, cut).cpu().double().numpy()
    meaning = "statistics of the kernels against the model's eager attention in float64, on a window"
    found = [worst_of("eager parity", call.layer, np.zeros(1), np.full(1, EPS), meaning)]
    samples, index = cut.samples.cpu().numpy(), cut.rows.cpu().numpy()
    rows, keys = (flags.cpu().numpy()[:, None] for flags in (cut.row_valid, cut.key_valid))
    # the positions of the window count from another key than those of the call where the two do not move together
    moved = (
        ("distance",)
        if cut.before is not None or (not call.spec.causal and rule.offset != call.spec.offset)
        else ()
    )
    for name in names or ["key_mass"]:
        want = known[name].cpu().double().numpy()
        tolerance = 2 * _statistic_error(name, want, delta, cut.keys.shape[1])
        errors = [np.abs(got[name].cpu().double().numpy() - want)]
        if name in values and name not in ("received", *moved):
            recorded = np.stack([values[name][b][:, at] for b, at in zip(samples, index, strict=True)])
            inside = cut.contained.cpu().numpy()[:, None]
            errors.append(np.where(inside, np.abs(recorded - want), 0.0))
        for error in errors:
            there = keys if name == "received" else rows
            error = np.where(there, np.where(np.isnan(error), np.inf, error), 0.0)
            found.append(
                worst_of("eager parity", call.layer, error.max(2), tolerance, f"{meaning} (worst: {name})")
            )
    return max(found, key=ratio)


def _statistic_error(name: str, want: Array, delta: Array, n: int) -> Array:
    """Bound on the error of a statistic of n keys, per head, from the largest value `want` of the head."""
    if name == "entropy":
        return _entropy_error(delta, n)
    if name == "effective_keys":  # exp(H): its relative error is the absolute one of H
        return np.nanmax(np.abs(want), axis=2, initial=0.0) * _entropy_error(delta, n)  # type: ignore[no-any-return]
    size = np.maximum(np.nanmax(np.abs(want), axis=2, initial=0.0), EPS)
    share = 4 if name == "second_moment" else 2
    bound: Array = size * (share * delta + (math.sqrt(n) + 8) * EPS)
    return bound


def _parity_of_output(call: AttentionCall, cut: parity.Window, exact: Tensor) -> Check:
    """The backend's output against eager's, per head, where the window holds all that its rows see."""
    if call.output.shape != (*call.q.shape[:1], call.q.shape[2], call.q.shape[1], call.v.shape[3]):
        raise ModelError(
            f"{call.name}: the backend's output has shape {list(call.output.shape)}, expected [B, N, H, D]"
        )
    plain, _ = parity.eager(call, cut, call.q.dtype)
    own = cut.of_rows(call.output.transpose(1, 2)).transpose(1, 2)
    rows = cut.contained[:, :, None]

    def error(x: Tensor) -> Array:
        gap = (x.to(exact.dtype) - exact).abs().amax(3)
        worst: Array = gap.masked_fill(~rows, 0).amax(1).cpu().double().numpy()
        return worst

    values = cut.of_keys(call.v).abs().amax(3).masked_fill(~cut.key_valid[:, None], 0).amax(2)
    delta = parity.score_error(call, cut).cpu().double().numpy()
    tolerance = 2 * error(plain) + _output_error(call, delta, values.cpu().double().numpy())
    meaning = "the backend's output per head against eager A·V in float64, on a window"
    return worst_of("output", call.layer, error(own), tolerance, meaning)


def _output_error(call: AttentionCall, delta: Array, largest: Array) -> Array:
    """Bound on the rounding error of A·V in float32, rounded twice to the model's dtype.

    Args:
        call: the call.
        delta: bound on the error of a score, per head.
        largest: largest value, per key head.
    """
    n, own = call.k.shape[2], torch.finfo(call.q.dtype).eps
    values = largest.repeat(call.q.shape[1] // call.v.shape[1], -1)
    bound: Array = values * (2 * delta + (math.sqrt(n) + 8) * EPS + 2 * own)
    return bound


def _parity_of_last_rows(call: AttentionCall, values: Mapping[str, Array], delta: Array) -> Check:
    """The last rows of some samples over all keys: recorded row statistics, and the backend's output."""
    meaning = "row statistics and the backend's output against float64, in the last rows over all keys"
    queries, keys = parity.validity(call)
    found = [worst_of("last rows", call.layer, np.zeros(1), np.full(1, EPS), meaning)]
    for sample in {0, call.q.shape[0] // 2, call.q.shape[0] - 1}:
        if not bool(queries[sample].any()):
            continue
        rows, weights, exact = parity.last_rows(call, sample, _exact(call.q))
        _, _, plain = parity.last_rows(call, sample, call.q.dtype)
        # a row that sees nothing has no softmax (NaN here); its statistics are bounded by the entropy check
        there = (queries[sample, rows.start : rows.stop] & weights.isfinite().all(2).all(0)).cpu().numpy()
        if not there.any():
            continue
        at = torch.arange(rows.start, rows.stop, device=weights.device) + call.spec.offset
        for name, known in row_definitions(weights, at, parity.REAL).items():
            if name in values:
                want = known.cpu().double().numpy()[None]
                error = np.abs(values[name][sample][None, :, rows.start : rows.stop] - want)
                error = np.where(there, np.where(np.isnan(error), np.inf, error), 0.0).max(2)
                tolerance = 2 * _statistic_error(name, want, delta[sample][None], call.k.shape[2])
                found.append(
                    worst_of("last rows", call.layer, error, tolerance, f"{meaning} (worst: {name})")
                )
        own = call.output[sample, rows.start : rows.stop]
        gaps = [
            (x.to(exact.dtype) - exact).abs().amax(2)[there].amax(0).cpu().double().numpy()
            for x in (own, plain)
        ]
        largest = call.v[sample, :, keys[sample]].abs().amax((1, 2)).cpu().double().numpy()
        tolerance = 2 * gaps[1] + _output_error(call, delta[sample], largest)
        found.append(worst_of("last rows", call.layer, gaps[0], tolerance, f"{meaning} (worst: output)"))
    return max(found, key=ratio)


def _exact(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
