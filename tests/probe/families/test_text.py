"""Texts and tokens: nothing is cut silently, and the pieces of a text join to it."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import tiny

import probe
from probe import InputError
from probe.families.text import describe, encode

CPU = torch.device("cpu")
TEXTS = [
    "the film was a delight",
    "  The FILM , was\ta delight .\n",
    "a plot is  not a film",
    "naïve café – “film” 🦄🦄 the plot",
    "日本語 the film",
    "<|end|> the plot <|end|>",
]


def rows(prepared):
    tokens = prepared.tokens
    for n, text in enumerate(prepared.texts):
        yield text, tokens.isel(sample=n)


def assert_joins(prepared):
    for text, row in rows(prepared):
        keep = row["valid"].values & (row["start"].values >= 0)
        assert "".join(row["text"].values[keep].tolist()) == text
        for piece, start, end in zip(
            *(row[n].values[keep].tolist() for n in ("text", "start", "end")), strict=True
        ):
            assert text[start:end] == piece


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel"])
def test_pieces_join_to_the_text(kind, text, request):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    prepared = encode([text], tokenizer, None, CPU)
    assert_joins(prepared)
    assert prepared.inputs["input_ids"][0].tolist() == tokenizer(text)["input_ids"]


def test_roles_and_marks_of_a_template(wordpiece_tokenizer):
    row = encode(["The film [SEP] unheard"], wordpiece_tokenizer, None, CPU).tokens.isel(sample=0)
    assert row["text"].values.tolist() == ["[CLS]", "The", " film", " [SEP]", " unheard", "[SEP]"]
    assert row["role"].values.tolist() == ["special", "text", "text", "special", "text", "special"]
    assert row["start"].values.tolist() == [-1, 0, 3, 8, 14, -1]
    assert row["end"].values.tolist() == [-1, 3, 8, 14, 22, -1]


def test_a_batch_is_padded_on_the_tokenizers_side(wordpiece_tokenizer, bytelevel_tokenizer):
    texts = ["the film was a delight", "a plot"]
    right = encode(texts, wordpiece_tokenizer, None, CPU)
    assert right.tokens["role"].values[1].tolist()[-3:] == ["pad"] * 3
    assert right.valid[1].tolist() == [True] * 4 + [False] * 3
    assert right.inputs["input_ids"][1].tolist()[-3:] == [wordpiece_tokenizer.pad_token_id] * 3
    assert right.inputs["token_type_ids"].shape == right.inputs["input_ids"].shape
    left = encode(texts, bytelevel_tokenizer, None, CPU)
    assert left.valid[1].tolist() == sorted(left.valid[1].tolist())
    assert not left.valid[1, 0]
    assert_joins(left)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_text_is_refused(wordpiece_tokenizer, text):
    with pytest.raises(InputError, match="the text is empty"):
        encode([text], wordpiece_tokenizer, None, CPU)
    with pytest.raises(InputError, match="text 1 is empty"):
        encode(["film", text], wordpiece_tokenizer, None, CPU)


def test_a_text_of_unknown_characters_is_refused(wordpiece_tokenizer, bytelevel_tokenizer):
    with pytest.raises(InputError, match=r"holds nothing that the tokenizer knows .only '\[UNK\]'"):
        encode(["🦄 日本"], wordpiece_tokenizer, None, CPU)
    assert encode(["🦄 film"], wordpiece_tokenizer, None, CPU).texts == ["🦄 film"]
    assert encode(["🦄 日本"], bytelevel_tokenizer, None, CPU).valid.all()


def test_what_is_not_a_text_is_refused(wordpiece_tokenizer):
    with pytest.raises(InputError, match="text 1: got int, expected a str"):
        encode(["film", 3], wordpiece_tokenizer, None, CPU)


def test_a_text_that_is_too_long_is_refused_not_cut(loaded_decoder):
    with pytest.raises(
        InputError, match=r"the text has \d+ tokens \(100000 characters\), .* at most 256"
    ) as caught:
        probe.capture(loaded_decoder, "the film " * 11111 + "x")
    assert "\n" not in str(caught.value)
    tokenizer = loaded_decoder.processor
    before, tokenizer.model_max_length = tokenizer.model_max_length, 5
    with pytest.raises(InputError, match="at most 5"):
        probe.capture(loaded_decoder, "the film was a delight")
    tokenizer.model_max_length = before


def test_prepared_inputs_are_read_back(bytelevel_tokenizer):
    text = "naïve café – the film 🦄"
    ids = torch.tensor([bytelevel_tokenizer(text)["input_ids"]])
    prepared = describe({"input_ids": ids}, bytelevel_tokenizer)
    assert prepared.texts == [text]
    assert_joins(prepared)


def test_prepared_inputs_with_padding_and_marks(wordpiece_tokenizer):
    code = wordpiece_tokenizer(["The film", "a plot is not a film"], padding=True, return_tensors="pt")
    prepared = describe(code, wordpiece_tokenizer)
    assert_joins(prepared)
    assert prepared.tokens["role"].values[0].tolist()[:4] == ["special", "text", "text", "special"]
    assert prepared.tokens["role"].values[0].tolist()[4:] == ["pad"] * 4
    assert not prepared.valid[0, 4:].any()


def test_ids_without_a_tokenizer_read_as_numbers():
    prepared = describe({"input_ids": torch.tensor([[5, 7]]), "attention_mask": torch.tensor([[0, 1]])}, None)
    assert prepared.texts is None
    assert prepared.tokens["text"].values.tolist() == [["", "<7>"]]
    embedded = describe({"inputs_embeds": torch.zeros(1, 2, 3)}, None)
    assert embedded.tokens["text"].values.tolist() == [["<embedding>"] * 2]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "got nothing, expected input_ids"),
        ({"pixel_values": torch.zeros(1, 3, 4, 4)}, "got pixel_values, expected input_ids"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "not empty"),
        (
            {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 3)},
            r"got shape \[1, 3\], expected \[1, 2\]",
        ),
        ({"input_ids": torch.ones(1, 2), "attention_mask": torch.tensor([[1, 2]])}, "values besides 0 and 1"),
        ({"input_ids": torch.ones(1, 2), "attention_mask": torch.zeros(1, 2)}, "all padding"),
        ({"input_ids": torch.ones(1, 2), "past_key_values": ((1,),)}, "past_key_values is filled"),
    ],
)
def test_prepared_inputs_that_cannot_be_used_are_refused(inputs, said):
    with pytest.raises(InputError, match=said) as caught:
        describe(inputs, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inputs", [[], (), 5, None])
def test_other_inputs_are_refused(loaded_decoder, inputs):
    with pytest.raises(InputError, match="inputs: got"):
        probe.capture(loaded_decoder, inputs)


def test_a_text_needs_a_tokenizer():
    with pytest.raises(InputError, match="texts need a tokenizer"):
        probe.capture(tiny("llama"), "the film")


def test_a_tokenizer_of_another_model_is_refused(loaded_decoder):
    odd = dataclasses.replace(loaded_decoder, model=tiny("llama"))
    with pytest.raises(InputError, match="is this the model's own tokenizer"):
        probe.capture(odd, "the film was a delight")


def test_capture_of_texts_records_them(loaded_encoder):
    texts = ["The film was a delight .", "a plot"]
    tree = probe.capture(loaded_encoder, texts)
    assert tree["input/text"].values.tolist() == texts
    assert tree["tokens/text"].values[1].tolist() == ["[CLS]", "a", " plot", "[SEP]", "", "", "", ""]
    assert tree.attrs["model"] == "tiny"
    assert tree.attrs["model_source"] == "folder"
    assert tree.attrs["model_revision"] == "r1"
    assert "tokens" in tree["validity/name"].values
    np.testing.assert_array_equal(
        np.isnan(tree["text/entropy"].values[:, 0, 0]), ~tree["tokens/valid"].values
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt-scaled-queries"])
def test_texts_padded_on_the_left_count_positions_from_their_first_token(loaded_decoder, name):
    both = dataclasses.replace(loaded_decoder, model=tiny(name, vocab_size=300))
    texts = ["the film was a delight", "a plot"]
    together = probe.capture(both, texts)
    alone = probe.capture(both, texts[1])
    keep = together["tokens/valid"].values[1]
    for stat in ("entropy", "received"):
        got = together[f"text/{stat}"].values[1][..., keep]
        np.testing.assert_allclose(got, alone[f"text/{stat}"].values[0], rtol=2e-4, atol=2e-5)
