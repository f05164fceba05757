"""`probe.capture` as a user calls it: options, errors, and a model that is as before on every way out."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny

import probe
from probe import InputError, ModelError


@pytest.fixture
def inputs():
    ids, mask = batch([9, 6], 9)
    return {"input_ids": ids, "attention_mask": mask}


def state(model):
    weights = {n: (t.data_ptr(), t._version) for n, t in model.state_dict().items()}
    modules = [
        (m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]
    flags = [p.requires_grad for p in model.parameters()], torch.is_grad_enabled(), torch.get_num_threads()
    return weights, modules, copy.deepcopy(model.config.to_dict()), model.config._attn_implementation, flags


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_the_model_is_as_before_and_so_are_its_outputs(backend, inputs):
    model = tiny("llama", backend)
    with torch.no_grad():
        plain = model(**inputs).logits
    before, random = state(model), torch.get_rng_state()
    probe.capture(model, inputs)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize(
    "bad",
    [
        {"stats": "unheard"},
        {"layers": [9]},
        {"implementation": "cuda"},
        {"inputs": {"input_ids": torch.tensor([[99]])}},
        {"inputs": "text without a tokenizer"},
    ],
)
def test_bad_arguments_leave_the_model_and_the_disk_as_before(bad, inputs, tmp_path):
    model = tiny("llama")
    before = state(model)
    given = {"inputs": inputs, **bad}
    with pytest.raises(InputError) as caught:
        probe.capture(model, given.pop("inputs"), store=tmp_path / "run.zarr", **given)
    assert "\n" not in str(caught.value)
    assert state(model) == before
    assert list(tmp_path.iterdir()) == []


def test_a_failure_inside_the_model_leaves_it_as_before(inputs, tmp_path):
    model = tiny("llama")
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 / 0)
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert state(model) == before
    assert list(tmp_path.iterdir()) == []
    handle.remove()
    assert probe.capture(model, inputs).validity.attrs["passed"]


def test_weights_that_are_nan_are_named_at_once(inputs, tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0, 0] = torch.nan
    with pytest.raises(
        ModelError, match=r"model\.layers\.1\.self_attn: NaN or infinity in the keys"
    ) as caught:
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_training_mode_is_refused(inputs):
    with pytest.raises(ModelError, match=r"training mode .*; call model\.eval"):
        probe.capture(tiny("llama").train(), inputs)


def test_what_is_not_a_model_is_refused(inputs):
    with pytest.raises(InputError, match=r"model: got str, expected what probe\.load gives"):
        probe.capture("llama", inputs)


def test_progress_counts_layers(inputs):
    heard = []
    probe.capture(tiny("llama"), inputs, progress=lambda *step: heard.append(step))
    assert heard == [(1, 2, "model.layers.0.self_attn"), (2, 2, "model.layers.1.self_attn")]


def test_layers_select_what_is_recorded(inputs):
    model = tiny("llama")
    whole = probe.capture(model, inputs)
    part = probe.capture(model, inputs, layers=[1])
    assert part["text/layer"].values.tolist() == [1]
    np.testing.assert_array_equal(part["text/entropy"].values, whole["text/entropy"].values[:, 1:])


def test_only_what_was_asked_is_recorded(inputs):
    tree = probe.capture(tiny("gpt-oss-sinks-window", "eager"), inputs, stats="received")
    assert set(tree["text"].data_vars) == {"received", "keys_seen", "seen_by"}
    assert tree.attrs["stats"] == ["received"]


def test_counts_say_what_is_visible(inputs):
    tree = probe.capture(tiny("llama"), inputs)
    assert tree["text/keys_seen"].values[1, 0].tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0]
    assert tree["text/seen_by"].values[1, 0].tolist() == [6, 5, 4, 3, 2, 1, 0, 0, 0]


def test_a_model_that_holds_a_transformer_is_captured(inputs):
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny("bert")

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).pooler_output

    tree = probe.capture(Holder().eval(), inputs)
    assert tree["text/module"].values[0] == "inner.encoder.layer.0.attention.self"
    assert tree.attrs["model"] == "Holder"


def test_an_embedding_input_is_captured(inputs):
    model = tiny("llama")
    embedded = model.get_input_embeddings()(inputs["input_ids"]).detach()
    by_id = probe.capture(model, inputs)
    by_value = probe.capture(model, {"inputs_embeds": embedded, "attention_mask": inputs["attention_mask"]})
    np.testing.assert_array_equal(by_id["text/entropy"].values, by_value["text/entropy"].values)


def test_memory_capture_needs_no_zarr():
    code = (
        "import sys; sys.modules['zarr'] = None\n"
        "sys.path.insert(0, {path!r})\n"
        "from tiny_models import batch, tiny\n"
        "import probe\n"
        "ids, _ = batch([5], 5)\n"
        "print(probe.capture(tiny('llama'), {{'input_ids': ids}})['text/entropy'].shape)"
    )
    import tiny_models

    path = tiny_models.__file__.rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code.format(path=path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "(1, 2, 4, 5)\n", done.stderr
