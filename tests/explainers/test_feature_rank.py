"""Linear attention, RALA's weights and their ranks against the N × N forms and known answers (specs analyzers-1, §4.8)."""

import numpy as np
import pytest
import torch
from layer_cases import layer, maps, record

from probe import explainers as ex
from probe.explainers._rank import linear
from probe.explainers._rank.linear import (
    feature_map,
    kv_buffer,
    linear_output,
    linear_spectrum,
    token_weights,
)


def draw(n=50, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, size, generator=generator, dtype=torch.float64) for _ in range(3)]


def whole(fq, fk, causal=False):
    """The linear map written out: rows of κ(q_i)·κ(k_j), normalised."""
    a = fq @ fk.T
    a = torch.tril(a) if causal else a
    return a / a.sum(1, keepdim=True)


def test_the_feature_map_is_elu_plus_one():
    x = torch.tensor([-3.0, -0.1, 0.0, 2.5])
    torch.testing.assert_close(feature_map(x), torch.where(x > 0, x + 1, x.exp()).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_the_linear_form_equals_the_map_times_the_values(causal, monkeypatch):
    monkeypatch.setattr(linear, "_CHUNK", 16)
    q, k, v = draw()
    fq, fk = feature_map(q), feature_map(k)
    torch.testing.assert_close(
        linear_output(fq, fk, v, causal=causal), whole(fq, fk, causal) @ v, rtol=1e-12, atol=1e-12
    )


def test_weights_sum_to_the_number_of_tokens_and_are_one_where_nothing_differs():
    q, k, v = draw()
    fq, fk = feature_map(q), feature_map(k)
    assert float(token_weights(fq, fk).sum()) == pytest.approx(50)
    assert float(token_weights(fq, fk).std()) > 0.1
    equal = fk[:1].expand(50, -1)
    torch.testing.assert_close(token_weights(fq, equal), torch.ones(50, dtype=torch.float64))
    nothing = token_weights(fq, fk, query=torch.zeros(8))
    torch.testing.assert_close(nothing, torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(linear_output(fq, fk * nothing[:, None], v), linear_output(fq, fk, v))


def test_outputs_are_convex_in_the_values_and_follow_permutations():
    q, k, v = draw()
    fq, fk = feature_map(q), feature_map(k)
    weighted = fk * token_weights(fq, fk)[:, None]
    torch.testing.assert_close(linear_output(fq, weighted, torch.ones_like(v)), torch.ones_like(v))
    out = linear_output(fq, weighted, v)
    assert (out >= v.amin(0) - 1e-12).all()
    assert (out <= v.amax(0) + 1e-12).all()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(linear_output(fq[order], weighted[order], v[order]), out[order])


def test_unequal_weights_break_a_cancellation():
    """κ(k₃) = κ(k₁) + κ(k₂), v₁ = v₂ = −v₃: the buffer is 0, with unequal weights it has rank one."""
    fk = torch.tensor([[1.0, 2, 3], [2, 1, 1], [3, 3, 4]], dtype=torch.float64)
    v = torch.tensor([[1.0, -2], [1, -2], [-1, 2]], dtype=torch.float64)
    assert kv_buffer(fk, v).abs().max() < 1e-12
    assert ex.rank_measures(kv_buffer(fk * torch.tensor([[0.5], [1.0], [1.5]]), v))["numerical_rank"] == 1


def test_the_shortcut_gives_the_spectrum_of_the_map():
    q, k, _ = draw(70, 6)
    fq, fk = feature_map(q), feature_map(k)
    dense = torch.linalg.svdvals(whole(fq, fk))
    torch.testing.assert_close(linear_spectrum(fq, fk), dense[:6], rtol=1e-11, atol=1e-14)
    assert dense[6:].max() < 1e-13


def test_modulation_multiplies_ranks_and_nothing_else_raises_them():
    rng = np.random.default_rng(0)
    low = [rng.normal(size=(60, r)) @ rng.normal(size=(r, 32)) for r in (3, 4)]
    assert ex.rank_measures(low[0] * low[1])["numerical_rank"] == 12
    q, k, v = draw(60, 32)
    v = v[:, :5] @ torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fq, fk = feature_map(q), feature_map(k)
    out = linear_output(fq, fk, v)
    assert ex.rank_measures(out)["numerical_rank"] <= 5
    assert ex.rank_measures(out.numpy() * rng.normal(size=(60, 32)))["numerical_rank"] > 20


def test_softmax_temperatures_go_from_a_permutation_to_rank_one():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    keys = torch.eye(16, dtype=torch.float64)
    cold, warm = (torch.softmax(keys[order] @ keys.T / t, 1) for t in (0.01, 1e6))
    assert ex.rank_measures(cold)["effective_rank"] == pytest.approx(16, rel=1e-6)
    assert ex.rank_measures(warm)["effective_rank"] == pytest.approx(1, abs=1e-3)


def measure(matrix, name="effective_rank"):
    return ex.rank_measures(np.asarray(matrix))[name]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_every_quantity_equals_a_count_from_whole_matrices(causal, padded):
    valid = torch.arange(40)[None] >= (7 if padded else 0)
    rules = {"causal": causal, "key_valid": valid, "query_valid": valid}
    one = layer(40, **rules)
    found = ex.feature_rank(record([one]))
    there, outputs = valid[0], []
    for head in range(4):
        q, k, v = one.q[0, head, there], one.k[0, head // 2, there], one.v[0, head // 2, there]
        fq, fk = feature_map(q), feature_map(k)
        alpha = token_weights(fq, fk)[:, None]
        outputs.append(maps(one)[0, head][np.ix_(there, there)] @ v.numpy())
        expected = {
            "softmax_output": outputs[-1],
            "linear_output": whole(fq, fk, causal) @ v,
            "kv_buffer": sum(torch.outer(a, b) for a, b in zip(fk, v, strict=True)),
            "weighted_kv_buffer": sum(w * torch.outer(a, b) for w, a, b in zip(alpha, fk, v, strict=True)),
        }
        if not causal:
            expected |= {"weighted_output": whole(fq, fk * alpha) @ v, "linear_map": whole(fq, fk)}
        for name, matrix in expected.items():
            assert found[name].values[0, head] == pytest.approx(measure(matrix), rel=1e-6), name
    assert found["softmax_concatenated"].item() == pytest.approx(
        measure(np.concatenate(outputs, 1)), rel=1e-6
    )
    assert ("weighted_output" in found) == (not causal)
    assert "weighted_output" in ex.feature_rank(record([one]), full=True)


def test_a_low_rank_input_keeps_both_outputs_low_by_the_tolerance_of_its_type():
    one = layer(60, heads=1, key_heads=1, size=16, dtype=torch.float32, causal=False)
    low = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    mixed = low @ torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    from dataclasses import replace

    found = ex.feature_rank(record([replace(one, v=mixed[None, None])]), measure="numerical_rank")
    assert found["softmax_output"].item() == 3
    assert found["linear_output"].item() == 3
    wrong = ex.feature_rank(
        record([replace(one, v=mixed[None, None])]), measure="numerical_rank", data_dtype="float64"
    )
    assert wrong["softmax_output"].item() > 3
