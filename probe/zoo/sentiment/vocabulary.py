"""The student's word pieces: the part of MiniLM's vocabulary that rated sentences use, its embeddings narrowed.

Keeping MiniLM's pieces lets the student start from what that model (all-MiniLM-L6-v2, Apache-2.0) knows of each.
"""

import string
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from probe.zoo.sentiment.data import Sentence

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DOMAIN_WEIGHT = {"movie": 3.0, "amazon": 2.0, "tweets": 1.5, "nyt": 1.0}


def choose_pieces(sentences: Iterable[Sentence], tokenizer: Any, size: int) -> list[str]:
    """The `size` pieces that the sentences need most, special ones first.

    Args:
        sentences: Training sentences; each piece counts with the weight of its domain.
        tokenizer: MiniLM's `tokenizers.Tokenizer`, without padding and truncation.
        size: How many pieces, the special ones and every single letter, digit and sign counted in.
    """
    counts: dict[str, float] = defaultdict(float)
    for sentence in sentences:
        for piece in tokenizer.encode(sentence.text, add_special_tokens=False).tokens:
            counts[piece] += DOMAIN_WEIGHT[sentence.domain]
    known = tokenizer.get_vocab()
    single = [*string.ascii_lowercase, *string.digits, *string.punctuation, *"’‘“”–—…£€é"]
    always = [p for c in single for p in (c, f"##{c}") if p in known]
    ranked = sorted((p for p in counts if p not in SPECIAL), key=lambda p: (-counts[p], known[p]))
    return list(dict.fromkeys([*SPECIAL, *always, *ranked]))[:size]


def build_tokenizer(pieces: list[str], length: int) -> Any:
    """A fast lower-casing WordPiece tokenizer over these pieces, wrapped for transformers: [CLS] text [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **{f"{piece[1:-1].lower()}_token": piece for piece in SPECIAL},
    )


def narrow(table: torch.Tensor, width: int, std: float = 0.04) -> torch.Tensor:
    """Principal components of a table, [pieces, wide] -> [pieces, width], scaled to a standard deviation."""
    centred = table.double() - table.double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    narrowed = centred @ directions[:width].T
    scaled: torch.Tensor = narrowed * (std / narrowed.std())
    return scaled.float()
