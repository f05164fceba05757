"""Tiny real models built from configs with tokenizers in memory, and records built by hand from attention maps."""

import types

import numpy as np
import pytest
import xarray as xr

WORDS = "the a film plot is was great awful delight dull but and not very acting story thin . , ! capital of france paris".split()


def wordpiece(words=WORDS):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "##ful", "##ly", "##s", "wonder"]
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_level(texts):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def loaded(model, processor, task, name="tiny"):
    """The same attributes as probe.load gives."""
    return types.SimpleNamespace(
        model=model.eval(),
        processor=processor,
        name=name,
        task=task,
        source="folder",
        revision="0",
        license="none",
    )


@pytest.fixture(scope="session")
def classifier():
    """A random two-label BERT, large enough weights that its answer depends on the words."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.4,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    return loaded(BertForSequenceClassification(config), tokenizer, "text-classification")


@pytest.fixture(scope="session")
def language_model():
    """A random Llama with grouped keys."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level(
        ["the capital of france is paris", "the plot is thin but the acting is a delight"] * 5
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return loaded(LlamaForCausalLM(config), tokenizer, "text-generation")
