"""What saliency refuses, how it cuts texts, and that it leaves the model as it was."""

import copy
import types

import numpy as np
import pytest
import torch
from explainer_cases import classifier, language_model, planted_classifier, same_state, snapshot

from probe import explainers as ex
from probe.errors import InputError, ModelError

TEXTS = [
    "the film",
    "  The Film was   wonderful,but… \n\n the plot?!  ",
    "naïve café 🙂👍🏽 paris",
    "日本語 の film",
    "the\tplot\r\nis\u00a0thin",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("build", [classifier, language_model])
def test_pieces_join_to_the_text(build, text):
    found = ex.saliency(build(), text, method="gradient_x_input", faithfulness=False)
    inside = found["role"].values == "text"
    assert "".join(found["text"].values[inside]) == found.attrs["input"] == text
    starts, ends = found["start"].values, found["end"].values
    assert (starts[~inside] == -1).all()
    for start, end, piece in zip(starts[inside], ends[inside], found["text"].values[inside], strict=True):
        assert piece == "" or text[start:end].strip() in piece


def test_special_tokens_keep_their_role_and_get_no_baseline():
    found = ex.saliency(classifier(), "the film", method="occlusion", faithfulness=False)
    assert found["role"].values.tolist() == ["special", "text", "text", "special"]
    assert found["text"].values[[0, -1]].tolist() == ["[CLS]", "[SEP]"]
    np.testing.assert_allclose(found["score"].values[[0, -1]], 0, atol=1e-6)


REFUSED = [
    ("", {}, "the text is empty"),
    (" \n ", {}, "the text is empty"),
    (["the", "film"], {}, r"expected one text \(str\), got list"),
    ("qqq zzz", {}, "every token of 'qqq zzz' is unknown"),
    ("the film", {"target": "happy"}, "no label of this model; expected one of negative, positive"),
    ("the film", {"method": "magic"}, "one of occlusion, integrated_gradients"),
    ("the film", {"n_random": 3}, "n_random = 3, expected 20 to 1000"),
    ("the film " * 3, {"max_tokens": 7}, r"the text has 8 tokens \(27 characters\), at most 7 are explained"),
    ("the film " * 40, {}, r"the text has 82 tokens \(360 characters\), the model takes at most 64"),
    ("the film. " * 10_000, {}, r"the text has 30,002 tokens \(100,000 characters\)"),
]


@pytest.mark.parametrize(("text", "given", "message"), REFUSED)
def test_inputs_that_cannot_be_used_get_one_clear_line_and_leave_the_model(text, given, message):
    model = classifier().model
    before = snapshot(model)
    with pytest.raises(InputError, match=message) as caught:
        ex.saliency(classifier(), text, **given)
    assert "\n" not in str(caught.value)
    assert same_state(before, snapshot(model))


def test_a_next_token_must_be_one_token():
    with pytest.raises(InputError, match=r"target = 'plot paris' is \d+ tokens .*, expected exactly one"):
        ex.saliency(language_model(), "the", target="plot paris")


def test_the_default_limits_depend_on_the_cost():
    loaded = language_model()
    wide = types.SimpleNamespace(**vars(loaded))
    wide.model = copy.deepcopy(loaded.model)
    wide.model.config.max_position_embeddings = 10_000
    text = " the" * 600
    with pytest.raises(InputError, match="at most 512 are explained"):
        ex.saliency(wide, text, method="occlusion", faithfulness=False)
    found = ex.saliency(wide, text, method="gradient_x_input", faithfulness=False)
    assert found.sizes["token"] == 600


def altered(**changes):
    loaded = types.SimpleNamespace(**vars(classifier()))
    loaded.model = copy.deepcopy(loaded.model)
    for name, value in changes.items():
        setattr(loaded, name, value)
    return loaded


def test_models_that_cannot_be_explained_are_refused():
    with pytest.raises(ModelError, match="a text-encoding model has no label"):
        ex.saliency(altered(task="text-encoding"), "the film")
    with pytest.raises(
        InputError, match=r"expected a model from probe\.load, got BertForSequenceClassification"
    ):
        ex.saliency(classifier().model, "the film")
    training = altered()
    training.model.train()
    with pytest.raises(ModelError, match=r"training mode .* call model.eval\(\) first"):
        ex.saliency(training, "the film")
    assert training.model.training
    broken = altered()
    with torch.no_grad():
        broken.model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="logits are not finite"):
        ex.saliency(broken, "the film")


def test_a_model_whose_embeddings_do_not_make_its_answer_is_refused():
    loaded = altered()
    inner = loaded.model.bert.embeddings.forward

    def by_id(input_ids=None, inputs_embeds=None, **rest):
        return inner(input_ids=input_ids, inputs_embeds=inputs_embeds, **rest) * (
            2 if input_ids is not None else 1
        )

    loaded.model.bert.embeddings.forward = by_id
    with pytest.raises(ModelError, match="other logits from embeddings than from ids"):
        ex.saliency(loaded, "the film")


METHODS = ["gradient_x_input", "integrated_gradients", "occlusion", "attention_received"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [classifier, language_model, planted_classifier])
def test_nothing_is_left_on_the_model(build, method):
    if build is planted_classifier and method == "attention_received":
        pytest.skip("the planted model has no attention")
    loaded = build()
    before = snapshot(loaded.model)
    random = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with torch.no_grad():
        ex.saliency(loaded, "the film is thin", method=method)
    assert same_state(before, snapshot(loaded.model))
    assert all(p.grad is None for p in loaded.model.parameters())
    assert torch.equal(random[0], torch.random.get_rng_state())
    assert np.array_equal(random[1], np.random.get_state()[1])


def test_gradients_and_flags_that_the_user_has_stay():
    loaded = altered()
    parameters = list(loaded.model.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[1].requires_grad_(False)
    before = snapshot(loaded.model)
    ex.saliency(loaded, "the film is thin")
    assert same_state(before, snapshot(loaded.model))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_failure_inside_the_model_passes_through_and_leaves_it(method, after):
    loaded = altered()
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > after:
            raise MemoryError("inside the model")

    loaded.model.bert.encoder.layer[1].register_forward_hook(fail)
    before = snapshot(loaded.model)
    with pytest.raises(MemoryError, match="inside the model"):
        ex.saliency(loaded, "the film is thin", method=method, batch_size=4)
    assert same_state(before, snapshot(loaded.model))


def test_a_failure_in_a_model_fed_by_a_hook_removes_the_hook():
    loaded = planted_classifier()
    before = snapshot(loaded.model)
    handle = loaded.model.read.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ex.saliency(loaded, "the film")
    handle.remove()
    assert same_state(before, snapshot(loaded.model))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_contexts_without_gradients_change_nothing(context):
    expected = ex.saliency(classifier(), "the film is thin", method="gradient_x_input")
    with context():
        found = ex.saliency(classifier(), "the film is thin", method="gradient_x_input")
    np.testing.assert_array_equal(found["score"], expected["score"])
