"""Rank collapse, massive activations and the walk along the residual stream."""

import numpy as np
import pytest
import torch
from explainer_cases import classifier, language_model, same_state, snapshot

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._rank.collapse import _measures


@pytest.mark.parametrize("seed", range(3))
def test_attention_alone_collapses_and_skips_prevent_it(seed):
    """Random weights, 32 tokens, width 16, float64: below 1e-12 within six layers without skips, above 0.1 with them."""
    rng = np.random.default_rng(seed)
    ends = {}
    for skip in (False, True):
        x = rng.normal(size=(32, 16))
        for _ in range(6):
            q, k, v = (x @ rng.normal(size=(16, 16)) / 4 for _ in range(3))
            s = q @ k.T / 4
            a = np.exp(s - s.max(1, keepdims=True))
            y = a / a.sum(1, keepdims=True) @ v
            x = (x + y) if skip else y
            x = x / np.linalg.norm(x) * 32**0.5
        ends[skip] = _measures(torch.from_numpy(x))["residual"]
    assert ends[False] < 1e-12
    assert ends[True] > 0.1


def test_measures_of_a_stream_equal_their_definitions():
    x = np.random.default_rng(0).normal(size=(9, 5)) + 2
    found = _measures(torch.from_numpy(x))
    rest = x - x.mean(0)
    assert found["residual"] == pytest.approx(np.sqrt((rest**2).sum() / (x**2).sum()))
    norms = [max(abs(m).sum(0)) * max(abs(m).sum(1)) for m in (rest, x)]
    assert found["composite"] == pytest.approx(np.sqrt(norms[0] / norms[1]))
    pairs = [
        x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
        for i in range(9)
        for j in range(9)
        if i != j
    ]
    assert found["cosine"] == pytest.approx(np.mean(pairs))
    one = _measures(torch.ones(4, 3, dtype=torch.float64))
    assert one["residual"] == pytest.approx(0, abs=1e-12)
    assert one["cosine"] == pytest.approx(1)


@pytest.mark.parametrize("build", [classifier, language_model])
def test_the_stream_is_what_the_model_says_its_hidden_states_are(build):
    model, text = build(), "the plot is thin"
    before = snapshot(model.model)
    found, massive = ex.rank_collapse(model, text), ex.massive_activations(model, text)
    assert same_state(before, snapshot(model.model))
    with torch.no_grad():
        hidden = model.model(
            **model.processor(text, return_tensors="pt"), output_hidden_states=True
        ).hidden_states
    for row in range(2):  # the last hidden state is behind a final norm in some models
        x = hidden[row][0].double().numpy()
        rest = x - x.mean(0)
        assert found["residual"].values[row] == pytest.approx(
            np.linalg.norm(rest) / np.linalg.norm(x), rel=1e-6
        )
        own = np.linalg.norm(rest, axis=1) / np.linalg.norm(x, axis=1)
        np.testing.assert_allclose(found["token_residual"][row], own, rtol=1e-6)
        np.testing.assert_allclose(massive["largest"][row], abs(x).max(1), rtol=1e-6)
    assert found.sizes["row"] == 3


def test_padding_counts_nowhere():
    model, text = language_model(), "the capital of france is"
    alone = ex.rank_collapse(model, text)
    padded = ex.rank_collapse(model, ["the plot is thin but the acting is a delight", text], sample=1)
    np.testing.assert_allclose(alone["residual"], padded["residual"], rtol=1e-5)
    assert padded.sizes["column"] == alone.sizes["column"]
    with pytest.raises(InputError, match="sample: got 2"):
        ex.massive_activations(model, ["the plot", text], sample=2)


def test_a_planted_massive_activation_is_found():
    model, text = language_model(), "the capital of france is"
    layer = model.model.model.layers[0]

    def plant(_, __, output):
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[:, 0, 3] = 5e4
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = layer.register_forward_hook(plant)
    found = ex.massive_activations(model, text)
    handle.remove()
    assert found["massive_tokens"].values.tolist()[:2] == [0, 1]
    assert found["largest"].values[1].argmax() == 0
    assert found["largest"].values[1, 0] == pytest.approx(5e4)
