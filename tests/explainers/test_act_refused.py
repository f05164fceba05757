"""What ACT refuses, by name: heads and options without a meaning, caches that nobody heard of, gradients, compiled loops."""

import copy

import pytest
import torch
from act_cases import generated
from tiny_models import batch, inputs_for, tiny

from probe import InputError, ModelError
from probe import explainers as ex

HEADS = {0: [0, 3], 1: [1, 2]}
A = 1.5


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        ("0:1", {}, r"heads: got '0:1', expected \{layer: \[heads\]\}"),
        ({"0": [1]}, {}, "heads: got"),
        ({0: [-1]}, {}, "heads: got"),
        (3, {}, "heads: got 3|heads: got '3'"),
        ({7: [0]}, {}, r"layers: got \[7\], expected some of \[0, 1\]"),
        (HEADS, {"tower": "vision"}, r"towers: got \['vision'\]"),
        (HEADS, {"prompt": 3}, "prompt: it decides once"),
        (
            HEADS,
            {"targets": "no_first", "protect_first": False},
            "targets: got 'no_first' with protect_first=False",
        ),
        (HEADS, {"beta": 1.5}, "act: beta = 1.5, expected 0 to 1"),
        (HEADS, {"implementation": "triton"}, None),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(heads, options, message, monkeypatch):
    if message is None:
        monkeypatch.setattr("probe.kernels.launch._interpreting", lambda: False)
        message = "implementation: got 'triton' for a tensor on cpu"
    with pytest.raises(InputError, match=message):
        ex.act(tiny("llama"), heads, **options)


def run_under(model, heads, *passes, prompt=None, **options):
    """The outputs of several forward passes under ACT."""
    with torch.no_grad(), ex.act(model, heads, alpha=A, **options) as steering:
        steering.prompt = prompt
        return [model(**given) for given in passes]


def test_what_is_not_there_or_too_long_is_refused_when_it_comes():
    model, inputs = tiny("llama"), inputs_for("llama", lengths=(9, 9))
    with pytest.raises(InputError, match=r"heads: got \[4\] of layer 0, expected some of 0 to 3"):
        run_under(model, {0: [4]}, inputs)
    for prompt in (10, [3], [0, 2]):
        with pytest.raises(InputError, match="prompt: got"):
            run_under(model, HEADS, inputs, prompt=prompt, decoding="frozen")
    with pytest.raises(ModelError, match="never called"):
        run_under(model, HEADS)


def test_a_cache_that_nobody_heard_being_filled_is_refused():
    model, ids = tiny("llama"), batch([12], 12)[0]
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=True).past_key_values
    step = {"input_ids": ids[:, :1], "past_key_values": before, "use_cache": True}
    with pytest.raises(ModelError, match="12 positions, of which 0 were fed while this context was open"):
        run_under(model, HEADS, step)


def test_a_cache_that_was_cut_back_goes_on_with_frozen_sinks_only():
    model, ids = tiny("llama"), batch([12], 12)[0]

    def twice(decoding):
        with torch.no_grad(), ex.act(model, HEADS, alpha=A, decoding=decoding) as steering:
            cache = model(input_ids=ids, use_cache=True).past_key_values
            step = {"input_ids": ids[:, :2], "past_key_values": cache, "use_cache": True}
            first = model(**step).logits
            cache.crop(-2)
            return steering, first, model(**step).logits

    steering, first, second = twice("frozen")
    assert torch.equal(first, second)
    assert steering.report().sizes["query"] == 14
    with pytest.raises(ModelError, match="cut back from 14 positions to 12"):
        twice("running")


def test_gradients_and_training_are_refused():
    model, inputs = tiny("llama"), inputs_for("llama")
    with pytest.raises(ModelError, match="a gradient is asked for"), ex.act(model, HEADS):
        model(**inputs)
    with pytest.raises(ModelError, match=r"call model.eval\(\) first"):
        ex.act(copy.deepcopy(model).train(), HEADS)


def test_a_generation_that_would_be_compiled_is_refused():
    model, inputs = tiny("llama"), inputs_for("llama")
    model._valid_auto_compile_criteria = lambda *args, **kwargs: True
    with pytest.raises(InputError, match="add disable_compile=True"), ex.act(model, HEADS):
        generated(model, inputs, cache_implementation="static")
    assert model._valid_auto_compile_criteria() is True
