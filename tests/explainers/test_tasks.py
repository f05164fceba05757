"""The task runner: what a line may be, and scores held against a slow twin without batches, padding and caches."""

import dataclasses
import functools
import json
import types

import numpy as np
import pytest
import torch
from explainer_cases import byte_level, classifier, language_model, loaded, same_state, snapshot

from probe import explainers as ex
from probe.errors import InputError, ModelError
from probe.explainers._tasks.items import with_shots

CHOICES = [
    {"prompt": "the capital of france is", "choices": [" paris", " a delight", " thin"], "answer": 0},
    {"prompt": "the plot", "choices": [" is", " is the acting of paris"], "answer": " is"},
    {"prompt": "but the acting is a delight and the capital of france", "choices": [" is", "x"], "answer": 1},
]
LABELS = [
    {"template": "{text}\nso it is", "labels": {"good": " a delight", "bad": " thin"}},
    {"text": "the acting", "label": "good"},
    {"text": "the plot is thin but the acting", "label": "good"},
    {"text": "plot", "label": "bad"},
]


def written(path, lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def slow_scores(subject, task):
    """Each choice alone: one whole text, no padding, no cache, float64 sums."""
    model, tokenizer = subject.model, subject.processor
    rows = []
    for item in task.items:
        row = []
        for choice in item.choices:
            prompt = tokenizer(item.prompt)["input_ids"]
            whole = tokenizer(item.prompt + choice)["input_ids"]
            assert whole[: len(prompt)] == prompt, "the twin needs texts that are cut at the choice"
            with torch.no_grad():
                logs = model(input_ids=torch.tensor([whole])).logits.double().log_softmax(-1)[0]
            row.append(sum(logs[i - 1, whole[i]].item() for i in range(len(prompt), len(whole))))
        rows.append(row)
    return rows


@functools.cache
def wide():
    """A random GPT-2 (learned positions: left padding must not shift them)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_head=4, n_layer=2, n_positions=64, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(config)
    return loaded(model, tokenizer, "text-generation")


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("build", [language_model, wide])
@pytest.mark.parametrize("lines", [CHOICES, LABELS])
def test_scores_are_the_log_likelihoods_of_whole_choices(build, lines, batch_size):
    task = ex.read_task(lines)
    found = ex.score_task(build(), task, batch_size=batch_size)
    for row, wanted in zip(found["score"].values, slow_scores(build(), task), strict=True):
        assert np.isnan(row[len(wanted) :]).all()
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=2e-4)


def test_predictions_accuracy_and_loss_follow_from_the_scores():
    found = ex.score_task(language_model(), ex.read_task(CHOICES))
    scores = found["score"].values
    assert found["answer"].values.tolist() == [0, 0, 1]
    assert found["prediction"].values.tolist() == [int(np.nanargmax(row)) for row in scores]
    assert found.attrs["accuracy"] == np.mean(found["prediction"].values == found["answer"].values)
    for row, answer, loss in zip(scores, found["answer"].values, found["loss"].values, strict=True):
        assert loss == pytest.approx(np.log(np.nansum(np.exp(row))) - row[answer])
    assert found.attrs["loss"] == pytest.approx(found["loss"].values.mean())


def test_scores_per_token_and_per_byte():
    task, subject = ex.read_task(CHOICES), language_model()
    plain = ex.score_task(subject, task)["score"].values
    count = {c: len(subject.processor(c)["input_ids"]) for item in task.items for c in item.choices}
    assert max(count.values()) > 1
    for normalise, size in (("token", count.get), ("byte", lambda c: len(c.encode()))):
        found = ex.score_task(subject, task, normalise=normalise)["score"].values
        for row, wanted, item in zip(found, plain, task.items, strict=True):
            for value, whole, choice in zip(row, wanted, item.choices, strict=False):
                assert value == pytest.approx(whole / size(choice))
    with pytest.raises(InputError, match="normalise: got 'mean', expected one of sum, token, byte"):
        ex.score_task(subject, task, normalise="mean")


def test_a_prompt_that_melts_into_its_choice_is_scored_from_the_shared_tokens_on():
    """ "…is " + "paris" is cut as "…is", " paris": the blank is scored with the choice."""
    apart = [{"prompt": "the capital of france is", "choices": [" paris", " thin"], "answer": 0}]
    melted = [{"prompt": "the capital of france is ", "choices": ["paris", "thin"], "answer": 0}]
    a, b = (ex.score_task(language_model(), ex.read_task(lines))["score"].values for lines in (apart, melted))
    np.testing.assert_array_equal(a, b)


def test_special_tokens_in_front_are_kept_and_those_behind_are_not():
    from tokenizers import processors

    tokenizer = byte_level()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A <|end|>", special_tokens=[("<|end|>", tokenizer.eos_token_id)]
    )
    subject = loaded(language_model().model, tokenizer, "text-generation")
    found = ex.score_task(subject, CHOICES[:1])["score"].values[0]
    bare = byte_level()
    for value, choice in zip(found, CHOICES[0]["choices"], strict=True):
        prompt = bare(CHOICES[0]["prompt"])["input_ids"]
        whole = [bare.eos_token_id, *prompt, *bare(choice)["input_ids"]]
        with torch.no_grad():
            logs = subject.model(input_ids=torch.tensor([whole])).logits.double().log_softmax(-1)[0]
        wanted = sum(logs[i - 1, whole[i]].item() for i in range(len(prompt) + 1, len(whole)))
        assert value == pytest.approx(wanted, abs=2e-4)


def test_labels_without_a_first_line_are_their_own_words():
    task = ex.read_task([{"text": "fine", "label": "yes"}, {"text": "dull", "label": "no"}])
    assert [item.prompt for item in task.items] == ["Text: fine\nLabel:", "Text: dull\nLabel:"]
    assert task.items[0].choices == (" no", " yes")
    assert [item.answer for item in task.items] == [1, 0]


def test_a_file_and_its_mappings_are_the_same_task(tmp_path):
    path = written(tmp_path / "t.jsonl", LABELS)
    path.write_text("\n" + path.read_text(), encoding="utf-8")
    read = ex.read_task(path)
    assert read.name == "t.jsonl"
    assert [item.where for item in read.items] == ["t.jsonl line 3", "t.jsonl line 4", "t.jsonl line 5"]
    assert read.digest == ex.read_task(LABELS).digest
    other = [LABELS[0], *LABELS[2:], LABELS[1]]
    assert ex.read_task(other).digest != read.digest


def test_shots_stand_answered_before_every_other_item():
    task = ex.read_task(LABELS)
    found = with_shots(task, 1, seed=3)
    assert len(found.items) == 2
    shown = next(item for item in task.items if item.where not in [f.where for f in found.items])
    start = f"{shown.prompt}{shown.choices[shown.answer]}\n\n"
    for item in found.items:
        asked = next(other for other in task.items if other.where == item.where)
        assert item == dataclasses.replace(asked, prompt=start + asked.prompt)
    assert with_shots(task, 1, seed=3) == found
    assert with_shots(task, 0, seed=3) is task
    with pytest.raises(InputError, match="shots: got 3, expected 0 to 2"):
        with_shots(task, 3, seed=0)


BAD = [
    ('{"prompt": ', "line 2: not JSON"),
    ("[1]", "line 2: got list, expected an object such as"),
    ('{"question": 1}', "line 2: got question, expected {\"prompt\""),
    ('{"prompt": " ", "choices": ["a", "b"], "answer": 0}', "line 2: prompt: got ' ', expected at least one word"),
    ('{"prompt": "x", "choices": ["a"], "answer": 0}', r"line 2: choices: got \['a'\], expected at least two"),
    ('{"prompt": "x", "choices": "ab", "answer": 0}', "line 2: choices: got 'ab', expected at least two"),
    ('{"prompt": "x", "choices": ["a", "a"], "answer": 0}', "line 2: choices: .* expected different ones"),
    ('{"prompt": "x", "choices": ["a", "b"], "answer": 2}', "line 2: answer: got 2, expected 0 to 1"),
    ('{"prompt": "x", "choices": ["a", "b"], "answer": true}', "line 2: answer: got True, expected 0 to 1"),
    ('{"prompt": "x", "choices": ["a", "b"]}', "line 2: answer: got None, expected 0 to 1"),
    ('{"text": "", "label": "a"}', "line 2: text: got '', expected at least one word"),
    ('{"text": "x"}', "line 2: label: got None, expected a name"),
    ('{"template": "{text}"}', "line 2: template and labels belong into the first line"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(CHOICES[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        ex.read_task(path)
    assert "\n" not in str(caught.value)
    assert "nothing was run" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no items"),
        ([LABELS[0]], "holds no items"),
        (
            [LABELS[0], {"text": "x", "label": "fine"}],
            "label: got 'fine', expected one of the first line's: good, bad",
        ),
        ([{"text": "x", "label": "a"}], "all labels are 'a', expected at least two"),
        ([{"labels": {"a": " x", "b": " x"}}], "each with words of its own"),
        ([{"template": "no place"}], "expected a text with {text} in it"),
        (["x"], "item 1: got str"),
        ({"text": "x"}, "got dict, expected a JSONL file or several mappings"),
        (7, "got int, expected a JSONL file or several mappings"),
    ],
)
def test_mappings_that_are_no_task_are_refused(lines, message):
    with pytest.raises(InputError, match=message):
        ex.read_task(lines)


def test_what_cannot_be_scored_is_refused_before_anything_runs():
    subject = language_model()
    long = [CHOICES[0], {"prompt": "the " * 200, "choices": [" a", " b"], "answer": 0}]
    with pytest.raises(InputError, match=r"item 2: has \d+ tokens, the model takes at most 128"):
        ex.score_task(subject, long)
    with pytest.raises(InputError, match="item 1: the whole prompt melts into one token with a choice"):
        ex.score_task(subject, [{"prompt": "th", "choices": ["e", "x"], "answer": 0}])
    with pytest.raises(ModelError, match="tiny is a text-classification model"):
        ex.score_task(classifier(), CHOICES)
    with pytest.raises(InputError, match=r"expected a model from probe\.load, got Linear"):
        ex.score_task(torch.nn.Linear(2, 2), CHOICES)
    with pytest.raises(InputError, match="batch_size: got 0"):
        ex.score_task(subject, CHOICES, batch_size=0)
    subject.model.train()
    try:
        with pytest.raises(ModelError, match="training mode"):
            ex.score_task(subject, CHOICES)
    finally:
        subject.model.eval()


def test_scores_that_are_not_finite_are_refused():
    from copy import deepcopy

    subject = types.SimpleNamespace(**vars(language_model()))
    subject.model = deepcopy(subject.model)
    with torch.no_grad():
        subject.model.lm_head.weight[5] = float("nan")
    with pytest.raises(ModelError, match="item 1: tiny gives scores that are not finite"):
        ex.score_task(subject, CHOICES)


def test_the_model_is_as_before():
    model = language_model().model
    before = snapshot(model)
    steps = []
    ex.score_task(language_model(), CHOICES, batch_size=2, progress=lambda *step: steps.append(step))
    assert same_state(before, snapshot(model))
    assert steps == [(1, 2, "the task"), (2, 2, "the task")]
