"""Known facts on real models: our sentiment classifier, and SmolLM2 where it is installed."""

from pathlib import Path

import numpy as np
import pytest
from explainer_words import check

import probe
from probe import explainers as ex
from probe.models.catalog import list_models

TEXT = (Path(__file__).resolve().parents[2] / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sentiment():
    return probe.load("sentiment", device="cpu")


@pytest.fixture(scope="module")
def smollm2():
    if not any(card.name == "smollm2" and card.installed for card in list_models()):
        pytest.skip("SmolLM2 is not installed: `probe models install smollm2`")
    return probe.load("smollm2", device="cpu", dtype="float32")


def word_scores(result):
    """Scores by word, for texts whose words are all different."""
    texts = ["".join(c for c in piece.lower() if c.isalnum()) for piece in result["text"].values]
    return dict(zip(texts, result["score"].values, strict=True))


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_praise_and_blame_get_opposite_signs(sentiment, method):
    found = ex.saliency(
        sentiment, "A dull plot, but the acting is a delight.", target="positive", method=method
    )
    scores = word_scores(found)
    assert scores["delight"] > 0 > scores["dull"]
    assert {"delight", "dull"} <= set(sorted(scores, key=lambda word: -abs(scores[word]))[:4])
    check(found, ex.verbalize(found))


def test_integrated_gradients_are_complete_on_the_sentiment_model(sentiment):
    found = ex.saliency(
        sentiment, "A dull plot, but the acting is a delight.", method="integrated_gradients", n_steps=200
    )
    assert abs(found.attrs["convergence_delta"]) < 0.02 * abs(found.attrs["score_change"]) + 1e-3


SENTENCES = [
    "A warm, funny and moving film about two old friends.",
    "The story is a mess and the jokes are painfully bad.",
    "I loved every minute of this wonderful little movie.",
    "It is boring, far too long and never makes any sense.",
    "The cast is superb, and the ending is simply beautiful.",
]


@pytest.mark.slow
def test_occlusion_is_mostly_faithful_and_shuffled_scores_are_not(sentiment):
    """Shares of verdicts over several sentences, not one lucky sentence; the probability is computed anew from ids."""
    import torch

    own, shuffled = [], []
    for number, text in enumerate(SENTENCES):
        found = ex.saliency(sentiment, text)
        check(found, ex.verbalize(found))
        own.append(found.attrs["faithfulness"])
        ids = sentiment.processor(text, return_tensors="pt")["input_ids"]
        inside = np.flatnonzero(found["role"].values == "text")
        label = {name: i for i, name in sentiment.model.config.id2label.items()}[found.attrs["target"]]

        def probability(replaced, ids=ids, inside=inside, label=label):
            gone = ids.repeat(len(replaced), 1)
            rows, columns = np.nonzero(replaced)
            gone[rows, inside[columns]] = sentiment.processor.mask_token_id
            with torch.no_grad():
                return sentiment.model(input_ids=gone).logits.softmax(-1)[:, label].double().numpy()

        draw = np.random.default_rng(number)
        for _ in range(4):
            curves = ex.faithfulness_curves(probability, draw.permutation(found["score"].values[inside]))
            shuffled.append(curves.attrs["faithfulness"])
    assert own.count("faithful") >= 3
    assert shuffled.count("faithful") <= 3  # of 20


@pytest.mark.real
def test_first_token_sinks_of_smollm2_stand_in_the_known_layers(smollm2):
    """Windows of 64 tokens: absent in layers 0, 1, 10 and 11, present in 3-7 and from 12 on (analyzers-1 §1.8)."""
    import torch

    ids = torch.tensor(smollm2.processor(TEXT, verbose=False)["input_ids"][64 : 64 * 7]).view(6, 64)
    trace = probe.capture(
        smollm2, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, stats=("received",)
    )
    found = ex.sinks(trace)
    by_layer = found["sink_rate"].mean("head").values
    assert by_layer[[0, 1, 10, 11]].max() <= 0.05
    assert by_layer[3:8].min() >= 0.4
    assert by_layer[12:].min() >= 0.5
    assert 0.65 <= found["sink_rate"].mean().item() <= 0.85
    literal = [
        ex.sinks(trace, rule="literal", factor=a, min_queries=1)["later_sinks"].mean().item()
        for a in (3, 5, 7)
    ]
    assert 5.5 <= literal[0] <= 8  # 6.7 / 3.3 / 2.0 in the note
    assert 2.5 <= literal[1] <= 4.2
    assert 1.4 <= literal[2] <= 2.7
    assert (
        found["later_sinks"].mean().item() < literal[1] / 2
    )  # most of the published rule's sinks are the causal artefact
    assert found["sink_text"].values[0].strip() in {"the", ",", "."}
    assert "in layers 0–1 and 10–11" in ex.verbalize(found) or by_layer[[0, 1, 10, 11]].max() > 0


@pytest.mark.real
def test_occlusion_finds_what_smollm2_answers_from(smollm2):
    found = ex.saliency(smollm2, "The capital of France is")
    assert found.attrs["target"] == " Paris"
    assert found.attrs["target_probability"] > 0.5
    scores = word_scores(found)
    assert set(sorted(scores, key=lambda word: -scores[word])[:2]) == {"capital", "france"}
    check(found, ex.verbalize(found))


@pytest.mark.real
def test_the_indirect_object_rests_on_its_name_and_faithfully_so(smollm2):
    found = ex.saliency(smollm2, "When Mary and John went to the store, John gave a drink to")
    assert found.attrs["target"] == " Mary"
    assert found["text"].values[int(np.argmax(found["score"].values))] == " Mary"
    assert found.attrs["faithfulness"] == "faithful"
    check(found, ex.verbalize(found))


@pytest.mark.real
def test_a_hundred_thousand_characters_are_refused_at_once(smollm2):
    with pytest.raises(
        probe.InputError, match=r"tokens \(100,000 characters\), the model takes at most 8,192"
    ):
        ex.saliency(smollm2, (TEXT * 10)[:100_000])
