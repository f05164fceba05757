"""Models whose masks are made row by row, inputs for them, and the fixtures that both of their test files use."""

from unittest import mock

import pytest
import tiny_models
import torch
from tiny_models import GROUPED, batch, tiny
from transformers import masking_utils as hf
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from probe.taps.hf import HFTap
from probe.taps.longmask import switch

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
    monkeypatch.setattr(switch, "DENSE_LIMIT", 0)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # measured here where it is there


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert "sdpa" not in hf.ALL_MASK_ATTENTION_FUNCTIONS._local_mapping
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


def dense_in(model, inputs):
    _, calls = tapped(model, inputs)
    return all(isinstance(call.mask, torch.Tensor) for call in calls)
