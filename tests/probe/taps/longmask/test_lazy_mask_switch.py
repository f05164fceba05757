"""Which models get masks made row by row: what keeps the dense one, and that the interface is left as it was."""

import threading
from unittest import mock

import pytest
import torch
from lazy_masks import build, dense_in, lazy_at_any_length, logits, nothing_left_behind, padded, tapped  # noqa: F401
from tiny_models import tiny
from transformers import masking_utils as hf
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import probe
from probe import InputError
from probe.taps.hf import HFTap
from probe.taps.longmask import switch
from probe.taps.longmask.lazy import LazyMask


def subclassed(model):
    model.__class__ = type("MyLlama", (type(model),), {})
    return model


def other_attention(model):
    attention = model.model.layers[1].self_attn
    attention.__class__ = type("MyAttention", (type(attention),), {})
    return model


def hooked_by_accelerate(model):
    model.model.layers[0]._hf_hook = None
    return model


#: what is outside the verified list → how the model is made
OUTSIDE = {
    "another architecture": lambda: tiny("gpt-neox", max_position_embeddings=2048),
    "another backend": lambda: tiny("llama", "eager", max_position_embeddings=2048),
    "a class of the user's": lambda: subclassed(build("llama")),
    "an attention of the user's": lambda: other_attention(build("llama")),
    "a model spread by accelerate": lambda: hooked_by_accelerate(build("llama")),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_models_outside_the_list_keep_their_dense_mask(case):
    model = OUTSIDE[case]()
    inputs = padded([1600, 900])
    plain = logits(model, inputs)
    out, calls = tapped(model, inputs)
    assert torch.equal(plain, out)
    assert all(isinstance(call.mask, torch.Tensor) for call in calls)


def test_what_was_not_measured_keeps_its_dense_mask(monkeypatch):
    model, inputs = build("llama"), padded()
    assert not dense_in(model, inputs)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert dense_in(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert dense_in(model, inputs)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        assert not dense_in(model, inputs)
        assert dense_in(build("llama").bfloat16(), inputs)
    with monkeypatch.context() as patch:
        patch.setattr(switch, "DEVICES", frozenset())
        assert dense_in(model, inputs)
    calls = []
    with HFTap(model, calls.append, valid=inputs["attention_mask"].bool()):
        model(**inputs)  # with gradients
    assert isinstance(calls[0].mask, torch.Tensor)


def test_short_inputs_keep_their_dense_mask(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(switch, "DENSE_LIMIT", 2 * 1700**2)
    assert dense_in(model, padded([1700, 1100]))
    assert not dense_in(model, padded([1701, 1100]))


def test_functions_of_the_user_keep_the_dense_mask():
    model, inputs = build("llama"), padded()

    def theirs(*args, **kwargs):
        return hf.sdpa_mask(*args, **kwargs)

    masks, functions = hf.ALL_MASK_ATTENTION_FUNCTIONS, ALL_ATTENTION_FUNCTIONS
    with mock.patch.dict(masks._local_mapping, {"sdpa": theirs}):
        assert dense_in(model, inputs)
        assert masks._local_mapping == {"sdpa": theirs}
    original = functions["sdpa"]
    with mock.patch.dict(functions._local_mapping, {"sdpa": lambda *a, **k: original(*a, **k)}):
        assert dense_in(model, inputs)
    plain = functions.get_interface
    functions.get_interface = lambda name, default: plain(name, default)
    try:
        assert dense_in(model, inputs)
    finally:
        del functions.get_interface


def test_another_model_and_another_thread_keep_their_dense_mask():
    model, other, inputs = build("llama"), build("llama", seed=1), padded()
    given = []

    def note(module, args, kwargs):
        given.append(type(kwargs["attention_mask"]))

    for each in (model, other):
        each.model.layers[0].register_forward_pre_hook(note, with_kwargs=True)
    with HFTap(model, lambda call: None, valid=inputs["attention_mask"].bool()):
        logits(other, inputs)
        thread = threading.Thread(target=lambda: logits(model, inputs))
        thread.start()
        thread.join()
        logits(model, inputs)
    assert given == [torch.Tensor, torch.Tensor, LazyMask]


def test_the_interface_is_as_before_after_success_bad_arguments_and_failure():
    model, inputs = build("llama"), padded()
    masks = hf.ALL_MASK_ATTENTION_FUNCTIONS

    def state():
        return dict(vars(masks)["_local_mapping"]), sorted(vars(masks)), dict(masks._global_mapping)

    def fail(*_):
        raise RuntimeError("planted in the model")

    before = state()
    with HFTap(model, lambda call: None, valid=inputs["attention_mask"].bool()):
        assert masks["sdpa"] is not hf.sdpa_mask
        logits(model, inputs)
    assert state() == before
    with pytest.raises(InputError):
        probe.capture(model, inputs, layers=[7])
    assert state() == before
    model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        probe.capture(model, inputs)
    assert state() == before


def test_taps_may_nest_and_close_in_any_order():
    one, two, inputs = build("llama"), build("mistral-window"), padded()
    valid = inputs["attention_mask"].bool()
    first, second = [], []
    a, b = HFTap(one, first.append, valid=valid), HFTap(two, second.append, valid=valid)
    a.__enter__()
    b.__enter__()
    logits(one, inputs)
    a.__exit__(None, None, None)
    logits(two, inputs)
    b.__exit__(None, None, None)
    assert all(isinstance(call.mask, LazyMask) for call in first + second)
    assert len(first + second) == 4


def test_a_stand_in_of_someone_else_stays():
    model, inputs = build("llama"), padded()
    masks = hf.ALL_MASK_ATTENTION_FUNCTIONS
    try:
        with HFTap(model, lambda call: None, valid=inputs["attention_mask"].bool()):
            ours = masks["sdpa"]
            masks["sdpa"] = theirs = lambda *args, **kwargs: ours(*args, **kwargs)
            logits(model, inputs)
        assert masks["sdpa"] is theirs
        assert dense_in(model, inputs)
    finally:
        del masks["sdpa"]
