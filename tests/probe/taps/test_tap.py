"""What the Hugging Face tap hears, what it refuses, and that the model's outputs do not move by a bit."""

import pytest
import torch
from tiny_models import CASES, batch, tiny

from probe import InputError, ModelError
from probe.taps.hf import HFTap, sites, unrouted


def outputs(model, **inputs):
    with torch.no_grad():
        out = model(**inputs)
    return out.logits if "logits" in out else out.last_hidden_state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_outputs_are_bit_identical_and_every_layer_is_heard(name, backend, dtype):
    model = tiny(name, backend).to(dtype)
    ids, mask = batch([12, 8], 12)
    plain = outputs(model, input_ids=ids, attention_mask=mask)
    calls = []
    with HFTap(model, calls.append, valid=mask.bool()):
        tapped = outputs(model, input_ids=ids, attention_mask=mask)
    assert torch.equal(plain, tapped)
    assert [c.layer for c in calls] == list(range(model.config.num_hidden_layers))
    assert {c.backend for c in calls} == {backend}
    heads = model.config.num_attention_heads
    assert all(c.q.shape[:3] == (2, heads, 12) and c.output.shape[:3] == (2, 12, heads) for c in calls)


def test_gradients_still_flow_through_a_tapped_model():
    model = tiny("llama")
    ids, _ = batch([5], 5)
    with HFTap(model, lambda call: None):
        model(input_ids=ids).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


def test_grouped_heads_come_unrepeated():
    model = tiny("llama")
    calls = []
    ids, _ = batch([5], 5)
    with HFTap(model, calls.append):
        outputs(model, input_ids=ids)
    assert calls[0].k.shape == (1, 2, 5, 8)
    assert calls[0].q.shape == (1, 4, 5, 8)


@pytest.mark.parametrize(
    ("layers", "heard"),
    [([1], [1]), (["model.layers.0.*"], [0]), (["*.1.self_attn", 0], [0, 1])],
)
def test_layers_are_chosen_by_number_or_name(layers, heard):
    model = tiny("llama")
    calls = []
    ids, _ = batch([5], 5)
    with HFTap(model, calls.append, layers=layers) as tap:
        outputs(model, input_ids=ids)
        assert tap.expected == len(heard)
    assert [c.layer for c in calls] == heard


@pytest.mark.parametrize("layers", [[2], [-1], ["encoder.*"], []])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(InputError, match="layers: "):
        HFTap(tiny("llama"), lambda call: None, layers=layers)


def test_modules_without_numbers_count_as_they_are_called():
    model = tiny("albert-shared", num_hidden_layers=3)
    calls = []
    ids, _ = batch([5], 5)
    with HFTap(model, calls.append, layers=[0, 2]):
        outputs(model, input_ids=ids)
    assert [c.layer for c in calls] == [0, 2]
    assert len(sites(model)) == 1


def test_a_number_that_never_comes_is_refused():
    model = tiny("albert-shared")
    ids, _ = batch([5], 5)
    said = r"layers: \[7\] never came; the model called 2 layers"
    with pytest.raises(InputError, match=said), HFTap(model, lambda call: None, layers=[7]):
        outputs(model, input_ids=ids)


def test_a_module_that_was_not_called_is_named():
    model = tiny("llama")
    ids, _ = batch([5], 5)
    model.model.layers = model.model.layers[:]  # the model runs one layer less than it has
    model.config.num_hidden_layers = 1
    said = r"model\.layers\.1\.self_attn: its attention was never called"
    with pytest.raises(ModelError, match=said), HFTap(model, lambda call: None):
        outputs(model, input_ids=ids)


def test_a_model_that_routes_nothing_is_refused():
    with pytest.raises(ModelError, match="Linear: no module routes its attention"):
        HFTap(torch.nn.Linear(2, 2), lambda call: None)


def test_attention_out_of_reach_is_named():
    class OwnAttention(torch.nn.Module):
        def forward(self, x):
            return x

    model = torch.nn.ModuleDict({"inner": tiny("bert"), "pool": OwnAttention()})
    assert unrouted(model) == ["pool"]
    assert [s.name for s in sites(model)] == [f"inner.encoder.layer.{i}.attention.self" for i in (0, 1)]


def test_a_compiled_model_is_refused():
    model = tiny("llama")
    with pytest.raises(ModelError, match="compiled"):
        HFTap(torch.compile(model), lambda call: None)
    model.compile()
    with pytest.raises(ModelError, match="compiled"):
        HFTap(model, lambda call: None)
