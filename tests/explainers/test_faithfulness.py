"""Deletion and insertion curves against loops, and verdicts on maps whose faithfulness is known."""

import numpy as np
import pytest
from explainer_cases import classifier, planted_classifier
from hypothesis import given
from hypothesis import strategies as st

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._faithfulness import faithfulness_curves, step_counts


def additive(weights, offset=0.0):
    """A model whose log-odds are the sum of the weights of the parts that are there."""

    def probability(replaced):
        return 1 / (1 + np.exp(-(offset + (~replaced) @ weights)))

    return probability


def test_curves_equal_a_loop_over_steps_and_orders():
    rng = np.random.default_rng(0)
    weights, scores = rng.normal(size=15), rng.normal(size=15)
    probability = additive(weights)
    found = faithfulness_curves(probability, scores, n_random=20, seed=3)
    order = sorted(range(15), key=lambda i: -scores[i])
    for step, fraction in enumerate(found["fraction"].values):
        count = round(fraction * 15)
        gone = np.zeros((1, 15), bool)
        gone[0, order[:count]] = True
        assert found["deletion"].values[step] == pytest.approx(probability(gone)[0])
        assert found["insertion"].values[step] == pytest.approx(probability(~gone)[0])
    for name in ("deletion", "insertion"):
        area = sum(
            (found[name].values[i] + found[name].values[i + 1]) / 2 * np.diff(found["fraction"].values)[i]
            for i in range(found.sizes["step"] - 1)
        )
        assert found.attrs[f"{name}_auc"] == pytest.approx(area)


def test_random_orders_are_those_of_the_seed():
    weights = np.random.default_rng(0).normal(size=9)
    found = faithfulness_curves(additive(weights), weights, n_random=20, seed=5)
    draw, areas = np.random.default_rng(5), []
    for _ in range(10):
        order = draw.permutation(9)
        for one in (order, order[::-1]):
            curve = []
            for count in range(10):
                gone = np.zeros((1, 9), bool)
                gone[0, one[:count]] = True
                curve.append(additive(weights)(gone)[0])
            areas.append(np.trapezoid(curve, np.arange(10) / 9))
    assert found.attrs["deletion_auc_random"] == pytest.approx(np.mean(areas))
    again = faithfulness_curves(additive(weights), weights, n_random=20, seed=5)
    assert again.identical(found)
    assert faithfulness_curves(additive(weights), weights, seed=6).attrs != found.attrs


@pytest.mark.parametrize("size", [1, 2, 5, 9, 16, 300])
def test_each_different_input_is_run_once_and_the_curves_are_those_of_running_all(size):
    """The slow way: every step of every order runs by itself."""
    rng = np.random.default_rng(size)
    weights, scores, ran = rng.normal(size=size), rng.normal(size=size), []
    model = additive(weights)

    def counting(replaced):
        ran.extend(map(tuple, replaced))
        return model(replaced)

    found = faithfulness_curves(counting, scores, n_random=20, seed=1)
    draw, order = np.random.default_rng(1), np.argsort(-scores, kind="stable")
    orders = [order, order[::-1]]
    for _ in range(10):
        shuffled = draw.permutation(size)
        orders += [shuffled, shuffled[::-1]]
    curves, seen = [], set()
    for one in orders:
        gone = np.zeros((len(step_counts(size)), size), bool)
        for step, count in enumerate(step_counts(size)):
            gone[step, one[:count]] = True
        seen |= set(map(tuple, gone))
        curves.append([model(row[None])[0] for row in gone])
    assert len(ran) == len(set(ran)) == len(seen) <= 2**size
    assert set(ran) == seen
    curves = np.array(curves)
    insertion = curves[np.arange(len(curves)) ^ 1, ::-1]
    for name, values in (("deletion", curves), ("insertion", insertion)):
        expected = {"": values[0], "_random": values[2:].mean(0), "_random_sd": values[2:].std(0)}
        for ending, curve in expected.items():
            np.testing.assert_allclose(found[name + ending].values, curve, rtol=1e-13, atol=1e-15)


@given(st.integers(1, 2000))
def test_steps_are_the_same_from_both_ends(size):
    counts = step_counts(size)
    assert counts[0] == 0
    assert counts[1] == 1
    assert counts[-1] == size
    np.testing.assert_array_equal(size - counts[::-1], counts)
    assert (np.diff(counts) > 0).all()
    assert len(counts) <= 40


def test_true_weights_are_faithful_and_their_reverse_is_not():
    weights = np.random.default_rng(1).normal(size=20)
    good, bad = (faithfulness_curves(additive(weights), sign * weights) for sign in (1, -1))
    assert good.attrs["faithfulness"] == "faithful"
    assert good.attrs["deletion_auc"] < good.attrs["deletion_auc_random"]
    assert good.attrs["insertion_auc"] > good.attrs["insertion_auc_random"]
    assert bad.attrs["faithfulness"] == "not shown"
    assert good.attrs["random_better"] == bad.attrs["random_worse"] == 0
    assert bad.attrs["faithfulness_sigma"] < -1 < 1 < good.attrs["faithfulness_sigma"]
    assert "not shown to be faithful" in bad.attrs["faithfulness_verdict"]


def test_random_scores_are_called_faithful_no_more_often_than_five_in_a_hundred():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=16)
    called = [
        faithfulness_curves(additive(weights), rng.normal(size=16), seed=i).attrs["faithfulness"]
        for i in range(400)
    ]
    assert 0 < called.count("faithful") <= 32  # 5 % of 400 is 20, and 2.6 standard deviations


def test_random_scores_of_a_real_model_are_not_called_faithful():
    text = "the film was not very good, and the story was long, but the acting is a real delight"
    found = ex.saliency(planted_classifier(), text, target="positive")
    assert found.attrs["faithfulness"] == "faithful"
    weights = found["score"].values[found["role"].values == "text"]
    shuffled = np.random.default_rng(0).permutation(weights)
    assert int(shuffled.argmax()) != int(weights.argmax())
    again = faithfulness_curves(additive(weights, -4.0), shuffled)
    assert again.attrs["faithfulness"] == "not shown"


def test_where_nothing_moves_nothing_can_be_told():
    found = faithfulness_curves(additive(np.full(10, 0.001)), np.arange(10.0))
    assert found.attrs["faithfulness"] == "undecided"
    assert "cannot tell" in found.attrs["faithfulness_verdict"]


def test_a_single_part_cannot_beat_chance():
    found = faithfulness_curves(additive(np.array([5.0])), np.array([1.0]))
    assert found.attrs["faithfulness"] == "not shown"
    assert found["fraction"].values.tolist() == [0, 1]


def test_equal_scores_do_not_beat_orders_that_do_as_well():
    found = faithfulness_curves(additive(np.ones(8)), np.zeros(8))
    assert found.attrs["faithfulness"] == "not shown"
    assert "20 of 20 random orders do as well" in found.attrs["faithfulness_verdict"]


@pytest.mark.parametrize(
    ("scores", "count"), [([], 20), ([1.0, np.nan], 20), ([[1.0]], 20), ([1.0, 2.0], 19)]
)
def test_bad_arguments_are_refused(scores, count):
    with pytest.raises(InputError, match="expected"):
        faithfulness_curves(additive(np.ones(2)), np.array(scores), n_random=count)


def test_the_curves_of_a_model_replace_embeddings_by_the_mask():
    import torch

    loaded, text = classifier(), "the film was wonderful"
    found = ex.saliency(loaded, text, method="occlusion", target="positive")
    ids = loaded.processor(text, return_tensors="pt")["input_ids"]
    inside = np.flatnonzero(found["role"].values == "text")
    order = inside[np.argsort(-found["score"].values[inside], kind="stable")]
    for step, count in enumerate(range(len(inside) + 1)):
        gone = ids.clone()
        gone[0, order[:count]] = loaded.processor.mask_token_id
        with torch.no_grad():
            chance = loaded.model(input_ids=gone).logits.softmax(-1)[0, 1].item()
        assert found["deletion"].values[step] == pytest.approx(chance, abs=1e-6)
    assert found.attrs["target_probability"] == pytest.approx(found["deletion"].values[0], abs=1e-6)


def test_an_order_that_hardly_matters_is_not_called_faithful():
    """Any replacement destroys the answer; what order is left in the ruins wins surely, and means nothing."""
    weights = np.arange(1.0, 7.0)

    def probability(replaced):
        return np.where(replaced.any(axis=1), 0.001 * (~replaced) @ weights, 0.77)

    found = faithfulness_curves(probability, weights)
    assert found.attrs["random_better"] == 0
    assert found.attrs["random_worse"] >= 16
    assert found.attrs["faithfulness"] == "not shown"
    assert "the order hardly matters (areas 0.00" in found.attrs["faithfulness_verdict"]
