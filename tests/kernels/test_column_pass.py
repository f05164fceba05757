"""Column mass and Aᵀ·Y from a given log-sum-exp, against the map in float64; what the border refuses."""

import math
from dataclasses import replace

import pytest
import torch
from attention_oracle import EPS32, attention, columns, tolerance, worst
from fresh_memory import poison
from score_cases import RULES, SHAPES, make

from probe.kernels.column_pass import apply_transposed, column_mass, column_stats
from probe.kernels.score import ScoreSpec

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh buffers hold NaN, so that an entry nobody wrote shows."""
    poison(monkeypatch)


def vectors(q, channels=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(*q.shape[:3], channels, generator=generator).to(q.dtype)
    return torch.rand(q.shape[:3], generator=generator), y


def assert_columns(q, k, spec, implementation, weights=None, y=None):
    lse = attention(q, k, spec)[1].to(torch.float32)
    got = column_stats(q, k, spec, lse, weights=weights, y=y, implementation=implementation)
    truth = columns(q, k, spec, weights, y)
    plain = columns(q, k, spec, weights, y, dtype=torch.float32, lse=lse)
    assert set(got) == set(truth)
    for name, values in got.items():
        error, allowed = worst(values, truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_plain_torch(rule, shape):
    q, k, spec = make(rule, *SHAPES[shape])
    assert_columns(q, k, spec, "reference", *vectors(q))


@pytest.mark.parametrize("rule", RULES)
def test_triton_interpreted(rule):
    q, k, spec = make(rule, 2, 2, 1, 100, 24)
    assert_columns(q, k, spec, "triton", *vectors(q))


LONG = {
    "causal": {"causal": True},
    "window": {"causal": True, "window": 100},
    "window-both-ways": {"window": 100},
    "chunk": {"chunk": 90},
    "chunk-groups": {"chunk": 128, "groups": (torch.arange(250)[None] % 200 < 20).long() - 1},
    "documents": {"documents": (torch.arange(250)[None] >= 90).long()},
}


@pytest.mark.parametrize("offset", [0, 30, 62, 65])
@pytest.mark.parametrize("rule", LONG)
def test_tiles_without_a_mask(rule, offset):
    """Long enough for tiles that are seen whole, and for edges of the rule that lie where no tile begins."""
    q, k, _ = make("full", 1, 1, 1, 250, 16)
    spec = ScoreSpec(scale=0.25, offset=offset, **LONG[rule])
    assert_columns(q[:, :, : 250 - offset], k, spec, "triton")


@BOTH
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 70), (5, 70), (33, 97)])
@pytest.mark.parametrize("rule", ["window", "chunk", "prefix", "alibi"])
def test_decoding_offset(implementation, rule, n_queries, n_keys):
    q, k, spec = make(rule, 2, 4, 2, n_keys, 32)
    q = q[:, :, -n_queries:]
    assert_columns(q, k, replace(spec, offset=n_keys - n_queries), implementation, *vectors(q))


@BOTH
def test_cross_attention(implementation):
    q, k, spec = make("full", 2, 4, 2, 90, 32)
    q = q[:, :, :37].contiguous()
    assert_columns(q, k, spec, implementation, *vectors(q))


@BOTH
@pytest.mark.parametrize("channels", [1, 16, 100, 256])
def test_any_number_of_vectors(implementation, channels):
    q, k, spec = make("causal", 1, 2, 1, 70, 16)
    assert_columns(q, k, spec, implementation, None, vectors(q, channels)[1])


@BOTH
def test_vectors_of_another_layout(implementation):
    """[B, Nq, H, C] seen as [B, H, Nq, C], and one set of vectors spread over all heads."""
    q, k, spec = make("causal", 2, 4, 2, 40, 16)
    y = vectors(q)[1]
    for laid in (y.transpose(1, 2).contiguous().transpose(1, 2), y[:, :1].expand(-1, 4, -1, -1), y[..., ::2]):
        assert_columns(q, k, spec, implementation, None, laid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_vectors_are_summed_in_float32(dtype):
    q, k, spec = make("left-padded", 2, 4, 2, 100, 64, dtype)
    assert_columns(q, k, spec, "reference", *vectors(q))


@BOTH
@pytest.mark.parametrize("rule", ["left-padded", "right-padded"])
def test_padded_queries_count_for_nothing_whatever_they_hold(implementation, rule):
    q, k, spec = make(rule, 2, 2, 1, 70, 16)
    weights, y = vectors(q)
    lse = attention(q, k, spec)[1].float()
    clean = column_stats(q, k, spec, lse, weights=weights, y=y, grid=(3, 4), implementation=implementation)
    hidden = ~spec.query_valid[:, None, :].expand(-1, 2, -1)
    q, y = (x.masked_fill(hidden[..., None], float("nan")) for x in (q, y))
    lse, weights = lse.masked_fill(hidden, 1e30), weights.masked_fill(hidden, float("nan"))
    found = column_stats(q, k, spec, lse, weights=weights, y=y, grid=(3, 4), implementation=implementation)
    for name, values in clean.items():
        assert torch.equal(values.nan_to_num(nan=-5), found[name].nan_to_num(nan=-5)), name


@BOTH
def test_rows_that_see_nothing_give_nothing(implementation):
    q, k, _ = make("full", 1, 2, 2, 20, 16)
    spec = ScoreSpec(scale=0.25, causal=True, key_valid=torch.arange(20)[None] >= 6)
    assert_columns(q, k, spec, implementation, *vectors(q))
    nobody = replace(spec, key_valid=torch.zeros(1, 20, dtype=torch.bool))
    lse = torch.full((1, 2, 20), -float("inf"))
    got = column_stats(q, k, nobody, lse, y=q, grid=(2, 2), implementation=implementation)
    assert got["received"].isnan().all()
    assert got["transposed"].isnan().all()
    assert torch.equal(got["pooled"], torch.zeros(1, 2, 2, 2))


@BOTH
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits(implementation, size):
    """One visible key: its weight is 1, to the precision of a log-sum-exp of that size."""
    q, k = torch.full((1, 1, 30, 16), 1.0), torch.full((1, 1, 30, 16), 1.0)
    spec = ScoreSpec(scale=size / 16, causal=True, window=1)
    lse = torch.full((1, 1, 30), size)
    got = column_stats(q, k, spec, lse, y=q, grid=(3, 3), implementation=implementation)
    assert torch.allclose(got["received"], torch.ones(1, 1, 30), atol=2e-3)
    assert torch.allclose(got["transposed"], torch.ones(1, 1, 30, 16), atol=2e-3)
    assert torch.allclose(got["pooled"], 10 * torch.eye(3)[None, None], atol=2e-2)


@BOTH
def test_equal_keys_share_equally(implementation):
    n = 50
    q, k = torch.randn(1, 2, n, 16), torch.ones(1, 1, n, 16)
    spec = ScoreSpec(scale=0.25, causal=True)
    lse = (q.sum(-1) * 0.25).double() + torch.arange(1, n + 1).double().log()
    got = column_stats(q, k, spec, lse.float(), y=torch.ones(1, 2, n, 3), implementation=implementation)
    harmonic = (1 / torch.arange(1, n + 1).double()).flip(0).cumsum(0).flip(0).float()
    assert torch.allclose(got["received"], harmonic.expand(1, 2, n), atol=4e-6)
    assert torch.allclose(got["transposed"], harmonic[:, None].expand(1, 2, n, 3), atol=4e-6)


def test_thousands_of_small_parts_do_not_vanish_beside_a_large_one():
    """The first query gives 1, each later tile half of what float32 can still see beside it."""
    n = 50 * 64 + 1
    lse = torch.full((1, 1, n), 31 * math.log(2))
    lse[..., 0] = 0
    q, k = torch.zeros(1, 1, n, 16), torch.zeros(1, 1, 1, 16)
    got = column_mass(q, k, ScoreSpec(scale=1.0), lse, implementation="triton")
    assert float(got) == pytest.approx(1 + (n - 1) * 2.0**-31, abs=4 * EPS32, rel=0)


def test_float64_stays_float64():
    q, k, spec = make("causal", 1, 2, 1, 40, 16, torch.float64)
    weights, y = vectors(q)
    truth = columns(q, k, spec, weights, y, (3, 3))
    got = column_stats(q, k, spec, attention(q, k, spec)[1], weights=weights.double(), y=y, grid=(3, 3))
    for name, values in got.items():
        assert values.dtype == torch.float64
        assert torch.allclose(values, truth[name], rtol=1e-12), name


def test_thin_names_are_the_same_pass():
    q, k, spec = make("causal", 1, 2, 1, 40, 16)
    weights, y = vectors(q)
    lse = attention(q, k, spec)[1].float()
    both = column_stats(q, k, spec, lse, weights=weights, y=y)
    assert torch.equal(column_mass(q, k, spec, lse, weights), both["received"])
    assert torch.equal(apply_transposed(q, k, spec, lse, y), both["transposed"])


def test_what_is_refused():
    q, k, spec = make("causal", 2, 4, 2, 10, 16)
    lse = torch.zeros(2, 4, 10)
    for arguments, message in (
        (
            {"y": torch.zeros(2, 4, 9, 3)},
            r"y: got shape \(2, 4, 9, 3\), expected \[2, 4, 10\] and 1 to 256 numbers",
        ),
        ({"y": torch.zeros(2, 4, 10, 300)}, r"y: got shape \(2, 4, 10, 300\)"),
        ({"y": torch.zeros(2, 4, 10)}, r"y: got shape \(2, 4, 10\)"),
        ({"y": torch.zeros(2, 4, 10, 3).double()}, r"y: got dtype torch.float64 with q of torch.float32"),
        ({"y": torch.zeros(2, 4, 10, 3).long()}, r"y: got dtype torch.int64"),
        ({"received": False}, r"received: got False without y and grid"),
        ({"received": False, "weights": lse, "grid": (2, 2)}, r"weights: got weights with received=False"),
        (
            {"grid": (11, 2)},
            r"grid: got \(11, 2\) for a map of 10 queries and 10 keys, expected at most \(10, 10\)",
        ),
        ({"grid": (2, 0)}, r"grid: got \(2, 0\), expected two positive numbers"),
        ({"grid": (2,)}, r"grid: got \(2,\), expected two positive numbers"),
        ({"grid": (2, 2), "reduce": "median"}, r"reduce: got 'median', expected one of sum, mean, max"),
    ):
        with pytest.raises(ValueError, match=message):
            column_stats(q, k, spec, lse, **arguments)
