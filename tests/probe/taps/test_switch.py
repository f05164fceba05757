"""The stand-in on transformers' interface object: it goes as it came, whatever happens in between."""

import copy
import threading

import pytest
import torch
from tiny_models import batch, tiny
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from probe import ModelError
from probe.taps.hf import HFTap


def run(model, **inputs):
    with torch.no_grad():
        return model(**inputs)


@pytest.fixture
def llama():
    return tiny("llama")


@pytest.fixture
def inputs():
    ids, mask = batch([9, 6], 9)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


def state(model):
    """Everything about a model that a tap could change."""
    hooks = [
        {key: dict(value) for key, value in vars(m).items() if key.endswith("_hooks")}
        for m in model.modules()
    ]
    flags = [(m.training, sorted(vars(m)), m.__class__) for m in model.modules()]
    config = copy.deepcopy(model.config.to_dict()), model.config._attn_implementation
    grads = [(p.requires_grad, p.grad is None, p._version, p.data_ptr()) for p in model.parameters()]
    return hooks, flags, config, grads, dict(ALL_ATTENTION_FUNCTIONS._global_mapping), torch.is_grad_enabled()


def test_a_tap_leaves_everything_as_it_was(llama, inputs):
    before = state(llama)
    with HFTap(llama, lambda call: None, valid=inputs["attention_mask"].bool()):
        assert "get_interface" in vars(ALL_ATTENTION_FUNCTIONS)
        run(llama, **inputs)
    assert state(llama) == before


def test_a_failure_inside_the_model_leaves_everything_as_it_was(llama, inputs):
    def fail(*_):
        raise RuntimeError("planted in the model")

    before = state(llama)
    handle = llama.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="planted in the model"), HFTap(llama, lambda call: None):
        run(llama, input_ids=inputs["input_ids"])
    handle.remove()
    assert state(llama) == before


def test_a_failure_of_the_receiver_leaves_everything_as_it_was(llama, inputs):
    def fail(call):
        raise KeyboardInterrupt

    before = state(llama)
    with pytest.raises(KeyboardInterrupt), HFTap(llama, fail):
        run(llama, input_ids=inputs["input_ids"])
    assert state(llama) == before


def test_nested_taps_both_hear_and_the_outer_stays(llama, inputs):
    outer, inner = [], []
    ids = inputs["input_ids"]
    other = tiny("llama", seed=1)
    with HFTap(llama, outer.append):
        with HFTap(other, inner.append):
            run(other, input_ids=ids)
        run(llama, input_ids=ids)
    assert (len(outer), len(inner)) == (2, 2)
    with HFTap(llama, outer.append), HFTap(llama, inner.append):
        run(llama, input_ids=ids)
    assert (len(outer), len(inner)) == (4, 4)


def test_a_second_forward_pass_in_one_tap_is_refused(llama, inputs):
    ids = inputs["input_ids"]
    with HFTap(llama, lambda call: None):
        run(llama, input_ids=ids)
        with pytest.raises(ModelError, match=r"layers\.0\.self_attn: called twice"):
            run(llama, input_ids=ids)


def test_taps_may_close_in_the_order_in_which_they_opened(inputs):
    one, two = tiny("llama"), tiny("llama", seed=1)
    first, second = [], []
    ids = inputs["input_ids"]
    a, b = HFTap(one, first.append), HFTap(two, second.append)
    a.__enter__()
    b.__enter__()
    run(one, input_ids=ids)
    a.__exit__(None, None, None)
    run(two, input_ids=ids)
    b.__exit__(None, None, None)
    assert [c.module for c in first] == [layer.self_attn for layer in one.model.layers]
    assert [c.module for c in second] == [layer.self_attn for layer in two.model.layers]


def test_another_model_is_not_recorded(llama, inputs):
    other = tiny("llama", seed=1)
    calls = []
    alone = run(other, **inputs).logits
    with HFTap(llama, calls.append):
        beside = run(other, **inputs).logits
        run(llama, input_ids=inputs["input_ids"])
    assert torch.equal(alone, beside)
    assert {id(c.module) for c in calls} == {id(layer.self_attn) for layer in llama.model.layers}


def test_the_same_model_in_another_thread_is_not_recorded(llama, inputs):
    calls = []
    ids = inputs["input_ids"]
    with HFTap(llama, calls.append):
        thread = threading.Thread(target=lambda: run(llama, input_ids=ids))
        thread.start()
        thread.join()
        run(llama, input_ids=ids)
    assert len(calls) == 2


def test_a_wrapper_of_someone_else_comes_back(llama, inputs):
    plain = ALL_ATTENTION_FUNCTIONS.get_interface
    asked = []

    def theirs(name, default):
        asked.append(name)
        return plain(name, default)

    ALL_ATTENTION_FUNCTIONS.get_interface = theirs
    try:
        with HFTap(llama, lambda call: None):
            run(llama, input_ids=inputs["input_ids"])
        assert vars(ALL_ATTENTION_FUNCTIONS)["get_interface"] is theirs
        assert asked == ["sdpa", "sdpa"]
    finally:
        del ALL_ATTENTION_FUNCTIONS.get_interface
