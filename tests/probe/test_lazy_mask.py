"""Masks made row by row: bits, statistics and memory against the dense mask; what keeps the dense one."""

from unittest import mock

import pytest
import tiny_models
import torch
from tiny_models import GROUPED, batch, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils as hf
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import probe
from probe.taps import _mask_switch
from probe.taps._lazy_mask import ROWS, LazyMask
from probe.taps._mask_switch import ARCHITECTURES
from probe.taps.hf import HFTap

LONG = {**GROUPED, "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2}
HEAD = {**LONG, "head_dim": 16}
#: name → (class that makes the masks, model class, config class, config); every verified class at least once.
MODELS = {
    "llama": ("LlamaModel", "LlamaForCausalLM", "LlamaConfig", LONG),
    "mistral": ("MistralModel", "MistralForCausalLM", "MistralConfig", {**LONG, "sliding_window": None}),
    "mistral-window": (
        "MistralModel",
        "MistralForCausalLM",
        "MistralConfig",
        {**LONG, "sliding_window": 300},
    ),
    "qwen2": ("Qwen2Model", "Qwen2ForCausalLM", "Qwen2Config", LONG),
    "qwen2-window": (
        "Qwen2Model",
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**LONG, "use_sliding_window": True, "sliding_window": 300, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Model", "Qwen3ForCausalLM", "Qwen3Config", HEAD),
    "phi3-window": ("Phi3Model", "Phi3ForCausalLM", "Phi3Config", {**LONG, "sliding_window": 300}),
    "smollm3": ("SmolLM3Model", "SmolLM3ForCausalLM", "SmolLM3Config", LONG),
    "olmo2": ("Olmo2Model", "Olmo2ForCausalLM", "Olmo2Config", LONG),
    "gemma3-mixed-windows": (
        "Gemma3TextModel",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**HEAD, "sliding_window": 300, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "llama4-chunks": (
        "Llama4TextModel",
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **HEAD,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 300,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
        },
    ),
}
PADDED = [1700, 1100]


def build(name, **overrides):
    entries = {n: (*entry[1:], ("sdpa",)) for n, entry in MODELS.items()}
    with mock.patch.dict(tiny_models.MODELS, entries):
        return tiny(name, "sdpa", **overrides)


def padded(lengths=PADDED, side="left"):
    ids, mask = batch(lengths, max(lengths), side)
    return {"input_ids": ids, "attention_mask": mask}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def tapped(model, inputs):
    calls = []
    with HFTap(model, calls.append, valid=inputs["attention_mask"].bool()):
        out = logits(model, inputs)
    return out, calls


@pytest.fixture(autouse=True)
def lazy_at_any_length(monkeypatch):
    monkeypatch.setattr(_mask_switch, "DENSE_LIMIT", 0)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # measured here where it is there


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert "sdpa" not in hf.ALL_MASK_ATTENTION_FUNCTIONS._local_mapping
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


def test_every_verified_class_is_tested():
    assert {entry[0] for entry in MODELS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_bit_identical(name, side, dtype):
    model = build(name).to(dtype)
    for lengths in ([100, 70], [2 * ROWS, 700], PADDED, [3 * ROWS + 1]):
        inputs = padded(lengths, side)
        plain = logits(model, inputs)
        out, calls = tapped(model, inputs)
        assert torch.equal(plain, out), lengths
        whole = len(lengths) == 1 and calls[0].spec.window is None and calls[0].spec.chunk is None
        assert isinstance(calls[0].mask, LazyMask) != whole


@pytest.mark.parametrize("name", MODELS)
def test_statistics_are_those_of_the_dense_mask(name, monkeypatch):
    model, inputs = build(name), padded()
    stats = ("entropy", "received", "max_key", "distance", "lse")
    lazy = probe.capture(model, inputs, stats=stats)
    monkeypatch.setattr(_mask_switch, "DENSE_LIMIT", 1 << 40)
    dense = probe.capture(model, inputs, stats=stats)
    assert lazy.validity.attrs["passed"]
    assert lazy.attrs["rules"] == dense.attrs["rules"]
    for group in ("text", "validity"):
        assert lazy[group].to_dataset().identical(dense[group].to_dataset()), group


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest storage that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("limit", [0, 1 << 40], ids=["lazy", "dense"])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "llama4-chunks"])
def test_no_tensor_of_the_size_of_a_map(name, limit, monkeypatch):
    monkeypatch.setattr(_mask_switch, "DENSE_LIMIT", limit)
    n = 6 * ROWS
    inputs = padded([n])
    inputs["attention_mask"][:, :100] = 0
    with Largest() as seen:
        probe.capture(build(name), inputs)
    if limit:
        assert seen.elements >= n * n
    else:
        assert seen.elements <= n * n / 4
