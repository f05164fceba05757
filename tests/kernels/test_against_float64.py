"""Every rule × every awkward shape × every implementation that runs here, against the map in float64."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import statistics, tolerance, worst
from fresh_memory import poison
from score_cases import RULES, SHAPES, make

from probe.kernels.column_pass import column_mass
from probe.kernels.row_pass import row_stats
from probe.kernels.statistics import MAP_STATISTICS, map_statistics
from probe.kernels.sweep import ROW_STATISTICS

INTERPRETER = pytest.param("triton", id="interpreter")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh buffers hold NaN, so that an entry nobody wrote shows."""
    poison(monkeypatch)


def assert_statistics(got, q, k, spec, weights=None):
    truth = statistics(q, k, spec, weights)
    plain = statistics(q, k, spec, weights, dtype=torch.float32)
    for name, values in got.items():
        if name == "max_key":
            assert_same_keys(values, truth, q, k, spec)
            continue
        error, allowed = worst(values, truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


def assert_same_keys(keys, truth, q, k, spec):
    """The key must carry the largest weight to within rounding; where it is clear-cut it must be the very key."""
    from attention_oracle import attention

    a = attention(q, k, spec)[0]
    keys = keys.cpu()
    assert torch.equal(keys < 0, truth["max_key"] < 0)
    chosen = a.gather(-1, keys.clamp(min=0)[..., None])[..., 0]
    short = torch.where(keys >= 0, a.amax(-1) - chosen, 0)
    assert float(short.max()) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_plain_torch(rule, shape):
    q, k, spec = make(rule, *SHAPES[shape])
    assert_statistics(map_statistics(q, k, spec, MAP_STATISTICS, "reference"), q, k, spec)


@pytest.mark.parametrize("rule", RULES)
def test_triton_interpreted(rule):
    shape = SHAPES["130"] if rule in ("full", "causal") else SHAPES["63"]
    q, k, spec = make(rule, *shape)
    assert_statistics(map_statistics(q, k, spec, MAP_STATISTICS, "triton"), q, k, spec)


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
def test_one_token(implementation):
    q, k, spec = make("causal", *SHAPES["one-token"])
    got = map_statistics(q, k, spec, MAP_STATISTICS, implementation)
    assert_statistics(got, q, k, spec)
    assert torch.equal(got["entropy"], torch.zeros_like(got["entropy"]))


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 70), (5, 70), (33, 97)])
@pytest.mark.parametrize("rule", ["window", "alibi", "distance-bias", "prefix", "chunk", "sink"])
def test_decoding_offset(implementation, rule, n_queries, n_keys):
    """The last queries of a text, with all its keys: every rule counts from the place of the query among the keys."""
    q, k, spec = make(rule, 2, 4, 2, n_keys, 32)
    spec = replace(spec, offset=n_keys - n_queries)
    q = q[:, :, -n_queries:]
    got = map_statistics(q, k, spec, MAP_STATISTICS, implementation)
    assert_statistics(got, q, k, spec)


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
def test_cross_attention(implementation):
    q, k, spec = make("full", 2, 4, 2, 90, 32)
    q = q[:, :, :37].contiguous()
    assert_statistics(map_statistics(q, k, spec, MAP_STATISTICS, implementation), q, k, spec)


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
@pytest.mark.parametrize("rule", ["causal", "left-padded", "sink"])
def test_weighted_columns_from_given_lse(rule, implementation):
    q, k, spec = make(rule, 2, 4, 2, 75, 32)
    weights = torch.rand(q.shape[:3])
    lse = row_stats(q, k, spec, ("lse",), implementation)["lse"]
    got = {"received": column_mass(q, k, spec, lse, weights, implementation)}
    assert_statistics(got, q, k, spec, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    q, k, spec = make("gemma", 2, 4, 2, 100, 64, dtype)
    got = map_statistics(q, k, spec, MAP_STATISTICS, "reference")
    assert got["entropy"].dtype == torch.float32
    assert_statistics(got, q, k, spec)


def test_strided_views_are_read_where_they_lie():
    q, k, spec = make("causal", 2, 4, 4, 40, 32)
    q_view = q.transpose(1, 2).contiguous().transpose(1, 2)
    k_view = torch.cat([k, k], -1)[..., ::2].clone()[..., :]
    for implementation in ("reference", "triton"):
        got = map_statistics(q_view, k_view, spec, ("entropy",), implementation)
        assert_statistics(got, q, k_view, spec)


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_logits(implementation, size):
    q, k, spec = make("causal", 1, 2, 2, 40, 16)
    q = q * size
    got = row_stats(q, k, spec, ROW_STATISTICS, implementation)
    truth = statistics(q, k, spec)
    assert all(torch.isfinite(got[name]).all() for name in got)
    assert worst(got["max_prob"], truth["max_prob"]) <= tolerance(
        statistics(q, k, spec, dtype=torch.float32)["max_prob"], truth["max_prob"]
    )


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
def test_equal_keys_give_the_uniform_map(implementation):
    from probe.kernels.score import ScoreSpec

    n = 50
    q, k = torch.randn(1, 2, n, 16), torch.ones(1, 1, n, 16)
    got = map_statistics(q, k, ScoreSpec(scale=0.25, causal=True), MAP_STATISTICS, implementation)
    seen = torch.arange(1, n + 1)
    assert torch.allclose(got["entropy"], seen.log().expand(1, 2, n), atol=2e-6)
    assert torch.equal(got["max_key"], torch.zeros(1, 2, n, dtype=torch.int64))  # the first of equals
    harmonic = (1 / seen.double()).flip(0).cumsum(0).flip(0).float()
    assert torch.allclose(got["received"], harmonic.expand(1, 2, n), atol=4e-6)


@pytest.mark.parametrize("implementation", ["reference", INTERPRETER])
@pytest.mark.parametrize("sink", [None, 1.5])
def test_rows_that_see_nothing(implementation, sink):
    from probe.kernels.score import ScoreSpec

    q, k, _ = make("full", 1, 2, 2, 20, 16)
    key_valid = torch.arange(20)[None] >= 6
    spec = ScoreSpec(
        scale=0.25,
        causal=True,
        key_valid=key_valid,
        sink=None if sink is None else torch.tensor([sink, sink]),
    )
    got = map_statistics(q, k, spec, MAP_STATISTICS, implementation)
    assert torch.equal(got["lse"][:, :, :6], torch.full((1, 2, 6), -float("inf") if sink is None else sink))
    for name in ("entropy", "max_prob", "distance", "second_moment", "key_mass"):
        assert torch.equal(got[name][:, :, :6], torch.zeros(1, 2, 6)), name
    assert (got["max_key"][:, :, :6] == -1).all()
    assert_statistics(got, q, k, spec)


def test_the_comparison_itself_can_fail():
    q, k, spec = make("causal", *SHAPES["63"])
    got = map_statistics(q, k, spec, ("entropy",), "reference")
    got["entropy"][0, 0, 40] += 1e-4
    with pytest.raises(AssertionError, match="entropy"):
        assert_statistics(got, q, k, spec)
