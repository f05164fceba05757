"""Statistics of written-out maps: by their definitions, as the kernels give them, in blocks, and refused by name."""

import numpy as np
import pytest
import torch
from attention_oracle import EPS32

from probe.kernels import dense
from probe.kernels.dense import DENSE_STATISTICS, dense_statistics
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import MAP_STATISTICS, map_statistics


def attention(n_queries, n_keys, spec, seed=0):
    """Queries, keys, and their map in float64, written down."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, 3, n, 8, generator=generator, dtype=torch.float64) for n in (n_queries, n_keys))
    scores = q @ k.transpose(2, 3) * spec.scale
    i, j = torch.arange(n_queries)[:, None] + spec.offset, torch.arange(n_keys)
    seen = (j <= i) if spec.causal else torch.ones(n_queries, n_keys, dtype=torch.bool)
    seen = seen & (True if spec.key_valid is None else spec.key_valid[:, None, None])
    scores = scores.masked_fill(~seen, -torch.inf)
    return q, k, torch.softmax(scores, -1).nan_to_num()


def padded(n, absent):
    valid = torch.ones(2, n, dtype=torch.bool)
    valid[1, :absent] = False
    return valid


@pytest.mark.parametrize("block", [1, 1000, 1 << 22])
@pytest.mark.parametrize(
    ("n_queries", "n_keys", "rule"),
    [(1, 1, {}), (9, 9, {"causal": True}), (63, 63, {}), (1, 100, {"causal": True, "offset": 99}),
     (5, 40, {"causal": True, "offset": 35}), (30, 12, {})],
)  # fmt: skip
def test_written_out_maps_have_the_statistics_that_the_kernels_give(
    monkeypatch, block, n_queries, n_keys, rule
):
    monkeypatch.setattr(dense, "_BLOCK", block)
    query_valid, key_valid = padded(n_queries, n_queries // 4), padded(n_keys, n_keys // 5)
    if n_queries == n_keys:
        query_valid = key_valid
    spec = ScoreSpec(0.3, query_valid=query_valid, key_valid=key_valid, **rule)
    q, k, weights = attention(n_queries, n_keys, spec)
    got = dense_statistics(weights, DENSE_STATISTICS, query_valid, key_valid, offset=spec.offset)
    want = map_statistics(q, k, spec, DENSE_STATISTICS, "reference")
    assert set(got) == set(DENSE_STATISTICS) == set(MAP_STATISTICS) - {"lse"}
    for name in DENSE_STATISTICS:
        assert got[name].dtype == want[name].dtype
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_lower_precision_lose_only_their_own_digits(dtype):
    _, _, weights = attention(100, 100, ScoreSpec(0.3, causal=True))
    low = weights.to(dtype)
    got = dense_statistics(low, DENSE_STATISTICS, None, None)
    want = dense_statistics(low.double(), DENSE_STATISTICS, None, None)
    for name in DENSE_STATISTICS:
        assert got[name].dtype == (torch.int64 if name == "max_key" else torch.float32)
        np.testing.assert_allclose(got[name], want[name], rtol=EPS32, atol=0, err_msg=name)


def test_the_queries_stand_at_the_last_keys_unless_said_otherwise():
    weights = torch.zeros(1, 1, 2, 5)
    weights[0, 0, :, 0] = 1
    assert dense_statistics(weights, ["distance"], None, None)["distance"].tolist() == [[[3.0, 4.0]]]
    assert dense_statistics(weights, ["distance"], None, None, offset=0)["distance"].tolist() == [
        [[0.0, 1.0]]
    ]


def test_what_stands_at_padding_does_not_matter():
    _, _, weights = attention(9, 9, ScoreSpec(0.3))
    valid = padded(9, 3)
    spoiled = weights.clone()
    spoiled[1, :, :3] = torch.nan
    got, want = (dense_statistics(w, DENSE_STATISTICS, valid, valid) for w in (spoiled, weights))
    for name in DENSE_STATISTICS:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
        absent = got[name] == -1 if name == "max_key" else got[name].isnan()
        assert torch.equal(absent, ~valid[:, None].expand(-1, 3, -1))


@pytest.mark.parametrize(
    ("weights", "names", "valid", "said"),
    [
        (torch.ones(1, 1, 2, 2), ["lse"], None, r"names: got lse, .*lse and pooled need queries and keys"),
        (torch.ones(1, 1, 2, 2), ["entropy", "pooled"], None, "names: got pooled"),
        (torch.ones(1, 1, 2, 2), [], None, "names: got none"),
        (torch.ones(1, 1, 2, 2), ["entropi"], None, r"got entropi, expected some of entropy.*written out$"),
        (torch.ones(1, 2, 2), ["entropy"], None, r"weights: got torch.float32 of shape \[1, 2, 2\]"),
        (torch.ones(1, 1, 2, 2, dtype=torch.int64), ["entropy"], None, "weights: got torch.int64"),
        (torch.ones(1, 1, 2, 2), ["entropy"], torch.ones(1, 3) > 0, r"query_valid: .*expected torch.bool \[1, 2\]"),
        (torch.ones(1, 1, 2, 2), ["entropy"], torch.ones(1, 2), "query_valid: got torch.float32"),
    ],
)  # fmt: skip
def test_what_a_written_out_map_cannot_tell_is_refused_by_name(weights, names, valid, said):
    with pytest.raises(ValueError, match=said):
        dense_statistics(weights, names, valid, None)


def test_a_row_that_sees_nothing_has_the_statistics_that_the_kernels_give_it():
    spec = ScoreSpec(0.3, causal=True, key_valid=torch.tensor([[False, True, True]] * 2))
    q, k, weights = attention(3, 3, spec)
    got = dense_statistics(weights, DENSE_STATISTICS, None, spec.key_valid)
    want = map_statistics(q, k, spec, DENSE_STATISTICS, "reference")
    for name in DENSE_STATISTICS:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-13, err_msg=name)
