"""Every language says everything that English says; places and units of sentences; inputs of every kind."""

import string

import numpy as np
import pytest
from explainer_cases import byte_level, record, strip, uniform, wordpiece

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._saliency.tokens import tokenize
from probe.explainers._verbalize.grammar import grammars
from probe.explainers._verbalize.languages import languages

PIECES = ["The", " plot", " is", " thin", ".", " The", " acting", " is", " a", " delight", "!", " Go", "."]
SCORES = np.array([0, 0.1, 0, -0.9, 0, 0.1, 0.4, 0.1, 0.2, 2.0, 0.1, 0.05, 0])


def holes(template):
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize("code", sorted(languages()))
def test_a_language_has_all_sentences_with_the_same_places(code):
    english, other = languages()["en"], languages()[code]
    assert set(other.templates) == set(english.templates)
    for claim, template in english.templates.items():
        extra = holes(other.templates[claim]) ^ holes(template)
        assert not extra, claim
    assert set(other.cues) == {"first", "for", "against"}
    assert set(other.nouns) == set(english.nouns)
    assert (len(other.small), len(other.ordinals)) == (13, 13)


def test_german_is_german():
    text = ex.verbalize(strip(PIECES, SCORES), language="de")
    assert "Am stärksten für „positive“ spricht „delight“ (+2,00, 51 % der gesamten Zuschreibung)." in text
    assert "The " not in text.replace("„The", "")


@pytest.mark.parametrize("code", sorted(languages()))
def test_the_templates_pass_the_check_that_language_models_must(code):
    result = strip(PIECES, SCORES)
    checked = ex.fact_check(ex.verbalize(result, language=code), result, code)
    assert checked.unsupported == ()
    assert checked.quotation_precision == 1
    assert len(checked.claims) > 8


@pytest.mark.parametrize("code", sorted(languages()))
def test_head_tables_have_words_in_every_language(code):
    visible = np.tri(8, dtype=bool)
    trace = record(np.broadcast_to(uniform(visible), (1, 2, 3, 8, 8)), visible[None, None].repeat(2, 1))
    for explainer in (ex.sinks, ex.entropy):
        assert ex.verbalization(explainer(trace), language=code).sizes["statement"] >= 2


def test_a_sentence_says_where_it_points():
    result = strip(PIECES, SCORES)
    found = ex.verbalization(result)
    at = found["claim"].values.tolist().index("top_word")
    start, end = int(found["start"].values[at]), int(found["end"].values[at])
    assert result.attrs["input"][start:end] == "delight"
    assert int(found["rank"].values[at]) == 1
    assert int(found["sign"].values[at]) == 1
    assert float(found["coverage"].values[at]) == pytest.approx(2.0 / 3.05)
    against = found["claim"].values.tolist().index("against")
    assert int(found["sign"].values[against]) == -1


def test_units():
    result = strip(PIECES, SCORES)
    by_sentence = ex.verbalize(result, unit="sentence")
    assert (
        "The sentence “The acting is a delight!” carries 95% of all that speaks for “positive”."
        in by_sentence
    )
    assert "strongly" not in by_sentence
    assert "phrase" not in ex.verbalize(result, unit="word")
    assert "strongly" not in ex.verbalize(result, unit="phrase")
    assert "The sentence" not in ex.verbalize(result)


def test_a_long_text_names_its_strongest_sentence_by_itself():
    pieces = [f" w{i}" + ("." if i % 10 == 9 else "") for i in range(80)]
    scores = np.full(80, 0.01)
    scores[[31, 34, 37]] = 1.0
    assert "The sentence “w30 w31" in ex.verbalize(strip(pieces, scores))


def test_phrases_against_the_target_are_named():
    scores = np.array([0.1, 0.1, -1, -1.2, -0.9, 0, 0.5, 0, 0, 0.3])
    text = ex.verbalize(strip([f" w{i}" for i in range(10)], scores))
    assert "The phrase “w2 w3 w4” (3 words) carries 100% of all that speaks against “positive”." in text


def sentencepiece():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    core.train_from_iterator(["the plot is thin but the acting is a delight"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


TEXTS = [
    "The plot  is thin,\n\nbut the acting is a delight!",
    "good 👩‍👩‍👧‍👦 film 🙂 the plot",
    "هذا الفيلم رائع the plot is good",
    "if (the < plot) { return 'thin'; }  # a film",
    "<b>the film</b> &amp; <script>alert(1)</script> is good",
    "日本 the 語 plot",
    " the plot ",
]


@pytest.mark.parametrize("make", [wordpiece, byte_level, sentencepiece])
@pytest.mark.parametrize("text", TEXTS)
def test_every_family_of_tokenizers_is_joined_back_to_the_exact_text(make, text):
    import torch

    tokens = tokenize(make(), text, {"input_ids"}, torch.device("cpu"))
    inside = [i for i, role in enumerate(tokens.roles) if role == "text"]
    pieces = [tokens.pieces[i] for i in inside]
    assert "".join(pieces) == text
    scores = np.linspace(-1, 2, len(pieces)) ** 3
    result = strip(pieces, scores)
    found = ex.verbalization(result)
    for start, end, claim in zip(
        found["start"].values, found["end"].values, found["claim"].values, strict=True
    ):
        quote = text[start:end]
        assert start == end == -1 or (quote and quote.strip() in (quote, "")), claim
    checked = ex.fact_check(ex.verbalize(result), result)
    assert checked.unsupported == ()


@pytest.mark.slow
def test_a_hundred_thousand_tokens_are_put_into_words():
    rng = np.random.default_rng(0)
    pieces = [f" w{i % 5000}" for i in range(100_000)]
    scores = rng.normal(size=100_000)
    scores[77_777] = 1e5
    found = ex.verbalization(strip(pieces, scores))
    assert "w2777” (+100000.00" in found["text"].values[1]


def test_a_grammar_of_one_argument_knows_english_only(monkeypatch):
    from probe.explainers._verbalize.statement import Statement

    monkeypatch.setitem(grammars(), "saliency", lambda data: [Statement("a", "One.", 1.0)])
    assert ex.verbalize(strip(["a"], [1.0])) == "One."
    with pytest.raises(InputError, match="English words only"):
        ex.verbalize(strip(["a"], [1.0]), language="de")
    with pytest.raises(InputError, match="no option unit"):
        ex.verbalize(strip(["a"], [1.0]), unit="word")
