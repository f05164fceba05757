"""The model as transformers' own classes: a SigLIP tower, a projector and a Llama; a word tokenizer, LLaVA's processor."""

import re
from dataclasses import dataclass
from typing import Any

from probe.zoo.scenes.questions import NUMBERS, plural
from probe.zoo.scenes.shapes import COLOURS, SHAPES

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; `side` is that of the square picture it sees, in pixels."""

    side: int = 64
    patch: int = 8
    vision_width: int = 96
    vision_layers: int = 4
    width: int = 128
    layers: int = 4
    heads: int = 4


def vocabulary() -> list[str]:
    """All words that scenes and questions are made of, special tokens first."""
    import importlib

    module = importlib.import_module("probe.zoo.scenes.questions")
    texts = " ".join(" ".join(tuple_) for tuple_ in _wordings(module))
    words = set(re.findall(r"[a-z]+|[.?:,]", texts)) | set(COLOURS) | set(SHAPES) | set(NUMBERS)
    words |= {plural(shape) for shape in SHAPES} | {str(n) for n in range(10)} | {":", ","}
    words |= {
        "user",
        "assistant",
        "yes",
        "no",
        "a",
        "an",
        "and",
        "the",
        "things",
        "left",
        "right",
        "above",
        "below",
        "of",
    }
    return [*SPECIAL, *sorted(words)]


def _wordings(module: Any) -> list[Any]:
    return [
        v for v in vars(module).values() if isinstance(v, tuple) and v and all(isinstance(w, str) for w in v)
    ]


def new_processor(shape: Shape) -> Any:
    """`LlavaProcessor` of a word tokenizer (lower case, words and marks) and SigLIP's resize to a square."""
    import tokenizers
    import transformers
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = {word: number for number, word in enumerate(vocabulary())}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Punctuation()]
    )
    inner.add_special_tokens(list(SPECIAL))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=512,
    )
    pictures = SiglipImageProcessorPil(
        size={"height": shape.side, "width": shape.side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return transformers.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def new_model(shape: Shape, processor: Any) -> Any:
    """A `LlavaForConditionalGeneration` with random weights."""
    import transformers

    tokenizer = processor.tokenizer
    vision = transformers.SiglipVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=2 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=4,
        image_size=shape.side,
        patch_size=shape.patch,
        vision_use_head=False,
    )
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=2 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=(shape.side // shape.patch) ** 2,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model
