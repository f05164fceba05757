"""The trainer: seeds, resume to the same bits, the best epoch, folds without leaks, metrics under their right names."""

import json

import numpy as np
import pytest
import torch
from mil_bags import planted

from probe.bags import Bag, in_memory
from probe.errors import InputError, ModelError
from probe.explainers import mil
from probe.explainers._mil import checkpoint, crossval

SMALL = {"hidden": 8, "gate": 4, "branches": 2, "epochs": 4, "lr": 1e-2, "monitor": "loss"}


@pytest.fixture(scope="module")
def bags():
    return planted(12, instances=20, width=6, each=4)


def same(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_one_seed_one_result_and_the_callers_randomness_is_left_alone(bags):
    plan = mil.Plan(**SMALL)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = mil.fit(bags[:16], bags[16:], plan)
    assert torch.equal(torch.rand(1), expected)
    torch.rand(5)
    assert same(first.model, mil.fit(bags[:16], bags[16:], plan).model)
    assert not same(first.model, mil.fit(bags[:16], bags[16:], mil.Plan(**SMALL, seed=1)).model)


@pytest.mark.parametrize("method", ["abmil", "acmil"])
def test_interrupted_and_resumed_is_the_same_bits(bags, tmp_path, method):
    plan = mil.Plan(**SMALL, method=method)
    whole = mil.fit(bags[:16], bags[16:], plan, folder=tmp_path / "whole")

    def interrupt(done, _total, _word):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mil.fit(bags[:16], bags[16:], plan, folder=tmp_path / "cut", progress=interrupt)
    with pytest.raises(InputError, match="holds a training already"):
        mil.fit(bags[:16], bags[16:], plan, folder=tmp_path / "cut")
    seen = []
    resumed = mil.fit(
        bags[:16],
        bags[16:],
        plan,
        folder=tmp_path / "cut",
        resume=True,
        progress=lambda *a: seen.append(a[0]),
    )
    assert seen == [3, 4]
    assert same(whole.model, resumed.model)
    assert whole.history == resumed.history
    loaded = mil.load(tmp_path / "cut")
    assert same(loaded, whole.model)
    assert loaded.facts["classes"] == ["negative", "positive"]
    with pytest.raises(InputError, match="other plan"):
        mil.fit(
            bags[:16],
            bags[16:],
            mil.Plan(**SMALL, method=method, seed=3),
            folder=tmp_path / "cut",
            resume=True,
        )


def test_the_best_epoch_is_kept_and_patience_ends_the_training(bags):
    """With a learning rate that ruins the model, an early epoch is the best on the validation bags."""
    settings = SMALL | {"epochs": 30, "lr": 0.3}
    got = mil.fit(bags[:16], bags[16:], mil.Plan(**settings, patience=3))
    losses = [entry["validation_log_loss"] for entry in got.history]
    assert got.best == int(np.argmin(losses)) + 1
    assert len(got.history) <= got.best + 3
    assert len(got.history) < 30
    labels = bags[16:].known_labels()
    _, p = mil.predict(got.model, bags[16:])
    assert mil.evaluate(labels, p)["log_loss"] == pytest.approx(min(losses), rel=1e-9)
    assert not got.model.training


def test_standardised_features_are_those_of_the_training_bags(bags):
    far = in_memory([Bag(b.name, b.features * 50 + 1000, b.label) for b in bags], bags.classes)
    got = mil.fit(far[:16], far[16:], mil.Plan(**SMALL | {"epochs": 1}))
    rows = torch.cat([b.features for b in far[:16]])
    torch.testing.assert_close(got.model.mean, rows.mean(0), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(got.model.scale, rows.std(0, correction=0), rtol=1e-3, atol=1e-2)


def test_every_bag_is_predicted_by_a_model_that_never_saw_it(bags, monkeypatch):
    seen = []

    def spy(train, validation, plan, **_):
        seen.append((set(train.names), set(validation.names)))
        return real(train, validation, plan)

    real = crossval.fit
    monkeypatch.setattr(crossval, "fit", spy)
    plan = mil.Plan(**SMALL | {"epochs": 1})
    got = mil.cross_validate(bags, plan, folds=4)
    for number, (train, validation) in enumerate(seen):
        test = {n for n, f in zip(got.names, got.fold, strict=True) if f == number}
        assert train | validation | test == set(bags.names)
        assert len(train) + len(validation) + len(test) == len(bags)
    assert np.bincount(got.fold).tolist() == [6] * 4
    assert np.allclose(got.probabilities.sum(1), 1)
    seen.clear()
    _, tested = mil.hold_out(bags, plan)
    (train, validation) = seen[0]
    assert not (train | validation) & set(tested.names)
    assert len(train) + len(validation) + len(tested.names) == len(bags)


@pytest.mark.parametrize("folds", [1, 13])
def test_folds_that_cannot_be(bags, folds):
    with pytest.raises(InputError, match="expected 2 to 12"):
        mil.cross_validate(bags, mil.Plan(**SMALL), folds=folds)


def test_macro_f1_is_not_accuracy_and_auc_is_sklearns():
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(0)
    labels = np.array([0] * 40 + [1] * 8 + [2] * 4)
    p = rng.dirichlet(np.ones(3), 52)
    p[:40, 0] += 1
    p /= p.sum(1, keepdims=True)
    got = mil.evaluate(labels, p)
    assert got["macro_f1"] == pytest.approx(f1_score(labels, p.argmax(1), average="macro"))
    assert abs(got["macro_f1"] - got["accuracy"]) > 0.1
    assert got["auc"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr", average="macro"))
    two = rng.dirichlet(np.ones(2), 52).round(1)
    assert mil.auc(labels > 0, two) == pytest.approx(roc_auc_score(labels > 0, two[:, 1]))
    assert np.isnan(mil.auc(np.zeros(5, dtype=int), two[:5]))


def test_intervals_hold_the_value_and_a_difference_of_nothing_holds_zero():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    p = np.clip(labels * 0.3 + rng.random(60) * 0.7, 0, 1)
    p = np.stack([1 - p, p], 1)
    low, high = mil.interval(labels, p, mil.auc, resamples=300)
    assert low < mil.auc(labels, p) < high
    assert mil.interval(labels, p, mil.auc, against=p, resamples=50) == (0, 0)
    worse = np.full_like(p, 0.5)
    assert mil.interval(labels, p, mil.auc, against=worse, resamples=300)[0] > 0


def test_what_cannot_be_trained_on_is_refused(bags):
    plan = mil.Plan(**SMALL)
    with pytest.raises(InputError, match="have no label"):
        mil.fit(in_memory([Bag("a", torch.ones(2, 3))]), bags, plan)
    with pytest.raises(InputError, match="same label"):
        mil.fit(in_memory([Bag("a", torch.ones(2, 3), 1)]), bags, plan)
    two = in_memory([Bag("a", torch.ones(2, 3), 0), Bag("b", torch.ones(2, 4), 1)])
    with pytest.raises(InputError, match="b: has 4 features, the bags before it have 3"):
        mil.fit(two, bags, plan)
    with pytest.raises(ModelError, match="loss is"):
        mil.fit(bags[:16], bags[16:], mil.Plan(**SMALL | {"lr": 1e30}))
    for wrong in ({"method": "clam"}, {"monitor": "test"}, {"epochs": 0}, {"lr": 0.0}):
        with pytest.raises(InputError):
            mil.Plan(**wrong)


def test_files_that_are_no_model(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ModelError, match="there is no model"):
        mil.load(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"\x08" * 40)
    with pytest.raises(ModelError, match="damaged"):
        mil.load(tmp_path / "a.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="not written by"):
        mil.load(tmp_path / "b.safetensors")
    model = mil.ABMIL(5)
    path = mil.save(model, tmp_path, method="abmil")
    tensors, facts = checkpoint.read(path)
    facts["settings"]["hidden"] = 7
    checkpoint.write(path, tensors, facts)
    with pytest.raises(ModelError, match="do not fit its settings"):
        mil.load(path)
    json.dumps(facts)


@pytest.mark.slow
def test_of_two_planted_patterns_one_branch_leaves_the_weak_one_and_five_find_some_of_it():
    """The paper's claim in miniature: the direction. This short training finds 0.11 of the weak pattern (longer ones 0.2)."""
    from probe.explainers._mil import measures

    train, test = planted(40, seed=0), planted(15, seed=200)
    found = {}
    for method in ("abmil", "mba"):
        plan = mil.Plan(method=method, hidden=32, epochs=12, lr=1e-3, weight_decay=5e-3, monitor="loss")
        model = mil.fit(train, planted(8, seed=100), plan).model
        rows = []
        for one in test:
            if one.label:
                with torch.no_grad():
                    a = model(one.features).attention[0].double().mean(1).numpy()
                chosen = measures.activated(a)
                rows.append(
                    [
                        measures.cumulative(a, 10)[-1],
                        *measures.recall(chosen, one.annotation, np.array([1, 2])),
                    ]
                )
        found[method] = np.mean(rows, 0)
        assert mil.evaluate(test.known_labels(), mil.predict(model, test)[1])["auc"] > 0.95
    (alone, _, weak_alone), (spread, _, weak_spread) = found["abmil"], found["mba"]
    assert weak_alone < 0.05
    assert weak_spread > 0.05
    assert spread < alone - 0.1
