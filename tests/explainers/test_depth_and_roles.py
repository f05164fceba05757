"""Sinks and entropy over depth, sink tokens as a strip, entropy by role and on the keys of one role."""

import numpy as np
import pytest
import torch
from explainer_cases import causal, record, uniform
from layer_cases import layer, maps
from layer_cases import record as kept

from probe import explainers as ex
from probe.errors import InputError
from probe.record import strings


def random_record(samples=2, layers=3, heads=2, n=30, seed=0):
    rng = np.random.default_rng(seed)
    weights = np.exp(2 * rng.normal(size=(samples, layers, heads, n, n))) * causal(n)
    weights /= weights.sum(-1, keepdims=True)
    visible = np.broadcast_to(causal(n), (samples, layers, n, n))
    return weights, record(weights, visible, [[f"w{i}" for i in range(n)]] * samples)


@pytest.mark.parametrize("rule", ["corrected", "literal"])
def test_sinks_over_depth_equal_a_count_over_whole_maps(rule):
    weights, trace = random_record()
    found = ex.sink_depth(trace, rule=rule, epsilon=0.2, sample=1)
    strip = ex.sink_tokens(trace, rule=rule, factor=1.5, sample=1)
    n, ratios = 30, np.zeros((3, 2, 30))
    for at, head in np.ndindex(3, 2):
        for k in range(n):
            share = np.mean([weights[1, at, head, i, k] for i in range(k, n)])
            even = np.mean([1 / (i + 1) for i in range(k, n)]) if rule == "corrected" else 1 / n
            ratios[at, head, k] = share / even
    np.testing.assert_allclose(
        found["ratio"], ratios.mean(1)[:, :23], rtol=1e-5
    )  # the others: fewer than eight queries
    np.testing.assert_allclose(
        ex.sink_depth(trace, rule=rule, min_queries=1, sample=1)["ratio"], ratios.mean(1), rtol=1e-5
    )
    first = weights[1, :, :, :, 0].mean(-1) > 0.2
    np.testing.assert_allclose(found["first_token_sinks"], first.mean(1))
    np.testing.assert_allclose(strip["ratio"][:23], ratios.mean((0, 1))[:23], rtol=1e-5)
    np.testing.assert_allclose(strip["sink_heads"][:23], (ratios > 1.5).mean((0, 1))[:23])
    assert np.isnan(strip["ratio"][23:]).all()  # seen by fewer than eight queries
    assert np.isfinite(ex.sink_tokens(trace, min_queries=1)["ratio"]).all()


@pytest.mark.parametrize("size", [5, 90, 512])
def test_an_even_causal_map_has_no_sink_anywhere(size):
    trace = record(uniform(causal(size))[None, None, None], causal(size)[None, None])
    found = ex.sink_tokens(trace, min_queries=1)
    np.testing.assert_allclose(found["ratio"], 1, rtol=1e-5)
    assert found["sink_heads"].max() == 0
    np.testing.assert_allclose(ex.sink_depth(trace)["ratio"], 1, rtol=1e-5)


def test_a_planted_sink_emerges_in_its_layer_and_is_named():
    n, visible = 40, causal(40)
    maps_ = np.broadcast_to(uniform(visible), (1, 3, 2, n, n)).copy()
    maps_[0, 2, :, 10:] *= 0.1
    maps_[0, 2, :, 10:, 10] += 0.9
    trace = record(maps_, np.broadcast_to(visible, (1, 3, n, n)), [[f"w{i}" for i in range(n)]])
    found = ex.sink_depth(trace)
    assert found["ratio"].values[:2].max() < 1.01
    assert int(found["ratio"].values[2].argmax()) == 10
    strip = ex.sink_tokens(trace)
    assert strip["sink_heads"].values[10] == pytest.approx(1 / 3)
    words = ex.verbalize(strip)
    assert "received by “w10”" in words
    assert "“w10” is a sink in 33% of the 6 heads." in words


def test_entropy_over_depth_equals_the_rows_of_whole_maps():
    weights, trace = random_record()
    found = ex.entropy_depth(trace, sample=1)
    assert found["column"].values.tolist() == list(range(1, 30))  # the first token sees one key
    for at in range(3):
        rows = -(weights[1, at] * np.log(np.where(weights[1, at] > 0, weights[1, at], 1))).sum(-1).mean(0)
        np.testing.assert_allclose(found["normalized"][at], rows[1:] / np.log(np.arange(2, 31)), rtol=1e-5)
    np.testing.assert_allclose(found["layer_mean"], found["normalized"].values.mean(1))
    with pytest.raises(InputError, match="sample: got 2"):
        ex.entropy_depth(trace, sample=2)


def test_entropy_of_the_rows_of_one_role():
    weights, trace = random_record()
    roles = np.array([["image"] * 10 + ["text"] * 20, ["text"] * 15 + ["image"] * 15])
    trace["tokens"] = trace["tokens"].to_dataset().assign(role=(("sample", "token"), strings(roles.tolist())))
    found = ex.entropy(trace, role="image")
    rows = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
    chosen = [rows[s][..., roles[s] == "image"].mean(-1) for s in range(2)]
    np.testing.assert_allclose(found["entropy"], np.mean(chosen, 0), rtol=1e-5)
    normal = rows[..., 1:] / np.log(np.arange(2, 31))
    for role in ("image", "text"):
        there = np.concatenate([normal[s][..., roles[s, 1:] == role] for s in range(2)], -1)
        np.testing.assert_allclose(found["by_role"].sel(role=role), there.mean(-1), rtol=1e-5)
    for wrong in ("audio", "imag"):
        with pytest.raises(InputError, match=f"role: got '{wrong}'.*it|has: image, text"):
            ex.entropy(trace, role=wrong)


@pytest.mark.parametrize("sink", [None, torch.tensor([1.0, 0.0, -1.0, 2.0])])
def test_entropy_on_keys_of_one_role_equals_renormalised_rows(sink):
    one, roles = layer(24, sink=sink), ["text"] * 5 + ["image"] * 12 + ["text"] * 7
    found = ex.role_entropy(kept([one], roles=[roles]), keys="image", queries="text")
    inside = np.array([r == "image" for r in roles])
    for head, matrix in enumerate(maps(one)[0]):
        normal, mass = [], []
        for i in range(24):
            part = matrix[i, inside & (np.arange(24) <= i)]
            if roles[i] == "text" and part.size > 1:
                p = part / part.sum()
                normal.append(-(p * np.log(p)).sum() / np.log(part.size))
                mass.append(part.sum())
        assert found["normalized"].values[0, head] == pytest.approx(np.mean(normal), rel=1e-6)
        assert found["mass"].values[0, head] == pytest.approx(np.mean(mass), rel=1e-6)
    with pytest.raises(InputError, match=r"keys: got 'audio', .*image, text"):
        ex.role_entropy(kept([one], roles=[roles]), keys="audio")
