import hashlib
import os
import subprocess
import sys
import time

import pytest
import torch

import probe
from probe import ModelError
from probe.models import catalog

SENTENCE = (
    "the a film plot is was great awful delight dull but and not very acting story thin . ! capital of paris"
)
WORDS = SENTENCE.split()


def tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


def small_bert(kind="BertForSequenceClassification"):
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    return getattr(transformers, kind)(config).eval()


@pytest.fixture
def folder(tmp_path):
    small_bert().save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def refused(name, **options):
    with pytest.raises(ModelError) as caught:
        probe.load(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message, f"more than one line: {message!r}"
    return message


def test_zoo_model_is_ready_to_use():
    loaded = probe.load("sentiment", device="cpu")
    assert (loaded.source, loaded.task, loaded.license) == ("zoo", "text-classification", "Apache-2.0")
    assert type(loaded.model).__name__ == "BertForSequenceClassification"
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert all(p.requires_grad for p in loaded.model.parameters())
    batch = loaded.processor(
        ["a delight", "what a terrible , endless bore"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        chance = loaded.model(**batch).logits.softmax(-1)
    assert chance[0, 1] > 0.8
    assert chance[1, 0] > 0.8


def test_folder_gives_the_saved_model(folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# a model\n")
    loaded = probe.load(str(folder), device="cpu")
    batch = loaded.processor("the plot is thin but the acting is a delight .", return_tensors="pt")
    original = small_bert()
    torch.testing.assert_close(loaded.model.state_dict(), original.state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**batch).logits, original(**batch).logits)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert loaded.revision == f"sha256:{digest[:12]}"
    assert (loaded.source, loaded.license, loaded.name) == ("folder", "mit", str(folder))


def test_language_model_and_encoders_get_their_task(tmp_path):
    import transformers

    config = transformers.GPT2Config(vocab_size=27, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "lm")
    words = tokenizer()
    words.pad_token, words.eos_token = None, "."
    words.save_pretrained(tmp_path / "lm")
    language = probe.load(str(tmp_path / "lm"))
    assert language.task == "text-generation"
    assert language.processor.pad_token == "."
    small_bert("BertForMaskedLM").save_pretrained(tmp_path / "mlm")
    tokenizer().save_pretrained(tmp_path / "mlm")
    encoder = probe.load(str(tmp_path / "mlm"))
    assert encoder.task == "text-encoding"
    assert encoder.model.pooler is None, "a pooler that the files do not hold would be random"


def test_dtype_and_device(folder):
    assert probe.load(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16
    assert probe.load(str(folder), dtype=torch.float16, device="cpu").model.dtype == torch.float16
    assert "int8" in refused(folder, dtype="int8")
    assert "nonsense" in refused(folder, dtype="nonsense")
    assert "warp" in refused(folder, device="warp")
    if not torch.cuda.is_available():
        assert "'cuda'" in refused(folder, device="cuda")


def test_unknown_names_say_what_there_is(tmp_path):
    assert "did you mean sentiment" in refused("sentimnet")
    message = refused("qqqq")
    assert "did you mean" not in message
    assert "sentiment" in message
    assert "no folder ./nothing/here" in refused("./nothing/here")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(tmp_path / "file")
    assert "without config.json" in refused(tmp_path)


def test_nan_and_infinite_weights_name_the_tensor(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    key = "bert.encoder.layer.1.output.dense.weight"
    for bad in (float("nan"), float("-inf")):
        weights[key][3, 5] = bad
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        message = refused(folder)
        assert f"1 of {weights[key].numel()} values of {key}" in message


def test_damaged_files_give_one_line(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a model" * 10):
        (folder / "model.safetensors").write_bytes(damaged)
        assert "cannot be loaded" in refused(folder)
    (folder / "model.safetensors").write_bytes(whole)
    assert probe.load(str(folder)).task == "text-classification"
    (folder / "tokenizer.json").write_text("{broken")
    assert "tokenizer" in refused(folder)
    (folder / "config.json").write_text("{broken")
    assert "cannot be loaded" in refused(folder)


def test_weights_that_lack_are_not_made_up(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "classifier.weight" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "cannot be loaded" in refused(folder)


def test_models_of_other_kinds_are_refused(tmp_path):
    import transformers

    config = transformers.T5Config(vocab_size=30, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    assert "T5ForConditionalGeneration" in refused(tmp_path / "t5")


def test_transformers_is_as_noisy_afterwards_as_before(folder):
    from transformers.utils import logging

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        probe.load(str(folder))
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        (folder / "model.safetensors").write_bytes(b"")
        refused(folder)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        refused(folder)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
        logging.enable_progress_bar()


def test_loading_is_silent(folder, capfd):
    probe.load(str(folder))
    probe.load("sentiment")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "forbids the network"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be fetched"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://no-such-host.invalid"}, "cannot be fetched"),
    ],
)
def test_hub_id_without_network_is_one_clear_line(settings, said, tmp_path):
    code = "import probe, sys\ntry: probe.load('owner/model')\nexcept probe.ModelError as e: print(e)"
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"} | settings
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "owner/model" in done.stdout
    assert "sentiment" in done.stdout
    assert done.stdout.count("\n") == 1
    assert time.monotonic() - start < 60


def test_hub_id_in_the_cache_needs_no_network(folder, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "hub" / "models--owner--model"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    folder.rename(repository / "snapshots" / commit)
    code = "import probe; m = probe.load('owner/model'); print(m.source, m.revision, m.task)"
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["hub", commit, "text-classification"], done.stderr


def test_the_list_of_models_is_fast_and_loads_no_torch(tmp_path, monkeypatch):
    code = (
        "import sys; from probe.models import catalog; catalog.list_models(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path))
    cards = {c.name: c for c in catalog.list_models()}
    assert {"sentiment", "smollm2", "minilm", "efficientnet-lite0"} <= set(cards)
    assert cards["sentiment"].installed
    assert not cards["smollm2"].installed
    assert "probe models install smollm2" in cards["smollm2"].note
    assert "probe models install smollm2" in refused("smollm2")
