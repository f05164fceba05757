"""Contrast, whole answers, and the choice of the most faithful method, against loops written down again."""

import json

import numpy as np
import pytest
import torch
from explainer_cases import classifier, language_model

from probe import explainers as ex
from probe.errors import InputError

TEXT = "the film was wonderful, but the plot is dull"


def test_a_contrast_is_the_difference_of_two_logits():
    loaded = classifier(3)
    found = ex.saliency(loaded, TEXT, target="negative", contrast="neutral", faithfulness=False)
    inputs = loaded.processor(TEXT, return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**inputs).logits[0]
    assert found.attrs["score_value"] == pytest.approx(float(logits[0] - logits[2]), abs=1e-4)
    mask = loaded.processor.mask_token_id
    for place in (1, 4):
        changed = inputs["input_ids"].clone()
        changed[0, place] = mask
        with torch.no_grad():
            other = loaded.model(**{**inputs, "input_ids": changed}).logits[0]
        fall = float(logits[0] - logits[2] - other[0] + other[2])
        assert found["score"].values[place] == pytest.approx(fall, abs=1e-4)
    assert found.attrs["contrast"] == "neutral"
    assert found.attrs["contrast_probability"] == pytest.approx(float(logits.softmax(-1)[2]), abs=1e-5)
    text = ex.verbalize(found)
    assert "The question is why “negative” and not “neutral”" in text


def test_swapping_target_and_contrast_turns_the_signs():
    one, other = (
        ex.saliency(classifier(3), TEXT, target=a, contrast=b, method="gradient_x_input", faithfulness=False)
        for a, b in (("negative", "neutral"), ("neutral", "negative"))
    )
    np.testing.assert_allclose(one["score"], -other["score"], atol=1e-4)


def test_a_whole_answer_is_what_greedy_decoding_writes_and_its_log_probability():
    loaded = language_model()
    found = ex.saliency(
        loaded, "the plot is", answer=4, method="occlusion", baseline="zero", faithfulness=False
    )
    ids = loaded.processor("the plot is", return_tensors="pt")["input_ids"]
    total, logs, sequence = 0.0, [], ids
    with torch.no_grad():
        for _ in range(4):
            chances = loaded.model(sequence).logits[0, -1].log_softmax(-1)
            logs.append(int(chances.argmax()))
            total += float(chances.max())
            sequence = torch.cat([sequence, torch.tensor([[logs[-1]]])], dim=1)
    assert found.attrs["target"] == loaded.processor.decode(logs)
    assert found.attrs["answer_tokens"] == 4
    assert found.attrs["score_value"] == pytest.approx(total, abs=1e-3)
    assert found.attrs["target_probability"] == pytest.approx(np.exp(total / 4), abs=1e-4)
    embeddings = loaded.model.get_input_embeddings()(sequence[:, :-1]).detach()
    for place in range(ids.shape[1]):
        changed = embeddings.clone()
        changed[0, place] = 0
        with torch.no_grad():
            chances = loaded.model(inputs_embeds=changed).logits[0].log_softmax(-1)
        other = sum(float(chances[ids.shape[1] - 1 + k, token]) for k, token in enumerate(logs))
        assert found["score"].values[place] == pytest.approx(total - other, abs=1e-3)


def test_auto_keeps_the_method_whose_curves_lie_furthest_apart():
    found = ex.saliency(classifier(), TEXT, method="auto", n_steps=16)
    tried = json.loads(found.attrs["tried"])
    assert set(tried) == {"occlusion", "integrated_gradients", "gradient_x_input"}
    assert found.attrs["method"] == max(tried, key=tried.get)
    for method, gap in tried.items():
        one = ex.saliency(classifier(), TEXT, method=method, n_steps=16)
        assert one.attrs["insertion_auc"] - one.attrs["deletion_auc"] == pytest.approx(gap, abs=1e-4)
    assert ex.verbalize(found).splitlines()[-1].startswith("Of three tried, ")


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: classifier(3), {"target": "neutral", "contrast": "neutral"}, "is the target itself"),
        (lambda: classifier(3), {"contrast": "joyful"}, "contrast = 'joyful' is no label"),
        (classifier, {"answer": 3}, "writes no answer"),
        (language_model, {"answer": 3, "target": "a"}, "leave target and contrast out"),
        (language_model, {"answer": 128}, "over the model's 128"),
        (classifier, {"method": "auto", "faithfulness": False}, "leave faithfulness on"),
    ],
)
def test_what_does_not_go_together_is_refused(build, options, message):
    with pytest.raises(InputError, match=message):
        ex.saliency(build(), "the plot is", **options)


def test_head_importance_is_the_change_to_first_order():
    """Gates a little off 1, one head at a time, through hooks of the test's own."""
    loaded = classifier()
    found = ex.head_importance(loaded, TEXT, target="positive")
    inputs, eps = loaded.processor(TEXT, return_tensors="pt"), 1e-2
    layers = [layer.attention.output.dense for layer in loaded.model.bert.encoder.layer]

    def score(layer, head, gate):
        def scaled(module, args):
            x = args[0].clone()
            x[..., 8 * head : 8 * head + 8] *= gate
            return (x,)

        handle = layers[layer].register_forward_pre_hook(scaled)
        with torch.no_grad():
            logits = loaded.model(**inputs).logits[0].double()
        handle.remove()
        return float(logits[1] - logits[0])

    for layer, head in ((0, 0), (0, 2), (1, 3)):
        slope = (score(layer, head, 1 + eps) - score(layer, head, 1 - eps)) / (2 * eps)
        assert float(found["importance"][layer, head]) == pytest.approx(slope, abs=2e-2)
    top = np.unravel_index(np.abs(found["importance"].values).argmax(), found["importance"].shape)
    assert found.attrs["heads_removed"] == 1
    change = abs(score(*top, 1.0) - score(*top, 0.0))
    assert found.attrs["change_important"] == pytest.approx(change, abs=1e-3)
