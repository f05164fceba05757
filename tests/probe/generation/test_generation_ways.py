"""Capture around `generate()` as a user calls it: options, refusals, and a model that is as before on every way out."""

import numpy as np
import pytest
import torch
from generation_checks import BEAMS, PLAIN
from tiny_models import batch, tiny

import probe
from probe import InputError, ModelError
from probe.generation.capture import capture_generation


def test_a_record_in_a_folder_is_the_record_in_memory(tmp_path):
    model = tiny("llama")
    ids, mask = batch([7, 5], 7, "left")
    asked = {"generate": PLAIN, "rows": {1: [2]}}
    inputs = {"input_ids": ids, "attention_mask": mask}
    kept, _ = capture_generation(model, inputs, store=tmp_path / "run.zarr", **asked)
    memory, _ = capture_generation(model, inputs, **asked)
    for path in ("text/entropy", "text/received", "tokens/step", "rows/1/attention"):
        np.testing.assert_array_equal(kept[path].values, memory[path].values)
    assert probe.open_record(tmp_path / "run.zarr").attrs["generation"] == memory.attrs["generation"]
    assert memory.attrs["generation"] == {
        "mode": "greedy_search", "cache": "DynamicCache", "prompt": 7, "passes": 7
    }  # fmt: skip


def test_only_what_was_asked_is_recorded():
    model = tiny("llama")
    ids, _ = batch([6], 6)
    heard = []
    tree, _ = capture_generation(
        model,
        {"input_ids": ids},
        generate=PLAIN,
        stats="entropy",
        layers=[1],
        progress=lambda *step: heard.append(step),
    )
    assert set(tree["text"].data_vars) == {"entropy", "keys_seen", "seen_by"}
    assert tree["text/layer"].values.tolist() == [1]
    assert "rows" not in tree.children
    assert heard[0] == (1, 7, "pass 0")
    assert heard[-1] == (6, 7, "pass 5")


def state(model):
    weights = {n: (t.data_ptr(), t._version) for n, t in model.state_dict().items()}
    modules = [
        (m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]
    return weights, modules, model.config.to_dict(), model.generation_config.to_dict()


@pytest.mark.parametrize("generate", [PLAIN, BEAMS, {**PLAIN, "cache_implementation": "static"}])
def test_the_model_is_as_before(generate):
    model = tiny("llama")
    ids, _ = batch([6], 6)
    model.generate(input_ids=ids, **generate)
    before = state(model)
    capture_generation(model, {"input_ids": ids}, generate=generate)
    assert state(model) == before


@pytest.mark.parametrize("generate", [PLAIN, BEAMS])
def test_a_failure_in_the_middle_leaves_no_record_and_the_model_as_before(generate, tmp_path):
    model = tiny("llama")
    ids, _ = batch([6], 6)
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 4:
            raise ZeroDivisionError

    handle = model.model.layers[1].mlp.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        capture_generation(model, {"input_ids": ids}, generate=generate, store=tmp_path / "run.zarr")
    assert state(model) == before
    assert list(tmp_path.iterdir()) == []
    handle.remove()
    tree, _ = capture_generation(model, {"input_ids": ids}, generate=generate)
    assert tree.validity.attrs["passed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generate": {**PLAIN, "prompt_lookup_num_tokens": 2}}, "assisted generation"),
        ({"generate": {**PLAIN, "cache_implementation": "quantized"}}, "quantized"),
        ({"generate": {**PLAIN, "cache_implementation": "paged"}}, "paged"),
        ({"generate": {**PLAIN, "guidance_scale": 2.0}}, "guidance"),
        ({"generate": {**PLAIN, "custom_generate": print}}, "custom_generate"),
        ({"generate": {**PLAIN, "penalty_alpha": 0.6, "top_k": 4}}, "contrastive search"),
        ({"generate": {**PLAIN, "stopping_criteria": [print]}}, "where each one ended is not told"),
        ({"generate": {**PLAIN, "input_ids": torch.ones(1, 1)}}, "which the inputs hold already"),
        ({"generate": PLAIN, "rows": {7: [0]}}, r"rows: got layers \[7\], expected some of \[0, 1\]"),
        ({"generate": PLAIN, "rows": {1: [9]}}, r"rows: got heads \[9\] of layer 1, expected some of 0 to 3"),
        ({"generate": PLAIN, "stats": "pooled"}, "a generation has no one map"),
        ({"generate": PLAIN, "implementation": "cuda"}, "implementation"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(options, message, tmp_path):
    model = tiny("llama")
    ids, mask = batch([6, 4], 6, "left")
    before = state(model)
    with pytest.raises(InputError, match=message) as caught:
        capture_generation(
            model, {"input_ids": ids, "attention_mask": mask}, store=tmp_path / "run.zarr", **options
        )
    assert "\n" not in str(caught.value)
    assert state(model) == before
    assert list(tmp_path.iterdir()) == []


def test_a_loop_that_would_be_compiled_is_refused():
    from transformers import CompileConfig

    compiling = CompileConfig()
    compiling._compile_all_devices = True
    generate = {**PLAIN, "cache_implementation": "static", "compile_config": compiling}
    model = tiny("llama")
    ids, _ = batch([6], 6)
    with pytest.raises(InputError, match="compiled attention cannot be heard; add disable_compile=True"):
        capture_generation(model, {"input_ids": ids}, generate=generate)
    tree, _ = capture_generation(model, {"input_ids": ids}, generate={**generate, "disable_compile": True})
    assert tree.validity.attrs["passed"]


def test_a_cache_that_changes_its_keys_is_refused():
    from transformers import QuantizedCache

    model = tiny("llama")
    ids, _ = batch([6], 6)
    cache = QuantizedCache(backend="fp8", config=model.config)
    with pytest.raises(
        ModelError, match=r"layers\.0\.self_attn: its cache gave 7 keys that are not the last ones"
    ):
        capture_generation(model, {"input_ids": ids}, generate={**PLAIN, "past_key_values": cache})


def test_an_encoder_decoder_is_refused():
    import transformers

    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=20)
    model = transformers.T5ForConditionalGeneration(config).eval()
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ModelError, match="encoder-decoder"):
        capture_generation(model, {"input_ids": ids, "decoder_input_ids": ids}, generate=PLAIN)


def test_a_module_without_generate_is_refused():
    ids, _ = batch([6], 6)
    with pytest.raises(ModelError, match="has no generate"):
        capture_generation(tiny("llama").model, {"input_ids": ids}, generate=PLAIN)


def test_a_loop_of_the_models_own_is_refused():
    class Own(type(tiny("llama"))):
        def generate(self, input_ids, **_):
            return self(input_ids=input_ids).logits.argmax(-1)

    model = tiny("llama")
    model.__class__ = Own
    ids, _ = batch([6], 6)
    with pytest.raises(ModelError, match="goes a way of its own"):
        capture_generation(model, {"input_ids": ids}, generate=PLAIN)
