"""Each scoring method against a slow independent one, on a real BERT and a real Llama."""

import numpy as np
import pytest
import torch
from explainer_cases import classifier, language_model, planted_classifier

from probe import explainers as ex
from probe.errors import InputError

TEXT = "the film was wonderful, but the plot is dull"
PROMPT = "the capital of france is"
SUBJECTS = {
    "bert": (classifier, TEXT),
    "llama": (language_model, PROMPT),
    "own module": (planted_classifier, f"{TEXT} delight"),
}


def embed_and_score(name, target=None):
    """The text's embeddings [1, N, D] and the score as a function of them, written down again."""
    build, text = SUBJECTS[name]
    loaded = build()
    model = loaded.model
    inputs = loaded.processor(text, return_tensors="pt")
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()

    def score(x):
        if name == "own module":
            logits = model.read(x.sum(1))
        else:
            rest = {k: v for k, v in inputs.items() if k != "input_ids"}
            logits = model(inputs_embeds=x, **rest).logits
        if name == "llama":
            chances = logits[0, -1].log_softmax(-1)
            return chances[chances.argmax() if target is None else target]
        other = 1 - target
        return logits[0, target] - logits[0, other]

    return loaded, text, inputs, embeddings, score


def settled(name):
    """Target index and name that the model itself predicts."""
    build, text = SUBJECTS[name]
    loaded = build()
    inputs = loaded.processor(text, return_tensors="pt")
    inputs = {k: v for k, v in inputs.items() if k != "token_type_ids" or name == "bert"}
    with torch.no_grad():
        logits = loaded.model(**inputs).logits
    logits = logits[0, -1] if name == "llama" else logits[0]
    index = int(logits.argmax())
    label = loaded.processor.decode([index]) if name == "llama" else loaded.model.config.id2label[index]
    return index, label, logits.softmax(-1)[index].item()


def absent(loaded, inputs, embeddings, name):
    """The baseline written down again: mask token, or the mean embedding; special tokens stay."""
    out = embeddings.clone()
    if name == "llama":
        out[:] = loaded.model.get_input_embeddings().weight.detach().mean(0)
    else:
        mask = loaded.model.get_input_embeddings()(torch.tensor(loaded.processor.mask_token_id)).detach()
        special = torch.isin(inputs["input_ids"][0], torch.tensor(loaded.processor.all_special_ids))
        out[0, ~special] = mask
    return out


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_target_and_probability_are_the_models_own(name):
    index, label, chance = settled(name)
    build, text = SUBJECTS[name]
    found = ex.saliency(build(), text, method="gradient_x_input", faithfulness=False)
    assert found.attrs["target"] == found.attrs["prediction"] == label
    assert found.attrs["target_probability"] == pytest.approx(chance, rel=1e-5)
    _, _, _, embeddings, score = embed_and_score(name, index)
    assert found.attrs["score_value"] == pytest.approx(score(embeddings).item(), abs=1e-5)


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_gradient_x_input_equals_autograd_by_hand(name):
    loaded, text, _, embeddings, score = embed_and_score(name, settled(name)[0])
    x = embeddings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(x), x)
    found = ex.saliency(loaded, text, method="gradient_x_input", faithfulness=False)
    np.testing.assert_allclose(found["score"], (gradient * x).sum(-1)[0].detach(), rtol=1e-4, atol=1e-5)
    assert np.abs(found["score"]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SUBJECTS))
def test_integrated_gradients_equal_a_riemann_sum(name):
    loaded, text, inputs, embeddings, score = embed_and_score(name, settled(name)[0])
    base = absent(loaded, inputs, embeddings, name)
    total, steps = torch.zeros_like(embeddings), 2000
    for step in range(steps):
        x = (base + (step + 0.5) / steps * (embeddings - base)).requires_grad_()
        total += torch.autograd.grad(score(x), x)[0] / steps
    expected = (total * (embeddings - base)).sum(-1)[0]
    found = ex.saliency(loaded, text, method="integrated_gradients", n_steps=300, faithfulness=False)
    np.testing.assert_allclose(found["score"], expected, atol=0.01 * expected.abs().max().item())


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_integrated_gradients_share_out_the_change_of_the_score(name):
    loaded, text, inputs, embeddings, score = embed_and_score(name, settled(name)[0])
    with torch.no_grad():
        change = (score(embeddings) - score(absent(loaded, inputs, embeddings, name))).item()
    found = ex.saliency(loaded, text, method="integrated_gradients", n_steps=500, faithfulness=False)
    assert found["score"].sum().item() == pytest.approx(change, abs=0.01 * abs(change) + 1e-3)
    assert found.attrs["score_change"] == pytest.approx(change, abs=1e-4)
    assert found.attrs["convergence_delta"] == pytest.approx(found["score"].sum().item() - change, abs=1e-4)


@pytest.mark.parametrize("name", list(SUBJECTS))
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_occlusion_equals_one_replacement_at_a_time(name, batch_size):
    loaded, text, inputs, embeddings, score = embed_and_score(name, settled(name)[0])
    base = absent(loaded, inputs, embeddings, name)
    expected = []
    with torch.no_grad():
        for i in range(embeddings.shape[1]):
            x = embeddings.clone()
            x[:, i] = base[:, i]
            expected.append((score(embeddings) - score(x)).item())
    found = ex.saliency(loaded, text, method="occlusion", batch_size=batch_size, faithfulness=False)
    np.testing.assert_allclose(found["score"], expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["zero", "pad", "mean", "mask"])
def test_each_baseline_is_what_its_name_says(kind):
    loaded, text, _, embeddings, score = embed_and_score("bert", settled("bert")[0])
    layer = loaded.model.get_input_embeddings()
    with torch.no_grad():
        stand_in = {
            "zero": torch.zeros(32),
            "mean": layer.weight.mean(0),
            "pad": layer.weight[0],
            "mask": layer.weight[4],
        }
        x = embeddings.clone()
        x[0, 2] = stand_in[kind]
        expected = (score(embeddings) - score(x)).item()
    found = ex.saliency(loaded, text, method="occlusion", baseline=kind, faithfulness=False)
    assert found["score"].values[2] == pytest.approx(expected, abs=2e-5)
    assert found.attrs["baseline"] == kind


def test_a_classifiers_scores_flip_with_the_target():
    loaded = classifier()
    found = [ex.saliency(loaded, TEXT, target=t, faithfulness=False) for t in ("negative", "Positive", "1")]
    np.testing.assert_allclose(found[0]["score"], -found[1]["score"], atol=1e-5)
    np.testing.assert_array_equal(found[1]["score"], found[2]["score"])
    assert sum(f.attrs["target_probability"] for f in found[:2]) == pytest.approx(1, abs=1e-6)


def test_three_labels_explain_the_log_odds_of_one():
    loaded = classifier(labels=3)
    found = ex.saliency(loaded, TEXT, target="neutral", faithfulness=False)
    p = found.attrs["target_probability"]
    assert found.attrs["score_value"] == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


def test_a_language_models_target_can_be_any_single_token():
    loaded = language_model()
    found = ex.saliency(loaded, PROMPT, target=" paris", faithfulness=False)
    index = loaded.processor(" paris")["input_ids"]
    assert len(index) == 1
    _, _, _, embeddings, score = embed_and_score("llama", index[0])
    assert found.attrs["target"] == " paris"
    assert found.attrs["score_value"] == pytest.approx(score(embeddings).item(), abs=1e-5)
    assert found.attrs["prediction"] != " paris"


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients", "occlusion"])
def test_the_token_that_decides_is_ranked_first_and_beats_chance(method):
    text = "the film was not good, and the story was long, but the acting is a delight and so is the cast"
    found = ex.saliency(planted_classifier(), text, method=method, target="positive")
    place = found["text"].values.tolist().index(" delight")
    assert int(found["score"].values.argmax()) == place
    assert found["score"].values[place] == pytest.approx(8, abs=1e-4)
    others = np.delete(found["score"].values, place)
    np.testing.assert_allclose(others, 0, atol=1e-4)
    assert found.attrs["faithfulness"] == "faithful"
    assert "the scores are faithful here" in found.attrs["faithfulness_verdict"]


@pytest.mark.parametrize("layers", ["mean", "last"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_attention_received_equals_the_eager_maps(name, layers):
    build, text = SUBJECTS[name]
    loaded = build()
    implementation = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = loaded.model(**loaded.processor(text, return_tensors="pt"), output_attentions=True)
    finally:
        loaded.model.set_attn_implementation(implementation)
    maps = torch.cat(out.attentions).double().mean(1).numpy()  # [L, N, N]
    size = maps.shape[-1]
    even = np.tri(size) if name == "llama" else np.ones((size, size))
    even = even / even.sum(1, keepdims=True)
    ratio = maps.sum(1) / even.sum(0)
    expected = ratio.mean(0) if layers == "mean" else ratio[-1]
    found = ex.saliency(loaded, text, method="attention_received", layers=layers, faithfulness=False)
    np.testing.assert_allclose(found["score"], expected, rtol=1e-4)
    assert not found.attrs["signed"]
    assert found.attrs["unit"] == "1"


def test_baselines_that_the_tokenizer_lacks_are_refused():
    with pytest.raises(InputError, match="has no mask token; choose mean or zero"):
        ex.saliency(language_model(), PROMPT, baseline="mask")


def test_poor_convergence_is_noted():
    path = {"method": "integrated_gradients", "baseline": "zero", "n_steps": 8}
    found = ex.saliency(language_model(), PROMPT, faithfulness=False, **path)
    assert abs(found.attrs["convergence_delta"]) > 0.05 * abs(found.attrs["score_change"])
    assert "raise n_steps" in found.attrs["note"]
    assert "Caution" in ex.verbalize(found)
