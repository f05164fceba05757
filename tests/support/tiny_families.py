"""Tiny configurations of the families beyond plain text models: towers, encoder-decoders, hybrids, and those outside the seam.

Image placeholders are token 59, video 58, vision start and end 57 and 56; `tiny_inputs` makes inputs that fit.
"""

VOCABULARY = 60
IMAGE, VIDEO, START, END = 59, 58, 57, 56

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "pad_token_id": 0}
GROUPED = {**TEXT, "num_key_value_heads": 2}
PICTURE = {**SMALL, "image_size": 24, "patch_size": 8, "num_channels": 3}
LLAMA = {**GROUPED, "model_type": "llama"}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
SEEN = {
    "depth": 2,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
MARKS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
BUCKETS = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
BOTH = ("sdpa", "eager")

#: name → (model class, config class, config, backends, kind); `kind` says what inputs it takes (`tiny_inputs.inputs_for`).
FAMILIES = {
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED, BOTH, "decoder"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**GROUPED, "sliding_window": 4}, BOTH, "decoder"),
    "phi": ("PhiForCausalLM", "PhiConfig", TEXT, BOTH, "decoder"),
    "qwen3-next-hybrid": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            **GROUPED,
            "head_dim": 8,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "layer_types": ["linear_attention", "full_attention"],
        },
        BOTH,
        "decoder",
    ),
    "lfm2-hybrid": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {**GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
        BOTH,
        "decoder",
    ),
    "bamba-hybrid": (
        "BambaForCausalLM",
        "BambaConfig",
        {
            **GROUPED,
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
        BOTH,
        "decoder",
    ),
    "bert-decoder-cross": (
        "BertLMHeadModel",
        "BertConfig",
        {**TEXT, "is_decoder": True, "add_cross_attention": True},
        BOTH,
        "cross-decoder",
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        BUCKETS,
        BOTH,
        "encoder-decoder",
    ),
    "umt5": (
        "UMT5ForConditionalGeneration",
        "UMT5Config",
        BUCKETS,
        BOTH,
        "encoder-decoder",
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 128,
            **ENDS,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
        BOTH,
        "encoder-decoder",
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": VOCABULARY,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 64,
            **ENDS,
            "decoder_start_token_id": 3,
            "begin_suppress_tokens": None,
        },
        BOTH,
        "speech",
    ),
    "vit": ("ViTModel", "ViTConfig", {**PICTURE, "image_size": [24, 32]}, BOTH, "vision"),
    "deit": ("DeiTModel", "DeiTConfig", PICTURE, BOTH, "vision"),
    "dinov2": ("Dinov2Model", "Dinov2Config", PICTURE, BOTH, "vision"),
    "siglip-vision": ("SiglipVisionModel", "SiglipVisionConfig", PICTURE, BOTH, "vision"),
    "beit-bias": (
        "BeitModel",
        "BeitConfig",
        {**PICTURE, "use_relative_position_bias": True, "vocab_size": VOCABULARY},
        BOTH,
        "vision",
    ),
    "swin-windows": (
        "SwinModel",
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 1],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        BOTH,
        "vision",
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**SMALL, **ENDS, "vocab_size": VOCABULARY, "max_position_embeddings": 64},
            "vision_config": PICTURE,
            "projection_dim": 16,
        },
        BOTH,
        "dual",
    ),
    "siglip": (
        "SiglipModel",
        "SiglipConfig",
        {
            "text_config": {**SMALL, **ENDS, "vocab_size": VOCABULARY, "max_position_embeddings": 64},
            "vision_config": PICTURE,
        },
        BOTH,
        "dual",
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": LLAMA,
            "vision_config": {**PICTURE, "model_type": "clip_vision_model"},
            "image_token_index": IMAGE,
            "image_seq_length": 9,
        },
        BOTH,
        "llava",
    ),
    "llava-next-tiles": (
        "LlavaNextForConditionalGeneration",
        "LlavaNextConfig",
        {
            "text_config": LLAMA,
            "vision_config": {**PICTURE, "model_type": "clip_vision_model"},
            "image_token_index": IMAGE,
            "image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]],
        },
        BOTH,
        "llava-next",
    ),
    "qwen2-vl": (
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        {
            "text_config": {**GROUPED, "rope_parameters": ROTARY},
            "vision_config": {**SEEN, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
            **MARKS,
        },
        BOTH,
        "qwen-vl",
    ),
    "qwen2.5-vl-windows": (
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        {
            "text_config": {**GROUPED, "rope_parameters": ROTARY},
            "vision_config": {
                **SEEN,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            **MARKS,
        },
        BOTH,
        "qwen-vl",
    ),
    "qwen3-vl": (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        {
            "text_config": {
                **GROUPED,
                "head_dim": 8,
                "rope_parameters": {**ROTARY, "mrope_interleaved": True},
            },
            "vision_config": {
                **SEEN,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "num_position_embeddings": 36,
                "deepstack_visual_indexes": [0],
            },
            **MARKS,
        },
        BOTH,
        "qwen-vl",
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        "SmolVLMConfig",
        {
            "text_config": LLAMA,
            "vision_config": {**PICTURE, "image_size": 32},
            "image_token_id": IMAGE,
            "scale_factor": 2,
        },
        BOTH,
        "idefics3",
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        "Idefics3Config",
        {
            "text_config": LLAMA,
            "vision_config": {**PICTURE, "image_size": 32},
            "image_token_id": IMAGE,
            "scale_factor": 2,
        },
        BOTH,
        "idefics3",
    ),
    "paligemma-prefix": (
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        {
            "text_config": {**GROUPED, "model_type": "gemma", "head_dim": 8},
            "vision_config": {**PICTURE, "model_type": "siglip_vision_model", "projection_dim": 32},
            "image_token_index": IMAGE,
            "projection_dim": 32,
            "hidden_size": 32,
            "vocab_size": VOCABULARY,
        },
        BOTH,
        "paligemma",
    ),
    "gemma3-image-blocks": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": {
                **GROUPED,
                "head_dim": 8,
                "sliding_window": 4,
                "query_pre_attn_scalar": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {**PICTURE, "image_size": 32, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE,
            "boi_token_index": START,
            "eoi_token_index": END,
        },
        BOTH,
        "gemma3",
    ),
    "gptj": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 128,
            "rotary_dim": 4,
            "vocab_size": VOCABULARY,
            **ENDS,
        },
        BOTH,
        "decoder",
    ),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": VOCABULARY,
            **ENDS,
        },
        BOTH,
        "decoder",
    ),
    "falcon-alibi": (
        "FalconForCausalLM",
        "FalconConfig",
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": VOCABULARY,
            "alibi": True,
            **ENDS,
        },
        BOTH,
        "decoder",
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, **ENDS},
        ("eager",),
        "decoder",
    ),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "expansion_ratio": 2,
            "max_seq_len": 128,
            "vocab_size": VOCABULARY,
        },
        ("eager",),
        "decoder",
    ),
}

#: Families whose attention does not go through transformers' interface (slow route or refusal).
OUTSIDE = ("falcon", "falcon-alibi", "bloom", "mpt")
