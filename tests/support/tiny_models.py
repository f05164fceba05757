"""Tiny models with random weights, built from configs offline: one per way of computing attention.

`MODELS` and `CASES` hold text models of one tower; `tiny_families.FAMILIES` all others. `tiny` makes either, `inputs_for` what
they take.
"""

import torch
from tiny_families import FAMILIES, OUTSIDE
from tiny_inputs import inputs_for

__all__ = [
    "CASES",
    "FAMILIES",
    "MODELS",
    "OUTSIDE",
    "VOCABULARY",
    "batch",
    "inputs_for",
    "kind",
    "maps",
    "tiny",
]

VOCABULARY = 60

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
ROPE = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "pad_token_id": 0}
GROUPED = {**ROPE, "num_key_value_heads": 2}
ENCODER = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0}

#: name → (model class, config class, config, backends)
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED, ("sdpa", "eager")),
    "mistral-window": (
        "MistralForCausalLM",
        "MistralConfig",
        {**GROUPED, "sliding_window": 4},
        ("sdpa", "eager"),
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 16}, ("sdpa", "eager")),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 128,
            "vocab_size": VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        ("sdpa", "eager"),
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", ROPE, ("sdpa", "eager")),
    "opt-scaled-queries": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "ffn_dim": 48,
            "vocab_size": VOCABULARY,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
        },
        ("sdpa", "eager"),
    ),
    "deepseek-mla": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **ROPE,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 2,
        },
        ("sdpa", "eager"),
    ),
    "gemma2-softcap-window": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 2.0,
        },
        ("eager",),
    ),
    "gemma3-mixed-windows": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        ("sdpa", "eager"),
    ),
    "gpt-oss-sinks-window": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {**GROUPED, "head_dim": 8, "sliding_window": 4, "num_local_experts": 2, "num_experts_per_tok": 1},
        ("eager",),
    ),
    "llama4-chunks": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **GROUPED,
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 5,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
        },
        ("sdpa", "eager"),
    ),
    "bert": ("BertModel", "BertConfig", ENCODER, ("sdpa", "eager")),
    "roberta": ("RobertaModel", "RobertaConfig", ENCODER, ("sdpa", "eager")),
    "distilbert-unnumbered": (
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48, "vocab_size": VOCABULARY},
        ("sdpa", "eager"),
    ),
    "albert-shared": ("AlbertModel", "AlbertConfig", {**ENCODER, "embedding_size": 16}, ("sdpa", "eager")),
    "modernbert-two-way-window": (
        "ModernBertModel",
        "ModernBertConfig",
        {
            **ENCODER,
            "num_hidden_layers": 3,
            "local_attention": 6,
            "global_attn_every_n_layers": 3,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        ("sdpa", "eager"),
    ),
}
CASES = [(name, backend) for name, entry in MODELS.items() for backend in entry[3]]


def kind(name):
    """What inputs a model takes: "text", "decoder", "encoder-decoder", "vision", "dual", "llava", "qwen-vl", …"""
    return "text" if name in MODELS else FAMILIES[name][4]


def tiny(name, backend="sdpa", seed=0, **overrides):
    """A model of `MODELS` or `FAMILIES` in eval mode; random weights large enough for attention that is not flat."""
    import copy

    import transformers

    model_class, config_class, settings, *_ = MODELS.get(name) or FAMILIES[name]
    config = getattr(transformers, config_class)(**copy.deepcopy({**settings, **overrides}))
    config._attn_implementation = backend
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
            elif "sinks" in next(n for n, p in model.named_parameters() if p is parameter):
                torch.nn.init.normal_(parameter)
    return model.eval()


def batch(lengths, length, side="right", seed=0):
    """Token ids and attention mask [B, length], `lengths` tokens each, padded on one side (ids from 3 up)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        place = slice(0, n) if side == "right" else slice(length - n, length)
        ids[row, place] = torch.randint(3, VOCABULARY, (n,), generator=generator)
        mask[row, place] = 1
    return ids, mask


def maps(model, inputs, dtype=torch.float64):
    """Attention maps [B, H, N, N] of each layer from an eager copy of `model` in `dtype`."""
    import copy

    from probe.taps.hf import sites

    def without_nan(module, given, output):
        # A padded row without keys is NaN in float64 (the softmax is in float32), and 0 · NaN spreads.
        return (output[0].nan_to_num(), *output[1:])

    twin = copy.deepcopy(model).to(dtype)
    twin.set_attn_implementation("eager")
    if hasattr(twin, "set_experts_implementation"):
        twin.set_experts_implementation("eager")  # the grouped product knows no float64
    for site in sites(twin):
        site.module.register_forward_hook(without_nan)
    with torch.no_grad():
        return [a.double().nan_to_num() for a in twin(**inputs, output_attentions=True).attentions]
