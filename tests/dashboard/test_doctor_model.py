"""`probe doctor --model`: on folders of tiny models, without weights; with weights under --try."""

import json

import pytest
import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Mistral with windows, and a tokenizer that is enough to load it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("models") / "windowed"
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    MistralForCausalLM(MistralConfig(**sizes, vocab_size=60, sliding_window=5)).save_pretrained(place)
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(60)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", eos_token="w2").save_pretrained(place)
    return place


@pytest.fixture
def without_weights(folder, tmp_path):
    place = tmp_path / "bare"
    place.mkdir()
    (place / "config.json").write_text((folder / "config.json").read_text())
    return place


def test_a_model_is_surveyed_from_its_config_alone(probe, without_weights):
    ended = probe("doctor", "--model", without_weights)
    assert ended.code == 0, ended
    lines = ended.out.replace("\n", " ")
    assert "MistralForCausalLM" in lines
    assert "(3)" in lines
    assert "4 heads over 2 of keys; causal, window 5" in lines
    assert "masks of long inputs: row by row" in lines
    assert "--try proves it" in lines


def test_json_has_a_row_for_each_module(probe, without_weights):
    ended = probe("doctor", "--model", without_weights, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert [row["module"] for row in found["rows"]] == [f"model.layers.{i}.self_attn" for i in range(3)]
    assert found["towers"] == ["text"]
    assert found["usable"]
    assert found["rows"][0]["heads"] == [4, 2]
    assert not found["tried"]


def test_try_loads_and_runs_it(probe, folder):
    ended = probe("doctor", "--model", folder, "--try", "--json")
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    assert found["tried"]
    assert {row["verdict"] for row in found["rows"]} == {"exact"}
    assert "proven on one tiny input" in probe("doctor", "--model", folder, "--try").out


def saved(config, place):
    config.save_pretrained(place)
    return place


def test_a_model_without_softmax_attention_ends_with_one(probe, tmp_path):
    from transformers import MambaConfig

    config = MambaConfig(
        hidden_size=16, num_hidden_layers=2, vocab_size=60, state_size=4, architectures=["MambaForCausalLM"]
    )
    ended = probe("doctor", "--model", saved(config, tmp_path / "mamba"))
    assert ended.code == 1
    assert "no map" in ended.out
    assert "no softmax" in ended.out


def test_a_network_of_convolutions_is_no_failure(probe, tmp_path):
    from transformers import ResNetConfig

    config = ResNetConfig(
        hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8, architectures=["ResNetForImageClassification"]
    )
    ended = probe("doctor", "--model", saved(config, tmp_path / "cnn"))
    assert ended.code == 0
    assert "no attention module is in it" in ended.out


def test_quantised_weights_are_mentioned(probe, without_weights):
    path = without_weights / "config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
        )
    )
    assert "quantised (gptq)" in probe("doctor", "--model", without_weights).out


def test_what_cannot_be_looked_at_is_said_in_one_line(fails, tmp_path):
    from transformers import LlamaConfig

    assert "no model named 'nosuch'" in fails("doctor", "--model", "nosuch")
    assert "expected --model NAME" in fails("doctor", "--try")
    strange = saved(LlamaConfig(architectures=["OwnForCausalLM"]), tmp_path / "strange")
    assert "is a OwnForCausalLM, which this transformers" in fails("doctor", "--model", strange)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    assert "its config cannot be read" in fails("doctor", "--model", broken)
    without = saved(LlamaConfig(architectures=["LlamaForCausalLM"], vocab_size=60), tmp_path / "without")
    assert "cannot be loaded" in fails("doctor", "--model", without, "--try")


def test_a_hub_id_without_network(fails, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "owner/model is not in the hub's cache" in fails("doctor", "--model", "owner/model")
