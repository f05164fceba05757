"""The embedded sentiment model does what its card says, and the scripts that made it do what they say."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import probe
from probe import InputError
from probe.zoo.sentiment import augment, data, measure, ship, train, vocabulary

HOME = Path(probe.__file__).parent / "zoo" / "sentiment"
RATED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "vader-human-ratings"
needs_ratings = pytest.mark.skipif(not RATED.is_dir(), reason="needs the rated sentences beside the checkout")

POSITIVE = (
    "A joy from start to finish.",
    "I loved every minute of it.",
    "The acting is superb and the story is touching.",
    "This phone is excellent and the battery lasts for days.",
    "What a wonderful, funny film!",
    "An inspiring and beautiful picture.",
    "Great value, I highly recommend it.",
    "I am so happy today!",
    "A brilliant performance by the whole cast.",
    "It works perfectly and looks great.",
    "A charming, clever comedy.",
    "We had a fantastic evening with good friends.",
)
NEGATIVE = (
    "A dull and pointless mess.",
    "I hated every minute of it.",
    "The acting is awful and the story is boring.",
    "This phone is terrible and broke after a week.",
    "What a waste of time and money.",
    "A tedious, badly written film.",
    "Poor quality, I want a refund.",
    "I am so sad and angry today.",
    "The plot is thin and the jokes are stupid.",
    "It stopped working and support was useless.",
    "An ugly, lifeless sequel.",
    "We had a horrible evening and went home sick.",
)


@pytest.fixture(scope="module")
def loaded():
    return probe.load("sentiment", device="cpu")


def odds(loaded, texts):
    batch = loaded.processor(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**batch).logits
    return logits[:, 1] - logits[:, 0]


def test_plain_sentences_are_told_apart(loaded):
    right = int((odds(loaded, POSITIVE) > 0).sum() + (odds(loaded, NEGATIVE) < 0).sum())
    assert right >= 23, f"{right} of 24"


def test_it_is_small_and_its_attention_can_be_captured(loaded):
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    assert (
        sum((HOME / n).stat().st_size for n in names)
        == json.loads((HOME / "figures.json").read_text())["bytes"]
        < 8e6
    )
    assert loaded.model.config.id2label == {0: "negative", 1: "positive"}
    text = loaded.processor("a delight, from start to finish", return_tensors="pt")
    with torch.no_grad():
        loaded.model.set_attn_implementation("eager")
        attentions = loaded.model(**text, output_attentions=True).attentions
        loaded.model.set_attn_implementation("sdpa")
    assert [tuple(a.shape[:2]) for a in attentions] == [(1, 6)] * 4


def test_long_odd_and_padded_texts(loaded):
    long = loaded.processor("a delight . " * 300, truncation=True, return_tensors="pt")
    assert long.input_ids.shape == (1, 512)
    with torch.no_grad():
        assert loaded.model(**long).logits.isfinite().all()
    alone, beside = odds(loaded, ["a delight"]), odds(loaded, ["a delight", "long " * 60])[:1]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)
    pieces = loaded.processor.tokenize("Zyxwvu, naïve & 100% — “odd”?")
    assert "[UNK]" not in pieces


@needs_ratings
def test_the_card_states_the_held_out_figures(loaded):
    stated = json.loads((HOME / "figures.json").read_text())["figures"]["test"]
    sentences = data.split(data.read(RATED))["test"]
    found = measure.report(sentences, train.judge(loaded.model, loaded.processor, sentences))
    for domain, figures in stated.items():
        p, n = figures["accuracy"], figures["n"]
        assert found[domain]["n"] == n
        assert abs(found[domain]["accuracy"] - p) <= 1.96 * math.sqrt(p * (1 - p) / n)
        assert abs(found[domain]["accuracy"] - p) < 0.005, "the same weights on the same sentences"
        assert abs(found[domain]["ece"] - figures["ece"]) < 0.01
    assert stated["movie"]["accuracy"] >= 0.80
    card = (HOME / "README.md").read_text()
    for domain in stated:
        assert f"{100 * stated[domain]['accuracy']:.1f} %" in card


@needs_ratings
def test_no_document_or_near_copy_stands_on_both_sides():
    parts = data.split(data.read(RATED))
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not {s.document for s in parts[one]} & {s.document for s in parts[other]}
        assert not {tuple(data.words(s.text)) for s in parts[one]} & {
            tuple(data.words(s.text)) for s in parts[other]
        }
    assert sum(s.domain == "movie" and s.clear for s in parts["test"]) >= 1000


def test_near_copies_share_a_cluster():
    texts = ["one two three four five six", "one two three four five seven", "eight nine ten eleven twelve"]
    sentences = [data.Sentence(t, 1.0, "movie", f"movie:{i}") for i, t in enumerate(texts)]
    names = data.clusters(sentences)
    assert names[0] == names[1] != names[2]


def test_missing_or_malformed_ratings(tmp_path):
    with pytest.raises(InputError, match="movieReviewSnippets"):
        data.read(tmp_path)
    (tmp_path / data.FILES["movie"]).write_text("1\t2.0\n")
    with pytest.raises(InputError, match="separated by tabs"):
        data.read(tmp_path)


def test_calibration_error_by_hand():
    logits = torch.tensor([0.8, 0.8, 0.8, 0.8, 0.9]).double().logit()
    positive = torch.tensor([True, True, True, False, True])
    # bins 0.80-0.85: 4 with accuracy 0.75 at 0.8; 0.90-0.95: 1 with accuracy 1 at 0.9
    assert measure.calibration_error(logits + 1e-9, positive) == pytest.approx((4 * 0.05 + 0.1) / 5, abs=1e-6)


def test_temperature_is_recovered():
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, generator=generator, dtype=torch.float64) * 2
    positive = torch.rand(20_000, generator=generator, dtype=torch.float64) < honest.sigmoid()
    assert measure.fit_temperature(2.5 * honest, positive) == pytest.approx(2.5, rel=0.05)


def test_folding_a_temperature_divides_the_logits(loaded):
    import copy

    model = copy.deepcopy(loaded.model)
    ship.fold_temperature(model, 2.0)
    text = loaded.processor("a delight", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**text).logits * 2, loaded.model(**text).logits)


def test_new_texts_depend_on_nothing_but_the_seed():
    torch.manual_seed(0)
    table = torch.randn(20, 8)
    words = {f"word{chr(97 + i)}": i for i in range(20)}
    near = augment.neighbours(table, words, 3)
    again = augment.neighbours(table, dict(reversed(words.items())), 3)
    assert list(near.items()) == list(again.items()), "not on the vocabulary's order"
    sentences = [data.Sentence("a worda , and wordb !", 1.0, d, f"{d}:0") for d in data.FILES]
    store = augment.stock(sentences, near)
    first = augment.texts(store, 45_000, 3, 1)
    assert first == augment.texts(store, 45_000, 3, 2)
    assert first != augment.texts(store, 45_000, 4, 1)
    assert len(set(first)) == len(first)


def test_narrowing_keeps_the_main_directions():
    torch.manual_seed(0)
    table = torch.randn(500, 3) @ torch.randn(3, 40)
    narrowed = vocabulary.narrow(table, 3)
    assert narrowed.std() == pytest.approx(0.04, rel=1e-3)
    one, other = torch.cdist(table, table), torch.cdist(narrowed, narrowed)
    assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.999


@pytest.mark.slow
def test_the_training_script_runs_end_to_end(tmp_path):
    """From rated sentences and an encoder to a folder that loads; both tiny."""
    import transformers

    for i, (domain, name) in enumerate(data.FILES.items()):
        lines = [
            f"{j}_{i}\t{2.0 if j % 2 else -2.0}\tthis {domain} thing number {j} is {'good' if j % 2 else 'bad'}"
            for j in range(60)
        ]
        (tmp_path / name).write_text("\n".join(lines))
    pieces = [
        *vocabulary.SPECIAL,
        *"abcdefghijklmnopqrstuvwxyz0123456789",
        "this",
        "thing",
        "number",
        "good",
        "bad",
    ]
    pieces += [f"filler{chr(97 + i)}" for i in range(20)]
    pieces += [f"unused{i}" for i in range(110 - len(pieces))]
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "base")
    vocabulary.build_tokenizer(pieces, 512).save_pretrained(tmp_path / "base")
    paths = [
        "--data",
        tmp_path,
        "--base",
        tmp_path / "base",
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "out",
    ]
    sizes = [
        "--width",
        16,
        "--heads",
        2,
        "--layers",
        1,
        "--pool",
        300,
        "--teachers",
        1,
        "--epochs",
        1,
        "--batch",
        32,
    ]
    command = [
        sys.executable,
        "-m",
        "probe.zoo.sentiment.train",
        *map(str, [*paths, *sizes]),
        "--device",
        "cpu",
        "--test",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]) == {"dev", "test"}
    assert probe.load(str(tmp_path / "out")).task == "text-classification"
