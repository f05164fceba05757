"""What attention with shrunken sinks means: closed forms, and what must not change."""

import math

import pytest
import torch
from attention_oracle import attention, calibrated, calibrated_output, worst
from fresh_memory import Largest, poison
from score_cases import SHAPES, make
from sink_cases import assert_shifted, sinks_of, values_of

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import CHUNK_SCORES
from probe.kernels.sink_shift import sink_keys, sink_shift

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    poison(monkeypatch)


@BOTH
def test_the_planted_map_of_the_method(implementation):
    """Rows from 3 on put w on token 3, the rest is uniform. Values are the unit vectors, so that the output is the map."""
    n, w, beta = 30, 0.7, 0.4
    q, k = torch.ones(1, 1, n, 16), torch.zeros(1, 1, n, 16)
    seen = torch.arange(1, n + 1).float()
    # the score of token 3 depends on the row: ln of w/(1-w) times the number of other keys
    q[0, 0, :, 1] = torch.log(w / (1 - w) * (seen - 1).clamp(min=1))
    q[0, 0, :, 0] = 0
    k[0, 0, 3, 1] = 1.0
    sinks = (torch.arange(n) == 3)[None, None]
    got = sink_shift(q, k, torch.eye(n)[None, None], ScoreSpec(scale=1.0, causal=True), sinks, beta,
                     implementation=implementation).out[0, 0]  # fmt: skip
    for i in range(n):
        row = torch.zeros(n)
        row[: i + 1] = 1 / (i + 1)
        if i >= 3:
            row[: i + 1] = (1 - w) / i * (1 + (1 - beta) * w / (1 - w))
            row[3] = beta * w
        assert torch.allclose(got[i], row, atol=1e-6), i


@BOTH
@pytest.mark.parametrize("rule", ["causal", "left-padded", "window", "full", "softcap"])
def test_rows_keep_their_sum_and_the_others_their_ratios(rule, implementation):
    n = 40
    q, k, spec = make(rule, 2, 2, 1, n, 16)
    unit, sinks = torch.eye(n).expand(2, 1, n, n), sinks_of(2, 2, n)
    plain = sink_shift(q, k, unit, spec, torch.zeros_like(sinks), 0.4, implementation=implementation).out
    got = sink_shift(q, k, unit, spec, sinks, 0.4, implementation=implementation).out
    assert (got >= 0).all()
    assert torch.allclose(got.sum(-1), plain.sum(-1), atol=5e-7)
    assert torch.equal(got == 0, plain == 0)
    others = plain.masked_fill(sinks[:, :, None], 0)
    pays = others.sum(-1, keepdim=True) > 0
    gain = torch.where(sinks[:, :, None] | ~pays, 0, got / plain.clamp(min=1e-30))
    ratio = gain.amax(-1, keepdim=True)
    assert torch.allclose(gain, torch.where(sinks[:, :, None] | (plain == 0), 0, ratio), rtol=2e-5)


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_without_sinks_nothing_changes(beta, implementation):
    q, k, spec = make("sink-window-padded", 2, 4, 2, 50, 16)
    v, none = values_of(k, 16), torch.zeros(2, 4, 50, dtype=torch.bool)
    got = sink_shift(q, k, v, spec, none, beta, implementation=implementation)
    expected = sink_shift(q, k, v, spec, none, 0.4, implementation=implementation)
    assert torch.equal(got.out, expected.out)
    truth = calibrated_output(attention(q, k, spec)[0], v, torch.float64)
    assert worst(got.out, truth) < 2e-6
    marked = sink_shift(q, k, v, spec, sinks_of(2, 4, 50), 1.0, implementation=implementation)
    assert worst(marked.out, truth) < 2e-6


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_a_row_with_nobody_to_pay_stays_as_it_was(beta, implementation):
    q, k, spec = make("causal", 1, 2, 2, 20, 16)
    v, sinks = values_of(k, 16), torch.zeros(1, 2, 20, dtype=torch.bool)
    sinks[:, :, :6] = True
    got = sink_shift(q, k, v, spec, sinks, beta, implementation=implementation)
    plain = calibrated_output(attention(q, k, spec)[0], v, torch.float64)
    assert worst(got.out[:, :, :6], plain[:, :, :6]) < 2e-6
    assert torch.allclose(got.sink_mass[:, :, :6], torch.ones(1, 2, 6), atol=2e-7)
    assert torch.equal(got.rest_mass[:, :, :6], torch.zeros(1, 2, 6))
    assert_shifted(got, q, k, v, spec, sinks, beta)


@BOTH
@pytest.mark.parametrize("height", [30.0, 300.0, 1e4])
def test_receivers_whose_mass_no_float_holds_are_paid_all_the_same(height, implementation):
    """The sink is so high that S is 1: the output is beta times its value plus (1 - beta) times the mean of the others."""
    n = 30
    q, k = torch.ones(1, 1, n, 16), torch.zeros(1, 1, n, 16)
    k[:, :, 4] = height / 16
    v, sinks = values_of(k, 16), (torch.arange(n) == 4)[None, None]
    got = sink_shift(q, k, v, ScoreSpec(scale=1.0), sinks, 0.4, implementation=implementation)
    others = v[0, 0][torch.arange(n) != 4].mean(0)
    assert torch.allclose(got.out[0, 0], (0.4 * v[0, 0, 4] + 0.6 * others).expand(n, 16), atol=1e-6)
    assert torch.allclose(got.lse, torch.full((1, 1, n), height), rtol=2e-7)


@BOTH
@pytest.mark.parametrize("size", [100.0, 1e4, -1e4])
def test_extreme_logits(size, implementation):
    q, k, spec = make("causal", 1, 2, 2, 40, 16)
    v, sinks = values_of(k, 16), sinks_of(1, 2, 40)
    got = sink_shift(q * size, k, v, spec, sinks, 0.4, implementation=implementation)
    assert all(torch.isfinite(x).all() for x in got)
    assert_shifted(got, q * size, k, v, spec, sinks, 0.4)


@BOTH
@pytest.mark.parametrize("logit", [None, 1.5])
def test_rows_that_see_nothing(logit, implementation):
    q, k, _ = make("full", 1, 2, 2, 20, 16)
    spec = ScoreSpec(
        scale=0.25, causal=True, key_valid=torch.arange(20)[None] >= 6,
        sink=None if logit is None else torch.tensor([logit, logit]),
    )  # fmt: skip
    v, sinks = values_of(k, 16), torch.ones(1, 2, 20, dtype=torch.bool)
    got = sink_shift(q, k, v, spec, sinks, 0.4, implementation=implementation)
    assert torch.equal(got.out[:, :, :6], torch.zeros(1, 2, 6, 16))
    for mass in (got.sink_mass, got.rest_mass):
        assert torch.equal(mass[:, :, :6], torch.zeros(1, 2, 6))
    assert torch.equal(got.lse[:, :, :6], torch.full((1, 2, 6), -math.inf if logit is None else logit))
    assert_shifted(got, q, k, v, spec, sinks, 0.4)


@BOTH
def test_padded_queries_have_numbers_for_the_model_and_none_for_the_reader(implementation):
    q, k, spec = make("left-padded", 2, 4, 2, 40, 16)
    got = sink_shift(q, k, values_of(k, 16), spec, sinks_of(2, 4, 40), 0.4, implementation=implementation)
    padded = ~spec.query_valid[:, None].expand(2, 4, 40)
    assert torch.isfinite(got.out).all()
    for statistic in got[1:]:
        assert torch.equal(statistic.isnan(), padded)


@BOTH
@pytest.mark.parametrize("rule", ["causal", "sink", "left-padded", "full"])
def test_kept_keys_neither_shrink_nor_receive(rule, implementation):
    n = 50
    q, k, spec = make(rule, 2, 4, 2, n, 16)
    v, sinks = values_of(k, 16), sinks_of(2, 4, n)
    kept = torch.zeros(2, n, dtype=torch.bool)
    kept[0, 0] = kept[1, [17, 30]] = True
    sinks[1, :, 30] = True  # kept wins
    got = sink_shift(q, k, v, spec, sinks, 0.4, kept=kept, implementation=implementation)
    assert_shifted(got, q, k, v, spec, sinks, 0.4, kept=kept)
    unit = torch.eye(n).expand(2, 2, n, n)
    weights = sink_shift(q, k, unit, spec, sinks, 0.4, kept=kept, implementation=implementation).out
    before = attention(q, k, spec)[0].float()
    for sample, key in ((0, 0), (1, 17), (1, 30)):
        assert torch.allclose(weights[sample, ..., key], before[sample, ..., key], atol=1e-6)


@BOTH
@pytest.mark.parametrize("rule", ["causal", "full", "prefix"])
def test_sinks_that_count_from_a_row_on(rule, implementation):
    q, k, spec = make(rule, 2, 4, 2, 70, 16)
    v, sinks = values_of(k, 16), sinks_of(2, 4, 70)
    since = torch.randint(0, 90, (2, 4, 70), generator=torch.Generator().manual_seed(3))
    kept = torch.zeros(2, 70, dtype=torch.bool)
    kept[:, 5] = True
    for more in ({"since": since}, {"since": since, "kept": kept}):
        got = sink_shift(q, k, v, spec, sinks, 0.4, implementation=implementation, **more)
        assert_shifted(got, q, k, v, spec, sinks, 0.4, **more)


@BOTH
def test_chosen_heads_leave_the_others_unread(implementation):
    """Several query heads of one key head, out of order; unread heads hold NaN."""
    heads = [5, 0, 1]
    for rule in ("alibi", "distance-bias", "sink"):
        q, k, spec = make(rule, 2, 6, 3, 40, 16)
        v, sinks = values_of(k, 16), sinks_of(2, 6, 40, 0.2)
        beta = torch.tensor([0.0, 0.2, 0.9, 0.9, 0.9, 0.7])
        spoilt = [x.clone() for x in (q, k, v)]
        spoilt[0][:, 2:5] = spoilt[1][:, 1] = spoilt[2][:, 1] = math.nan
        got = sink_shift(
            *spoilt, spec, sinks[:, heads], beta[heads], heads=heads, implementation=implementation
        )
        assert got.out.shape == (2, 3, 40, 16)
        assert_shifted(got, q, k, v, spec, sinks, beta, heads)


@BOTH
def test_shrinking_twice_is_shrinking_once_by_the_square(implementation):
    n = 30
    q, k, spec = make("causal", 1, 2, 1, n, 16)
    unit, sinks = torch.eye(n)[None, None], sinks_of(1, 2, n)
    once, twice = (
        sink_shift(q, k, unit, spec, sinks, beta, implementation=implementation).out for beta in (0.4, 0.16)
    )
    S = (once * sinks[:, :, None]).sum(-1, keepdim=True)
    rest = once.masked_fill(sinks[:, :, None], 0)
    again = 0.4 * once.masked_fill(~sinks[:, :, None], 0) + rest * (1 + 0.6 * S / rest.sum(-1, keepdim=True))
    assert torch.allclose(torch.where(rest.sum(-1, keepdim=True) > 0, again, once), twice, atol=1e-6)


@BOTH
def test_permuting_the_keys_of_a_full_map_changes_nothing(implementation):
    q, k, spec = make("full", 2, 4, 2, 60, 16)
    v, sinks = values_of(k, 16), sinks_of(2, 4, 60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    plain = sink_shift(q, k, v, spec, sinks, 0.4, implementation=implementation)
    moved = sink_shift(
        q, k[:, :, order], v[:, :, order], spec, sinks[..., order], 0.4, implementation=implementation
    )
    for one, other in zip(plain, moved, strict=True):
        assert torch.allclose(one, other, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    q, k, spec = make("gemma", 2, 4, 2, 100, 64, dtype)
    v, sinks = values_of(k, 32), sinks_of(2, 4, 100)
    got = sink_shift(q, k, v, spec, sinks, 0.4)
    assert got.lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if dtype == torch.float64:
        truth = calibrated_output(calibrated(q, k, spec, sinks, 0.4)[0], v, dtype)
        assert worst(got.out, truth) < 1e-13
    else:
        assert_shifted(got, q, k, v, spec, sinks, 0.4)


@BOTH
def test_strided_views(implementation):
    q, k, spec = make("causal", 2, 4, 2, 40, 32)
    v, sinks = values_of(k, 16), sinks_of(2, 4, 80)[..., ::2]
    views = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    got = sink_shift(*views, spec, sinks, 0.4, implementation=implementation)
    assert_shifted(got, q, k, v, spec, sinks, 0.4)


def test_no_map_is_formed_and_values_are_not_repeated():
    n = 6_000
    q, k, v = torch.randn(1, 8, n, 16), torch.randn(1, 1, n, 16), torch.randn(1, 1, n, 16)
    sinks = sinks_of(1, 8, n, 0.001)
    for heads in (None, [6]):
        with Largest(q, k, v, sinks) as seen:
            chosen = sinks if heads is None else sinks[:, heads]
            sink_shift(
                q, k, v, ScoreSpec(0.25, causal=True), chosen, 0.4, heads=heads, implementation="reference"
            )
        assert seen.elements <= CHUNK_SCORES["cpu"]


def test_refusals():
    q, k, spec = make("causal", 2, 4, 2, 10, 16)
    v, sinks = values_of(k, 16), sinks_of(2, 4, 10)
    call = {"v": v, "sinks": sinks, "beta": 0.4}
    for match, arguments in (
        (r"v: got shape \(2, 4, 10, 16\), expected \[2, 2, 10, 1 to 256\]", {"v": v.repeat_interleave(2, 1)}),
        (r"v: got torch.float16 on cpu, expected torch.float32 on cpu as q", {"v": v.half()}),
        (r"sinks: got torch.float32 \(2, 4, 10\), expected torch.bool", {"sinks": sinks.float()}),
        (r"sinks: got \[2, 4, 11\] on cpu, expected \[2, 4, at most 10\]", {"sinks": sinks_of(2, 4, 11)}),
        (r"sinks: got \[2, 3, 10\]", {"sinks": sinks[:, :3]}),
        (r"sinks: got SinkKeys with beta", {"sinks": sink_keys(sinks, 0.4)}),
        (r"beta: got None", {"beta": None}),
        (r"beta: got 1.5, expected the share that a sink keeps, from 0 to 1", {"beta": 1.5}),
        (r"beta: got tensor", {"beta": torch.tensor([0.1, 0.2, -0.3, 0.4])}),
        (r"beta: got \(3,\) on cpu, expected a number or \(4,\)", {"beta": torch.ones(3)}),
        (r"beta: got nan", {"beta": math.nan}),
        (r"heads: got 1 heads, expected 4", {"heads": [1]}),
        (r"heads: got \[4\], expected at least one number from 0 to 3", {"heads": [4], "sinks": sinks[:, :1]}),
        (r"kept: got \(2, 9\) on cpu, expected \(2, 10\)", {"kept": sinks[:, 0, :9]}),
        (r"kept: got dtype torch.int64, expected torch.bool", {"kept": sinks[:, 0].long()}),
        (r"since: got dtype torch.bool, expected integers", {"since": sinks}),
        (r"implementation: got 'cuda'", {"implementation": "cuda"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            sink_shift(q, k, spec=spec, **(call | arguments))


def test_the_comparison_itself_can_fail():
    q, k, spec = make("causal", *SHAPES["63"])
    v, sinks = values_of(k, 20), sinks_of(*q.shape[:3])
    for name in ("out", "sink_mass", "rest_mass", "lse"):
        got = sink_shift(q, k, v, spec, sinks, 0.4)
        getattr(got, name)[0, 0, 40] += 1e-4
        with pytest.raises(AssertionError, match=name):
            assert_shifted(got, q, k, v, spec, sinks, 0.4)
