"""The strongest keys: against the map in float64, and in exact arithmetic where ties decide."""

import math
from dataclasses import replace

import pytest
import torch
from attention_oracle import links
from fresh_memory import Largest, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from link_checks import assert_links, whole_numbers
from score_cases import RULES, SHAPES, make

from probe.kernels import score_block
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.top_links import top_links
from probe.kernels.top_links.reference import strongest

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    poison(monkeypatch)


@pytest.mark.parametrize("shape", ["one-token", "63", "100", "130"])
@pytest.mark.parametrize("rule", RULES)
def test_plain_torch(rule, shape):
    q, k, spec = make(rule, *SHAPES[shape])
    assert_links(top_links(q, k, spec, links=7, implementation="reference"), q, k, spec, 7)


@pytest.mark.parametrize("rule", RULES)
def test_triton_interpreted(rule):
    q, k, spec = make(rule, 2, 2, 1, 63 if rule != "causal" else 130, 24)
    assert_links(top_links(q, k, spec, links=5, implementation="triton"), q, k, spec, 5)


@BOTH
@pytest.mark.parametrize("rule", ["causal", "sink-window-padded"])
def test_from_a_given_lse(rule, implementation):
    q, k, spec = make(rule, 2, 4, 2, 63, 16)
    lse = row_stats(q, k, spec, ("lse",), "reference")["lse"]
    assert_links(top_links(q, k, spec, lse, 4, implementation), q, k, spec, 4)


@BOTH
@pytest.mark.parametrize("count", [1, 64])
def test_fewest_and_most(count, implementation):
    q, k, spec = make("causal", 1, 1, 1, 90, 16)
    assert_links(top_links(q, k, spec, links=count, implementation=implementation), q, k, spec, count)


@BOTH
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 70), (33, 97)])
def test_decoding(implementation, n_queries, n_keys):
    q, k, _ = make("causal", 1, 2, 1, n_keys, 16)
    spec = ScoreSpec(scale=0.25, causal=True, offset=n_keys - n_queries)
    q = q[:, :, -n_queries:]
    assert_links(top_links(q, k, spec, links=6, implementation=implementation), q, k, spec, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    q, k, spec = make("gemma", 2, 4, 2, 100, 64, dtype)
    got = top_links(q, k, spec)
    assert got.probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_links(got, q, k, spec, 8)


@BOTH
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("count", [3, 8])
def test_ties_go_to_the_smaller_key(count, causal, implementation):
    """Whatever the order of the tiles: the sweep starts at the diagonal, equal keys before it must still win."""
    q, k, spec = whole_numbers(200, 1, causal)
    keys, _, _ = links(q, k, spec, count)
    assert torch.equal(top_links(q, k, spec, links=count, implementation=implementation).keys, keys)


@BOTH
def test_equal_keys(implementation):
    n = 150
    q, k = torch.randn(1, 1, n, 16), torch.ones(1, 1, n, 16)
    got = top_links(q, k, ScoreSpec(scale=0.25, causal=True), links=4, implementation=implementation)
    seen = torch.arange(1, n + 1)[:, None]
    first = torch.arange(4).expand(n, 4)
    assert torch.equal(got.keys[0, 0], torch.where(first < seen, first, -1))
    assert torch.allclose(got.probs[0, 0], torch.where(first < seen, 1 / seen, 0.0), rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=1, max_size=4),
    kept=st.integers(1, 9),
)
def test_the_order_of_the_reference(rows, kept):
    values, at = strongest(torch.tensor(rows, dtype=torch.float32), kept)
    for row, found, places in zip(rows, values.tolist(), at.tolist(), strict=True):
        truth = sorted(range(9), key=lambda j: (-row[j], j))[:kept]
        assert places == truth
        assert found == [row[j] for j in truth]


@BOTH
@pytest.mark.parametrize("sink", [None, 1.5])
def test_rows_that_see_nothing_or_one_key(sink, implementation):
    q, k, _ = make("full", 1, 1, 1, 20, 16)
    spec = ScoreSpec(
        scale=0.25, causal=True, key_valid=torch.arange(20)[None] >= 6,
        sink=None if sink is None else torch.tensor([sink]),
    )  # fmt: skip
    got = top_links(q, k, spec, links=3, implementation=implementation)
    assert (got.keys[:, :, :6] == -1).all()
    assert (got.probs[:, :, :6] == 0).all()
    assert got.keys[0, 0, 6].tolist() == [6, -1, -1]
    assert_links(got, q, k, spec, 3)


@BOTH
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_logits(size, implementation):
    q, k, spec = make("causal", 1, 1, 1, 40, 16)
    assert_links(top_links(q * size, k, spec, links=3, implementation=implementation), q * size, k, spec, 3)


@pytest.mark.parametrize("window", [None, 9])
def test_the_size_of_chunks_does_not_matter(window, monkeypatch):
    q, k, spec = whole_numbers(90, 3)
    spec = replace(spec, window=window)
    keys, _, _ = links(q, k, spec, 8)
    monkeypatch.setitem(score_block.CHUNK_SCORES, "cpu", 1)
    monkeypatch.setattr(score_block, "_FEWEST_ROWS", 7)
    assert torch.equal(top_links(q, k, spec).keys, keys)


def test_no_whole_map_even_where_all_is_equal():
    q, k = torch.randn(1, 2, 4000, 16), torch.ones(1, 1, 4000, 16)
    with Largest() as seen:
        top_links(q, k, ScoreSpec(scale=0.25, causal=True), implementation="reference")
    assert seen.elements <= 2 * score_block.CHUNK_SCORES["cpu"]


def test_refusals():
    q, k, spec = make("causal", 1, 2, 1, 10, 16)
    for arguments, message in (
        ({"links": 0}, "links: got 0, expected 1 to 64"),
        ({"links": 65}, "links: got 65, expected 1 to 64"),
        ({"lse": torch.zeros(1, 2, 9)}, r"lse: got shape \(1, 2, 9\), expected \(1, 2, 10\)"),
        ({"implementation": "cuda"}, "implementation: got 'cuda'"),
    ):
        with pytest.raises(ValueError, match=message):
            top_links(q, k, spec, **arguments)


def test_the_comparison_itself_can_fail():
    q, k, spec = make("causal", *SHAPES["63"])
    got = top_links(q, k, spec, links=3)
    assert_links(got, q, k, spec, 3)
    got.keys[0, 0, 40, 0] = (got.keys[0, 0, 40, 0] + 1) % 40
    with pytest.raises(AssertionError):
        assert_links(got, q, k, spec, 3)
    assert math.isfinite(float(got.probs.sum()))
