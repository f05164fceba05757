"""Attention with shrunken sinks against ACT's map written out in float64: every rule, both implementations."""

import math
from dataclasses import replace

import pytest
import torch
from attention_oracle import attention, calibrated, calibrated_output, worst
from fresh_memory import poison
from score_cases import RULES, SHAPES, make
from sink_cases import assert_shifted, planted, sinks_of, values_of

from probe.kernels.sink_shift import sink_keys, sink_shift
from probe.kernels.sink_shift.layout import lay_out

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    poison(monkeypatch)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_plain_torch(rule, shape):
    q, k, spec = make(rule, *SHAPES[shape])
    v, sinks = values_of(k, 20), sinks_of(*q.shape[:3])
    assert_shifted(
        sink_shift(q, k, v, spec, sinks, 0.4, implementation="reference"), q, k, v, spec, sinks, 0.4
    )


@pytest.mark.parametrize("rule", RULES)
def test_triton_interpreted(rule):
    q, k, spec = make(rule, *SHAPES["130" if rule in ("full", "causal") else "63"])
    v, sinks = values_of(k, 20), sinks_of(*q.shape[:3])
    assert_shifted(sink_shift(q, k, v, spec, sinks, 0.4, implementation="triton"), q, k, v, spec, sinks, 0.4)


@BOTH
@pytest.mark.parametrize("shape", ["one-token", "100"])
def test_awkward_shapes(shape, implementation):
    q, k, spec = make("causal", *SHAPES[shape])
    v, sinks = values_of(k, 130), sinks_of(*q.shape[:3], share=0.6)
    got = sink_shift(q, k, v, spec, sinks, 0.25, implementation=implementation)
    assert_shifted(got, q, k, v, spec, sinks, 0.25)


@BOTH
@pytest.mark.parametrize(
    "rule", ["window", "alibi", "distance-bias", "prefix", "chunk", "sink", "documents", "holes"]
)
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 70), (5, 600)])
def test_decoding_offset(rule, n_queries, n_keys, implementation):
    """Few queries, many keys: with 600 keys several programs share them."""
    q, k, spec = make(rule, 1, 2, 1, n_keys, 32)
    v, sinks = values_of(k, 24), sinks_of(1, 2, n_keys, 0.02)
    sinks[0, 1, n_keys // 2] = True
    spec, q = replace(spec, offset=n_keys - n_queries), q[:, :, -n_queries:]
    got = sink_shift(q, k, v, spec, sinks, 0.4, implementation=implementation)
    assert_shifted(got, q, k, v, spec, sinks, 0.4)


@pytest.mark.parametrize("parts", [2, 5])
def test_the_number_of_programs_that_share_the_keys_does_not_matter(parts, monkeypatch):
    monkeypatch.setattr("probe.kernels.sink_shift.triton.parts_of", lambda *_: parts)
    for rule in ("causal", "left-padded", "window"):
        q, k, spec = make(rule, 2, 2, 1, 200, 16)
        v, sinks = values_of(k, 16), sinks_of(2, 2, 200)
        got = sink_shift(q, k, v, spec, sinks, 0.4, implementation="triton")
        assert_shifted(got, q, k, v, spec, sinks, 0.4)


@pytest.mark.parametrize("timed", [False, True])
def test_a_long_list_of_marked_keys(timed):
    """More keys than the program that lists them takes at once; a choice is laid out once."""
    n = 2_500
    sinks, kept = sinks_of(2, 3, n, 0.3), torch.arange(n).expand(2, n) % 700 == 3
    since = torch.randint(0, n, (2, 3, n), generator=torch.Generator().manual_seed(3)) if timed else None
    choice = sink_keys(sinks, 0.4, kept=kept, since=since)
    made = lay_out(choice)
    assert lay_out(choice)["LIST"] is made["LIST"]
    marked = sinks | kept[:, None]
    assert torch.equal(made["COUNT"], marked.sum(-1).int())
    for b in range(2):
        for h in range(3):
            keys = marked[b, h].nonzero()[:, 0]
            entries = made["LIST"][b, h, : len(keys)]
            assert torch.equal(entries.long(), 2 * keys + kept[b, keys])
    hidden = torch.where(marked, -math.inf, 0.0)
    if timed:
        hidden = torch.where(kept[:, None], -1, torch.where(sinks, since, 2**31 - 1)).int()
    assert torch.equal(made["HIDE"], hidden)


@BOTH
def test_decoding_with_frozen_sinks_is_the_prefill(implementation):
    """The choice made at the prefill serves all later steps; keys that the cache gains are no sinks."""
    n, first = 40, 33
    q, k, spec = make("causal", 2, 4, 2, n, 16)
    v, sinks = values_of(k, 16), sinks_of(2, 4, first)
    choice = sink_keys(sinks, 0.4)
    whole = sink_shift(q, k, v, spec, sinks, 0.4, implementation=implementation)
    assert_shifted(whole, q, k, v, spec, sinks, 0.4)
    for step in range(first, n):
        now = slice(step, step + 1)
        got = sink_shift(
            q[:, :, now], k[:, :, : step + 1], v[:, :, : step + 1], replace(spec, offset=step), choice,
            implementation=implementation,
        )  # fmt: skip
        for name, part, all_rows in zip(got._fields, got, whole, strict=True):
            assert torch.allclose(part, all_rows[:, :, now], atol=2e-6), name


@BOTH
@pytest.mark.parametrize("mass", [0.9, 0.99, 0.999])
def test_the_error_does_not_grow_with_the_mass_on_the_sinks(mass, implementation):
    """bf16: correcting the rounded output of plain attention is 1/(1 - S) times worse; summing apart is not."""
    q, k, v, spec, sinks = planted(mass, 120)
    got = sink_shift(q, k, v, spec, sinks, 0.4, implementation=implementation)
    assert float(got.sink_mass[..., -9:].mean()) == pytest.approx(mass, abs=0.1 * (1 - mass))
    assert_shifted(got, q, k, v, spec, sinks, 0.4)
    truth = calibrated_output(calibrated(q, k, spec, sinks, 0.4)[0], v, torch.float64)
    own = worst(got.out[:, :, 4:], truth[:, :, 4:])
    # ACT from what other backends return: c·o + (beta - c)·o_S with o rounded to bf16
    weights = attention(q, k, spec)[0]
    plain, S = calibrated_output(weights, v, torch.bfloat16), got.sink_mass[..., None].double()
    c = (1 - 0.4 * S) / (1 - S)
    corrected = (c * plain.double() + (0.4 - c) * S * v[:, :, 3:4].double()).bfloat16()
    assert worst(corrected[:, :, 4:], truth[:, :, 4:]) > (3 if mass < 0.99 else 15) * own
