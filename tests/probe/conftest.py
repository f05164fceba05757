"""Tiny tokenizers and loaded models, built offline."""

import pytest
import torch

CORPUS = [
    "the film was a delight , and the acting is thin .",
    "a plot is not a film",
    "the capital of france is paris",
]


@pytest.fixture(autouse=True)
def one_thread():
    """Two cores are shared with others; the models are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wordpiece():
    """A lower-casing word tokenizer with [CLS] and [SEP], like BERT's."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for line in CORPUS for word in line.split()})
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, "##s", "##ed"])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bytelevel():
    """A byte-level BPE tokenizer whose one special token plays every part, as SmolLM2's; pads on the left."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|end|>",
        eos_token="<|end|>",
        unk_token="<|end|>",
        padding_side="left",
    )


@pytest.fixture(scope="session")
def wordpiece_tokenizer():
    return wordpiece()


@pytest.fixture(scope="session")
def bytelevel_tokenizer():
    return bytelevel()


def loaded(model, tokenizer, task="text-generation"):
    """A model and its tokenizer as `probe.load` gives them."""
    from probe.models.load import LoadedModel

    return LoadedModel(
        model=model,
        processor=tokenizer,
        name="tiny",
        source="folder",
        revision="r1",
        task=task,
        license="none",
    )


@pytest.fixture(scope="session")
def loaded_decoder(bytelevel_tokenizer):
    from tiny_models import tiny

    return loaded(tiny("llama", vocab_size=300), bytelevel_tokenizer)


@pytest.fixture(scope="session")
def loaded_encoder(wordpiece_tokenizer):
    from tiny_models import tiny

    return loaded(tiny("bert"), wordpiece_tokenizer, "text-encoding")
