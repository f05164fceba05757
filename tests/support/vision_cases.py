"""Settings of tiny vision towers and vision-language models, and of the real processors in front of them."""

from dataclasses import dataclass

TEXT = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
PLAIN = {"do_normalize": False, "do_rescale": True}
SPECIAL = [
    "<pad>",
    "<unk>",
    "<bos>",
    "<eos>",
    "<image>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *[f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)],
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
]
LETTERS = ["\n", " ", *"abcdefghijklmnopqrstuvwxyz"]
IDS = {token: n for n, token in enumerate([*SPECIAL, *LETTERS])}


@dataclass(frozen=True)
class Case:
    """A family with its processor.

    Attributes:
        model: model class, configuration class, settings.
        processor: name of the PIL image processor, its settings.
        layers: the tower's first layer (its input is what the attention sees).
        embeddings: where colours can still be read: a module and whether its "input" or "output".
        flatten: convolution that cuts the patches.
        text: the language model; None where there is none.
        prompt: what stands for one picture in the text before the processor expands it.
        full: class of the processor of text and pictures, its settings.
        towers: the vision tower.
        first: longer side after a first resize, before the one that counts; 0 without one.
        merge: patches per side of one token of the text.
    """

    model: tuple
    processor: tuple
    layers: str
    embeddings: tuple
    flatten: str
    text: str | None = None
    prompt: str = "<image>"
    full: tuple | None = None
    towers: str = ""
    first: int = 0
    merge: int = 1


def square_tower(model, config, size, patch, **more):
    return (model, config, {**VISION, "image_size": size, "patch_size": patch, **more})


CLIP = {**VISION, "model_type": "clip_vision_model", "image_size": 24, "patch_size": 6, "projection_dim": 16}
SIGLIP = {
    **VISION,
    "model_type": "siglip_vision_model",
    "image_size": 24,
    "patch_size": 6,
    "projection_dim": 32,
}
LLAMA = {**TEXT, "model_type": "llama", "vocab_size": len(IDS)}
CROP = {**PLAIN, "size": {"shortest_edge": 26}, "crop_size": {"height": 24, "width": 24}}
QWEN_TEXT = {
    **TEXT,
    "bos_token_id": IDS["<bos>"],
    "eos_token_id": IDS["<eos>"],
    "vocab_size": len(IDS),
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
}
QWEN_IDS = {
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}
QWEN_PIXELS = {**PLAIN, "size": {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}, "patch_size": 4}
QWEN_TOWER = {"depth": 2, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN = {
    "layers": "model.visual.blocks.0",
    "embeddings": ("model.visual.blocks.0", "input"),
    "flatten": "model.visual.patch_embed.proj",
    "text": "model.language_model",
    "prompt": "<|vision_start|><|image_pad|><|vision_end|>",
    "towers": "model.visual",
    "merge": 2,
}
IDEFICS = {
    "layers": "model.vision_model.encoder.layers.0",
    "embeddings": ("model.vision_model.encoder.layers.0", "input"),
    "flatten": "model.vision_model.embeddings.patch_embedding",
    "text": "model.text_model",
    "towers": "model.vision_model",
    "first": 128,
    "merge": 3,
}
TILES = {**PLAIN, "size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 48}}
LLAVA = {
    "layers": "model.vision_tower.encoder.layers.0",
    "embeddings": ("model.vision_tower.embeddings", "output"),
    "flatten": "model.vision_tower.embeddings.patch_embedding",
    "text": "model.language_model",
    "towers": "model.vision_tower",
}


def _llava(vision, **more):
    settings = {
        "vision_config": vision,
        "text_config": LLAMA,
        "image_token_index": IDS["<image>"],
        "vision_feature_layer": -1,
    }
    return ("LlavaForConditionalGeneration", "LlavaConfig", {**settings, **more})


def _next(vision, **more):
    model = ("LlavaNextForConditionalGeneration", "LlavaNextConfig")
    return (*model, {**_llava(vision)[2], "image_grid_pinpoints": PINPOINTS, **more})


def _idefics(model, config):
    vision = {**VISION, "image_size": 48, "patch_size": 8}
    settings = {"scale_factor": 3, "image_token_id": IDS["<image>"], "vision_config": vision}
    return (model, config, {**settings, "text_config": LLAMA})


PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
EXTRA = {"patch_size": 6, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}

CASES = {
    "vit": Case(
        square_tower("ViTModel", "ViTConfig", 24, 6),
        ("vit.ViTImageProcessorPil", {**PLAIN, "size": {"height": 24, "width": 24}}),
        "layers.0",
        ("embeddings", "output"),
        "embeddings.patch_embeddings.projection",
    ),
    "deit": Case(
        square_tower("DeiTModel", "DeiTConfig", 24, 6),
        (
            "deit.DeiTImageProcessorPil",
            {**PLAIN, "size": {"height": 28, "width": 28}, "crop_size": {"height": 24, "width": 24}},
        ),
        "layers.0",
        ("embeddings", "output"),
        "embeddings.patch_embeddings.projection",
    ),
    "dinov2": Case(
        square_tower("Dinov2Model", "Dinov2Config", 24, 6),
        ("bit.BitImageProcessorPil", CROP),
        "encoder.layer.0",
        ("embeddings", "output"),
        "embeddings.patch_embeddings.projection",
    ),
    "dinov2-registers": Case(
        square_tower("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", 24, 6, num_register_tokens=3),
        ("bit.BitImageProcessorPil", CROP),
        "encoder.layer.0",
        ("embeddings", "output"),
        "embeddings.patch_embeddings.projection",
    ),
    "clip": Case(
        ("CLIPVisionModel", "CLIPVisionConfig", CLIP),
        ("clip.CLIPImageProcessorPil", CROP),
        "encoder.layers.0",
        ("embeddings", "output"),
        "embeddings.patch_embedding",
    ),
    "clip-padded": Case(
        ("CLIPVisionModel", "CLIPVisionConfig", CLIP),
        ("clip.CLIPImageProcessorPil", {**CROP, "size": {"shortest_edge": 13}}),
        "encoder.layers.0",
        ("embeddings", "output"),
        "embeddings.patch_embedding",
    ),
    "dinov2-wide": Case(
        square_tower("Dinov2Model", "Dinov2Config", 24, 6),
        (
            "bit.BitImageProcessorPil",
            {**PLAIN, "size": {"height": 31, "width": 40}, "crop_size": {"height": 24, "width": 37}},
        ),
        "encoder.layer.0",
        ("embeddings", "output"),
        "embeddings.patch_embeddings.projection",
    ),
    "siglip-padded": Case(
        ("SiglipVisionModel", "SiglipVisionConfig", SIGLIP),
        (
            "siglip.SiglipImageProcessorPil",
            {
                **PLAIN,
                "size": {"shortest_edge": 17, "longest_edge": 24},
                "do_pad": True,
                "pad_size": {"height": 24, "width": 24},
            },
        ),
        "encoder.layers.0",
        ("embeddings", "output"),
        "embeddings.patch_embedding",
    ),
    "siglip": Case(
        ("SiglipVisionModel", "SiglipVisionConfig", SIGLIP),
        ("siglip.SiglipImageProcessorPil", {**PLAIN, "size": {"height": 24, "width": 24}}),
        "encoder.layers.0",
        ("embeddings", "output"),
        "embeddings.patch_embedding",
    ),
    "llava": Case(
        _llava(CLIP),
        ("clip.CLIPImageProcessorPil", CROP),
        full=("LlavaProcessor", EXTRA),
        **LLAVA,
    ),
    "llava-square": Case(
        _llava(CLIP),
        (
            "llava.LlavaImageProcessorPil",
            {**CROP, "size": {"shortest_edge": 24}, "do_pad": True, "image_mean": [0, 0, 0]},
        ),
        full=("LlavaProcessor", EXTRA),
        **LLAVA,
    ),
    "llava-full": Case(
        _llava(CLIP, vision_feature_select_strategy="full"),
        ("clip.CLIPImageProcessorPil", CROP),
        full=("LlavaProcessor", {**EXTRA, "vision_feature_select_strategy": "full"}),
        **LLAVA,
    ),
    "llava-siglip": Case(
        _llava(SIGLIP, vision_feature_select_strategy="full"),
        ("siglip.SiglipImageProcessorPil", {**PLAIN, "size": {"height": 24, "width": 24}}),
        full=(
            "LlavaProcessor",
            {**EXTRA, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
        ),
        **LLAVA,
    ),
    "paligemma": Case(
        (
            "PaliGemmaForConditionalGeneration",
            "PaliGemmaConfig",
            {
                "vision_config": SIGLIP,
                "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8, "vocab_size": len(IDS)},
                "image_token_index": IDS["<image>"],
                "projection_dim": 32,
            },
        ),
        (
            "siglip.SiglipImageProcessorPil",
            {**PLAIN, "size": {"height": 24, "width": 24}, "image_seq_length": 16},
        ),
        full=("PaliGemmaProcessor", {}),
        **LLAVA,
    ),
    "llava-next": Case(
        _next(CLIP),
        (
            "llava_next.LlavaNextImageProcessorPil",
            {**CROP, "size": {"shortest_edge": 24}, "image_grid_pinpoints": PINPOINTS},
        ),
        full=("LlavaNextProcessor", EXTRA),
        **LLAVA,
    ),
    "llava-next-siglip": Case(
        _next(SIGLIP, vision_feature_select_strategy="full"),
        (
            "llava_next.LlavaNextImageProcessorPil",
            {**CROP, "size": {"height": 24, "width": 24}, "image_grid_pinpoints": PINPOINTS},
        ),
        full=(
            "LlavaNextProcessor",
            {**EXTRA, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
        ),
        **LLAVA,
    ),
    "idefics3": Case(
        _idefics("Idefics3ForConditionalGeneration", "Idefics3Config"),
        ("idefics3.Idefics3ImageProcessorPil", TILES),
        full=("Idefics3Processor", {"image_seq_len": 4}),
        **IDEFICS,
    ),
    "smolvlm": Case(
        _idefics("SmolVLMForConditionalGeneration", "SmolVLMConfig"),
        ("smolvlm.SmolVLMImageProcessorPil", TILES),
        full=("Idefics3Processor", {"image_seq_len": 4}),
        **IDEFICS,
    ),
    "smolvlm-whole": Case(
        _idefics("SmolVLMForConditionalGeneration", "SmolVLMConfig"),
        ("smolvlm.SmolVLMImageProcessorPil", {**TILES, "do_image_splitting": False}),
        full=("Idefics3Processor", {"image_seq_len": 4}),
        **IDEFICS,
    ),
    "qwen2-vl": Case(
        (
            "Qwen2VLForConditionalGeneration",
            "Qwen2VLConfig",
            {
                "vision_config": {**QWEN_TOWER, "embed_dim": 32, "hidden_size": 32},
                "text_config": QWEN_TEXT,
                **QWEN_IDS,
            },
        ),
        ("qwen2_vl.Qwen2VLImageProcessorPil", QWEN_PIXELS),
        **QWEN,
    ),
    "qwen2.5-vl": Case(
        (
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen2_5_VLConfig",
            {
                "vision_config": {
                    **QWEN_TOWER,
                    "hidden_size": 32,
                    "out_hidden_size": 32,
                    "intermediate_size": 48,
                    "window_size": 16,
                    "fullatt_block_indexes": [1],
                },
                "text_config": QWEN_TEXT,
                **QWEN_IDS,
            },
        ),
        ("qwen2_vl.Qwen2VLImageProcessorPil", QWEN_PIXELS),
        **QWEN,
    ),
    "qwen3-vl": Case(
        (
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLConfig",
            {
                "vision_config": {
                    **QWEN_TOWER,
                    "hidden_size": 32,
                    "out_hidden_size": 32,
                    "intermediate_size": 48,
                    "num_position_embeddings": 16,
                    "deepstack_visual_indexes": [0],
                },
                "text_config": {**QWEN_TEXT, "head_dim": 8},
                **QWEN_IDS,
            },
        ),
        ("qwen2_vl.Qwen2VLImageProcessorPil", QWEN_PIXELS),
        **QWEN,
    ),
}
TEXTS = [name for name, case in CASES.items() if case.text]
