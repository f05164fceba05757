"""Edits: their order among each other and beside recording, and a model that is as it was on every way out."""

import pytest
import torch
from family_sweep import state
from tiny_models import batch, inputs_for, tiny
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import probe
from probe import InputError, ModelError
from probe import explainers as ex
from probe.edits import Edit, Editing, open_edits
from probe.taps.hf import HFTap

METHODS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")
BEFORE = {name: Cache.__dict__[name] for name in METHODS}


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)
    assert {name: Cache.__dict__[name] for name in METHODS} == BEFORE


def doubling(name, heads, told, factor=2.0):
    """An edit that multiplies its heads' output, and tells what it was given."""

    def change(call, place):
        told.append((name, call.layer, call.output.clone(), place.past, place.first))
        output = call.output.clone()
        output[:, :, list(heads[call.layer])] *= factor
        return output

    return Edit(name, heads, change, lambda *_: None)


def run(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_recorders_hear_the_plain_output_and_edits_follow_in_their_order():
    model, inputs, told = tiny("llama"), inputs_for("llama"), []
    first, second = doubling("first", {0: (0,)}, told), doubling("second", {0: (1,), 1: (0,)}, told, 3.0)
    plain, heard, late = [], [], []
    with torch.no_grad(), HFTap(model, plain.append):
        model(**inputs)
    with (
        torch.no_grad(),
        HFTap(model, heard.append, passes=True),
        Editing(model, first),
        Editing(model, second),
        HFTap(model, late.append, passes=True),
    ):
        model(**inputs)
    assert [name for name, *_ in told] == ["first", "second", "second"]
    layer_0 = plain[0].output
    assert torch.equal(told[0][2], layer_0)
    assert torch.equal(told[1][2][:, :, 0], 2 * layer_0[:, :, 0])
    assert torch.equal(told[1][2][:, :, 1:], layer_0[:, :, 1:])
    for calls in (heard, late):  # opened before or after: the same
        assert torch.equal(calls[0].output, layer_0)
        assert not torch.equal(calls[1].q, plain[1].q), "the next layer's queries are moved"
        assert torch.equal(calls[1].output, told[2][2])


def test_places_in_a_generation_are_told():
    model, ids, told = tiny("mistral-window"), batch([9], 9)[0], []
    with Editing(model, doubling("it", {1: (0,)}, told, 1.0)):
        model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert [(past, first) for *_, past, first in told] == [(0, 0), (9, 6), (10, 7)]


def test_one_head_belongs_to_one_edit():
    model, other = tiny("llama"), tiny("llama", seed=1)
    with ex.act(model, {0: [0, 1]}) as steering:
        taken = r"head 1 of layer 0 is already changed by an open act\(2 heads, beta=0.4, alpha=5\)"
        with pytest.raises(InputError, match=taken):
            ex.act(model, {1: [0], 0: [1]}).__enter__()
        with pytest.raises(InputError, match="already changed"):
            steering.__enter__()
        with ex.act(model, {0: [2], 1: [0]}), ex.act(other, {0: [0]}):
            assert len(open_edits(model)) == 2
            run(model, **inputs_for("llama"))
            run(other, **inputs_for("llama"))
    with pytest.raises(ModelError, match="never called"), ex.act(model, {0: [0]}):
        run(other, **inputs_for("llama"))
    with ex.act(model, {0: [0]}):
        run(model, **inputs_for("llama"))
    assert open_edits(model) == []


def test_disjoint_heads_of_two_contexts_are_one_context_with_both():
    model, inputs = tiny("llama"), inputs_for("llama", lengths=(30, 30))
    with ex.act(model, {0: [0, 2], 1: [1]}, alpha=1.5):
        both = run(model, **inputs)
    with ex.act(model, {1: [1], 0: [2]}, alpha=1.5), ex.act(model, {0: [0]}, alpha=1.5):
        assert torch.equal(run(model, **inputs), both)


def test_a_record_under_an_edit_holds_the_plain_maps_of_what_was_moved_and_says_so():
    model, inputs = tiny("llama"), inputs_for("llama", lengths=(30, 30))
    plain = probe.capture(model, inputs, stats=("received", "entropy"))
    with ex.act(model, {0: [0, 1]}, alpha=1.5):
        record = probe.capture(model, inputs, stats=("received", "entropy"))
        steered = run(model, **inputs)
    assert record["validity"].attrs["passed"]
    same, moved = record["text/received"].values, plain["text/received"].values
    assert (same[:, 0] == moved[:, 0]).all()
    assert (same[:, 1] != moved[:, 1]).any()
    assert record.attrs["edits"] == ["act(2 heads, beta=0.4, alpha=1.5)"]
    assert "edits" not in plain.attrs
    with ex.act(model, {0: [0, 1]}, alpha=1.5):
        assert torch.equal(run(model, **inputs), steered), "capture does not change what is steered"


@pytest.mark.parametrize("name", ["llama", "t5", "bert", "albert-shared", "qwen2-vl"])
def test_the_model_is_as_before_on_every_way_out(name):
    model, inputs = tiny(name), inputs_for(name)
    tower = "decoder" if name == "t5" else None
    with torch.no_grad():
        model(**inputs)
    before = state(model)
    with ex.act(model, {0: [0]}, tower=tower):
        assert state(model) != before
        with torch.no_grad():
            model(**inputs)
    assert state(model) == before
    with pytest.raises(InputError):
        ex.act(model, {99: [0]}, tower="no such")
    assert state(model) == before
    broken = list(model.modules())[-1].register_forward_hook(lambda *_: 1 / 0)
    planted = state(model)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), ex.act(model, {0: [0]}, tower=tower):
        model(**inputs)
    assert state(model) == planted
    broken.remove()
    with pytest.raises(KeyboardInterrupt), torch.no_grad(), Editing(model, interrupting(), tower):
        model(**inputs)
    assert state(model) == before
    assert open_edits(model) == []


def interrupting():
    def change(*_):
        raise KeyboardInterrupt

    return Edit("interrupted", {0: (0,)}, change, change)


def test_what_cannot_be_steered_is_refused_by_name():
    with pytest.raises(
        ModelError, match="FalconForCausalLM: no module of it routes attention through transformers"
    ):
        ex.act(tiny("falcon", "eager"), {0: [0]})
    with pytest.raises(
        ModelError, match=r"attends to its input in pieces .windows, images.*steer another tower"
    ):
        ex.act(tiny("qwen2-vl"), {0: [0]}, tower="vision")
    with pytest.raises(ModelError, match="attends to another sequence; expected a tower of self-attention"):
        ex.act(tiny("t5"), {0: [0]}, tower="cross")
    model = tiny("distilbert-unnumbered")
    with (
        pytest.raises(ModelError, match="call the model that was given"),
        torch.no_grad(),
        ex.act(model, {0: [0]}),
    ):
        model.transformer(model.embeddings(batch([5], 5)[0]))
