"""A Llama in GGUF (llama.cpp's file of quantized weights) written as a transformers folder in float32.

Dequantization is bit-exact: scale × integer + offset of 4- and 8-bit blocks in float32, as llama.cpp computes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ModelError
from probe.models.catalog import Progress

if TYPE_CHECKING:
    import numpy as np

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_folder(path: Path, folder: Path, progress: Progress) -> None:
    """Write config, tokenizer, chat template and weights of the GGUF file `path` into `folder`.

    Raises:
        ModelError: The file is damaged, no Llama, or cut into words in a way that we do not know.
    """
    from gguf import GGUFReader

    progress(f"reading {path.name}")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{path.name} is no readable GGUF file: {error}") from error
    if fields.get("general.architecture") != "llama":
        raise ModelError(
            f"{path.name} holds a {fields.get('general.architecture')!r}; only 'llama' can be converted"
        )
    tied = all(t.name != "output.weight" for t in reader.tensors)
    try:
        config = _config(fields, tied)
        _write_tokenizer(fields, folder)
    except KeyError as error:
        raise ModelError(f"{path.name} lacks the metadata {error}; it cannot be converted") from error
    _write_weights(reader, config, folder, progress)
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")


def _config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    """What transformers' LlamaConfig needs, from the file's metadata."""
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": float(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """The byte-level BPE of the file; "smollm" splits digits one by one first, as in llama.cpp."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ModelError(f"tokenizer of kind {kind} cannot be converted; expected ('gpt2', 'smollm')")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    control = [
        t for t, kind_of in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind_of == 3
    ]
    inner.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    inner.save(str(folder / "tokenizer.json"))
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    settings: dict[str, Any] = {
        f"{ours}_token": tokens[fields[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in names.items()
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings["model_max_length"] = fields["llama.context_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")
    if template := fields.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, "utf-8")


def _write_weights(reader: Any, config: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Every tensor in float32, rows of q and k in transformers' order, under transformers' names."""
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    weights: dict[str, np.ndarray] = {}
    for i, tensor in enumerate(reader.tensors):
        value = dequantize(tensor.data, tensor.tensor_type)
        stem = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if stem in ("attn_q", "attn_k"):
            value = _unpermute(
                value, config["num_attention_heads" if stem == "attn_q" else "num_key_value_heads"]
            )
        weights[_rename(tensor.name)] = value
        if i % 34 == 0:
            progress(f"unpacking weights: {100 * i // len(reader.tensors)} %")
    progress("writing float32 weights")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _rename(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _INSIDE or parts[3] != "weight":
        raise ModelError(f"tensor {name!r} has no place in a Llama; the file cannot be converted")
    return f"model.layers.{parts[1]}.{_INSIDE[parts[2]]}.weight"


def _unpermute(value: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order of rotary rows, (pair, half) within each head, back to (half, pair)."""
    import numpy

    rows, columns = value.shape
    split = value.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)
    return numpy.ascontiguousarray(split.reshape(rows, columns))
