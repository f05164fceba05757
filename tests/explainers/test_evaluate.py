"""Measures of faithfulness on models whose truth is known, and against slow copies that share no code."""

import numpy as np
import pytest
from explainer_cases import classifier, language_model, planted_classifier, same_state, snapshot

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._evaluate import measures, sanity
from probe.explainers._evaluate.perturb import Perturbed, keep_probabilities
from probe.explainers._evaluate.simulate import simulate
from probe.explainers._saliency.methods import baseline_of
from probe.explainers._saliency.subject import open_subject

TEXTS = [
    "the film is a delight and the plot is thin",
    "a dull and awful story , but the cast is a delight",
    "we hope the acting is good delight",
]


def perturbed(text=TEXTS[0], build=planted_classifier, target="positive"):
    loaded = build()
    subject = open_subject(loaded, text, target, 100, 16)
    return Perturbed(subject, baseline_of(subject, loaded.processor, "mask")[0])


def truth(part, word="delight"):
    pieces = [part.subject.tokens.pieces[i].strip() for i in part.subject.tokens.places]
    return np.array([float(piece == word) for piece in pieces])


def probability(part, kept):
    """The planted model written down again: log-odds −4 + 8 × how often the word is kept."""
    return 1 / (1 + np.exp(4 - 8 * (truth(part) * kept).sum()))


def test_curves_and_aopc_equal_a_loop():
    part, rng = perturbed(), np.random.default_rng(0)
    scores = rng.normal(size=part.size)
    order = sorted(range(part.size), key=lambda i: -scores[i])
    found = measures.curves(part, scores) | measures.aopc(part, scores)
    falling, rising = [], []
    for k in range(part.size + 1):
        gone = np.isin(np.arange(part.size), order[:k])
        falling.append(probability(part, ~gone))
        rising.append(probability(part, gone))
    assert found["deletion"] == pytest.approx(np.trapezoid(falling) / part.size, abs=1e-5)
    assert found["insertion"] == pytest.approx(np.trapezoid(rising) / part.size, abs=1e-5)
    assert found["gap"] == pytest.approx(found["insertion"] - found["deletion"])
    counts = [max(1, round(q * part.size)) for q in (0.1, 0.2, 0.3, 0.4, 0.5)]
    whole = falling[0]
    assert found["comprehensiveness"] == pytest.approx(
        np.mean([whole - falling[k] for k in counts]), abs=1e-5
    )
    assert found["sufficiency"] == pytest.approx(np.mean([whole - rising[k] for k in counts]), abs=1e-5)


def test_the_true_scores_beat_their_opposite_in_every_measure():
    part = perturbed()
    own, turned = (
        measures.curves(part, s) | measures.aopc(part, s) | measures.soft(part, s, 32, 0)
        for s in (truth(part), -truth(part))
    )
    for measure in measures.MEASURES[:-1]:
        sign = 1 if measure.better == "higher" else -1
        assert sign * own[measure.name] > sign * turned[measure.name], measure.name


def test_insertion_is_deletion_of_the_least_relevant_first():
    part = perturbed()
    scores = np.random.default_rng(1).permutation(part.size).astype(float)
    assert measures.curves(part, scores)["insertion"] == pytest.approx(
        measures.curves(part, -scores)["deletion"]
    )


@pytest.mark.parametrize("amount", [0.2, 0.5, 0.9])
def test_the_kept_amount_is_the_same_for_all_scores(amount):
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=30), rng.exponential(size=30) ** 4, np.eye(30)[3], np.ones(30)):
        keep = keep_probabilities(scores, amount)
        assert keep.mean() == pytest.approx(amount, abs=1e-9)
        assert ((keep >= 0) & (keep <= 1)).all()
        assert (np.diff(keep[np.argsort(scores, kind="stable")]) >= -1e-12).all()


def test_leaving_one_out_is_the_fall_of_the_score():
    part = perturbed()
    np.testing.assert_allclose(measures.leave_one_out(part), 8 * truth(part), atol=1e-4)


def test_shuffled_weights_are_a_copy_with_the_same_embeddings():
    import torch

    loaded = classifier()
    before = snapshot(loaded.model)
    other = sanity.shuffled(loaded, 0)
    assert same_state(before, snapshot(loaded.model))
    same = {
        name
        for name, p in loaded.model.named_parameters()
        if torch.equal(p, dict(other.model.named_parameters())[name])
    }
    changed = [n for n, p in loaded.model.named_parameters() if n not in same and p.numel() > 50]
    assert "bert.embeddings.word_embeddings.weight" in same
    assert len(changed) > 5
    for name in changed[:3]:
        own, shuffled = (
            dict(m.named_parameters())[name].flatten().sort().values for m in (loaded.model, other.model)
        )
        assert torch.equal(own, shuffled)


def test_a_bag_of_words_guesses_from_telling_words_and_not_from_others():
    rng = np.random.default_rng(0)
    answers = ["positive", "negative"] * 20
    telling = [["delight", "film"] if a == "positive" else ["dull", "film"] for a in answers]
    empty = [[str(rng.integers(1000))] for _ in answers]
    labels = [[a] for a in answers]
    assert simulate(telling, answers, 0).mean() == 1
    assert simulate(empty, answers, 0).mean() < 0.8
    assert np.isnan(simulate(labels, answers, 0)).all(), "a label must not give itself away"
    assert np.isnan(simulate(telling, ["positive"] * 40, 0)).all()


def test_the_table_has_methods_measures_intervals_and_chance():
    seen = []
    found = ex.evaluate(
        planted_classifier(),
        TEXTS,
        methods=["occlusion", "gradient_x_input"],
        baselines=["mask", "mean"],
        sanity=1,
        progress=lambda done, expected, _: seen.append((done, expected)),
    )
    assert found["explainer"].values.tolist() == ["occlusion", "gradient_x_input", "random"]
    names = found["measure"].values.tolist()
    assert {"deletion (mask)", "gap (mean)", "sufficiency", "leave-one-out", "random weights"} <= set(names)
    assert "other target" not in names
    assert seen[-1] == (3, 3)
    one = found.sel(measure="leave-one-out")
    assert float(one["mean"].sel(explainer="occlusion")) == pytest.approx(1)
    assert (found["count"].sel(measure="sufficiency") == 3).all()
    ok = np.isfinite(found["low"].values)
    assert (found["low"].values[ok] <= found["mean"].values[ok] + 1e-12).all()
    assert (found["mean"].values[ok] <= found["high"].values[ok] + 1e-12).all()
    gap = found["mean"].sel(measure="gap (mask)")
    assert float(gap.sel(explainer="occlusion")) > float(gap.sel(explainer="random"))
    for language in ("en", "de"):
        assert "occlusion" in ex.verbalize(found, language=language)


def test_a_language_model_is_evaluated_too():
    model = language_model()
    before = snapshot(model.model)
    found = ex.evaluate(model, ["the plot is thin", "the capital of"], methods=["gradient_x_input"], sanity=1)
    assert same_state(before, snapshot(model.model))
    assert "simulatability" not in found["measure"].values
    assert "other target" in found["measure"].values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ["one"]}, "at least two texts"),
        ({"texts": "one text"}, "at least two texts"),
        ({"methods": ["x"]}, r"methods = \['x'\], expected some of"),
        ({"methods": []}, "methods = none"),
        ({"level": 95}, "level = 95"),
        ({"texts": ["a film", ""]}, "text 2 of 2: the text is empty"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, message):
    arguments = {"texts": TEXTS, "methods": ["gradient_x_input"], "sanity": 0} | change
    with pytest.raises(InputError, match=message):
        ex.evaluate(planted_classifier(), arguments.pop("texts"), **arguments)
