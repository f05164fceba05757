"""Rollout by products with vectors against products of whole maps, its invariants, and flow against its own recursion."""

import itertools

import numpy as np
import pytest
import torch
from explainer_cases import classifier, language_model, same_state, snapshot
from layer_cases import layer, maps, record

import probe
from probe import explainers as ex
from probe.errors import InputError, ModelError


def stack(count=3, n=20, **rules):
    return [layer(n, seed=s, **rules) for s in range(count)]


def augmented(one):
    n = one.q.shape[2]
    return 0.5 * maps(one)[0].mean(0) + 0.5 * np.eye(n)


def even(one):
    from attention_oracle import mask

    seen = mask(one.spec, 1, one.q.shape[2], one.k.shape[2])[0].double().numpy()
    return 0.5 * seen / np.maximum(seen.sum(1, keepdims=True), 1) + 0.5 * np.eye(len(seen))


@pytest.mark.parametrize("rules", [{}, {"causal": False}, {"window": 5}], ids=["causal", "full", "window"])
@pytest.mark.parametrize("position", [-1, 7, 0])
def test_both_directions_equal_products_of_whole_maps(rules, position):
    layers = stack(**rules)
    matrices = [augmented(one) for one in layers]
    products = list(itertools.accumulate(matrices, lambda r, a: a @ r))
    trace = record(layers)
    back = ex.rollout(trace, position=position)["rollout"].values
    forth = ex.rollout(trace, position=position, direction="forward")["rollout"].values
    np.testing.assert_allclose(back[0], products[-1][position], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(back[2], matrices[2][position], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(back[3], np.eye(20)[position])
    for depth in range(3):
        np.testing.assert_allclose(forth[depth + 1], products[depth][:, position], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(back.sum(1), 1, rtol=1e-9)
    if not rules:
        assert (back[:, position % 20 + 1 :] == 0).all()  # causal stays causal


@pytest.mark.parametrize(
    "rules", [{}, {"causal": False}, {"sink": torch.zeros(4)}, {"slopes": torch.ones(4)}]
)
def test_the_even_rollout_follows_the_mask_alone(rules):
    layers = stack(**rules)
    product = np.eye(20)
    expected = np.eye(20)
    for one in layers:
        product, expected = augmented(one) @ product, even(one) @ expected
    found = ex.rollout(record(layers), normalise="uniform")["rollout"].values[0]
    np.testing.assert_allclose(found, product[-1] / expected[-1], rtol=1e-6)


def test_even_maps_give_the_closed_form_and_ratio_one():
    """L even bidirectional maps: 2^-L I + (1 - 2^-L) 11ᵀ/T."""
    layers = stack(4, causal=False, spread=0.0)
    found = ex.rollout(record(layers), position=5)["rollout"].values[0]
    expected = np.full(20, (1 - 2**-4) / 20)
    expected[5] += 2**-4
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        ex.rollout(record(layers), position=5, normalise="uniform")["rollout"].values[0], 1
    )


def test_padding_is_left_out_and_positions_count_what_is_left():
    valid = torch.arange(20)[None] >= 6
    layers = stack(key_valid=valid, query_valid=valid)
    matrices = [(0.5 * maps(one)[0].mean(0) + 0.5 * np.eye(20))[6:, 6:] for one in layers]
    found = ex.rollout(record(layers), position=0, direction="forward")
    np.testing.assert_allclose(
        found["rollout"].values[-1], (matrices[2] @ matrices[1] @ matrices[0])[:, 0], rtol=1e-9
    )
    assert found["column"].values.tolist() == list(range(6, 20))


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_model_and_a_record_of_it_say_the_same(direction):
    model, text = language_model(), "the plot is thin but the acting is a delight"
    trace = probe.capture(model, text, stats=("entropy",), keep="qkv")
    pair = [ex.rollout(s, i, direction=direction) for s, i in ((model, text), (trace, None))]
    np.testing.assert_allclose(pair[0]["rollout"], pair[1]["rollout"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_the_measured_share_is_that_of_the_norms(direction):
    model, text = language_model(), "the capital of france is"
    before = snapshot(model.model)
    found = ex.rollout(model, text, residual="measured", direction=direction)["rollout"].values
    assert same_state(before, snapshot(model.model))
    inputs = model.processor(text, return_tensors="pt")
    outputs = {}
    handles = [
        part.self_attn.register_forward_hook(lambda _, __, out, at=at: outputs.__setitem__(at, out[0]))
        for at, part in enumerate(model.model.model.layers)
    ]
    with torch.no_grad():
        hidden = model.model(**inputs, output_hidden_states=True).hidden_states
        model.model.set_attn_implementation("eager")
        weights = model.model(**inputs, output_attentions=True).attentions
        model.model.set_attn_implementation("sdpa")
    for handle in handles:
        handle.remove()
    product = np.eye(weights[0].shape[-1])
    for at in range(2):
        x, a = (t[0].double().norm(dim=-1).numpy() for t in (hidden[at], outputs[at]))
        r = (x / (x + a))[:, None]
        product = (r * np.eye(len(r)) + (1 - r) * weights[at][0].double().mean(0).numpy()) @ product
    expected = product[-1] if direction == "backward" else product[:, -1]
    np.testing.assert_allclose(found[0 if direction == "backward" else -1], expected, rtol=1e-4, atol=1e-7)


def test_shares_that_cannot_be_measured_are_refused():
    with pytest.raises(ModelError, match="is not added to the block's input as it is"):
        ex.rollout(classifier(), "the plot is thin", residual="measured")  # BERT projects first
    with pytest.raises(InputError, match="'measured' with a record"):
        ex.rollout(record(stack()), residual="measured")


def slow_flow(matrices, target):
    """Max-flow from every token by networkx, on graphs built edge by edge."""
    import networkx

    n, graph = len(matrices[0]), networkx.DiGraph()
    for depth, a in enumerate(matrices):
        for i, j in itertools.product(range(n), range(n)):
            graph.add_edge((depth, j), (depth + 1, i), capacity=float(a[i, j]))
    return [networkx.maximum_flow_value(graph, (0, s), (len(matrices), target)) for s in range(n)]


@pytest.mark.parametrize("rules", [{}, {"causal": False}], ids=["causal", "full"])
def test_flow_equals_that_of_another_library(rules):
    layers = stack(3, 9, **rules)
    found = ex.attention_flow(record(layers), position=6)
    np.testing.assert_allclose(found["flow"], slow_flow([augmented(one) for one in layers], 6), atol=1e-6)
    carried, source, target = (found[name].values for name in ("carried", "source", "target"))
    inner = set(source) & set(target)
    for node in inner:  # what goes in comes out
        assert carried[target == node].sum() == pytest.approx(carried[source == node].sum())
    assert carried[target == 3 * 9 + 6].sum() == pytest.approx(
        found["flow"].values[found.attrs["origin_index"]], abs=1e-7
    )


def test_identity_maps_keep_everything_in_its_place():
    """One key each: rollout stays the token itself, flow is the whole pipe from it and nothing from others."""
    layers = stack(3, 6, window=1)
    np.testing.assert_allclose(ex.rollout(record(layers), position=2)["rollout"].values[0], np.eye(6)[2])
    np.testing.assert_allclose(ex.attention_flow(record(layers), position=2)["flow"], np.eye(6)[2], atol=1e-7)


def test_what_cannot_be_chained_or_found_is_refused():
    trace = record(stack(2, 8))
    for options, said in (
        ({"position": 8}, "position: got 8, expected -8 to 7"),
        ({"sample": 1}, "sample: got 1"),
    ):
        for explain in (ex.rollout, ex.attention_flow):
            with pytest.raises(InputError, match=said):
                explain(trace, **options)
    with pytest.raises(InputError, match="65 tokens, expected at most 64"):
        ex.attention_flow(record(stack(1, 65)))
