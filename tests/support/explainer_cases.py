"""Tiny real models from configs with tokenizers in memory; records and strips from numbers, by hand."""

import functools
import types

import numpy as np
import xarray as xr

from probe.record import strings

VOCABULARY = (
    "the a film plot is was great awful delight dull but and not very acting story thin . , ! "
    "capital of france paris we it so good bad long short warm cold real cast scene ending hope"
)


def wordpiece():
    """A lower-casing WordPiece tokenizer with [CLS], [SEP], [MASK]; "wonderful" is two pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *VOCABULARY.split(),
        "##ful",
        "##ly",
        "##s",
        "wonder",
    ]
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **{f"{k}_token": v for k, v in names.items()})


def byte_level():
    """A byte-level BPE tokenizer without special tokens at the ends and without a mask token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    texts = ["the capital of france is paris", "the plot is thin but the acting is a delight"]
    core.train_from_iterator(texts * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def loaded(model, processor, task):
    """The same attributes as `probe.load` gives."""
    return types.SimpleNamespace(
        model=model.eval(),
        processor=processor,
        name="tiny",
        task=task,
        source="folder",
        revision="0",
        license="none",
    )


@functools.cache
def classifier(labels=2):
    """A random BERT whose weights are large enough for its answer to depend on the words."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = wordpiece()
    names = ("negative", "positive", "neutral")[:labels]
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.4,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    return loaded(model, tokenizer, "text-classification")


@functools.cache
def language_model():
    """A random Llama with grouped keys."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level()
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
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return loaded(model, tokenizer, "text-generation")


@functools.cache
def planted_classifier(word="delight", strength=8.0):
    """A classifier whose log-odds are −4 + strength × (how often the word stands there): known truth.

    It has no argument for embeddings, as many models of users' own: they are replaced at the embedding layer.
    """
    import torch
    from torch import nn

    tokenizer = wordpiece()
    size = len(tokenizer)

    class Planted(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding.from_pretrained(torch.eye(size), freeze=False)
            self.read = nn.Linear(size, 2)
            with torch.no_grad():
                self.read.weight.zero_()
                self.read.weight[1, tokenizer.convert_tokens_to_ids(word)] = strength
                self.read.bias.copy_(torch.tensor([0.0, -4.0]))
            self.config = types.SimpleNamespace(
                id2label={0: "negative", 1: "positive"}, max_position_embeddings=128
            )

        def get_input_embeddings(self):
            return self.embed

        def forward(self, input_ids, attention_mask):
            summed = (self.embed(input_ids) * attention_mask[..., None]).sum(1)
            return types.SimpleNamespace(logits=self.read(summed))

    return loaded(Planted(), tokenizer, "text-classification")


def causal(size):
    """Who sees whom: [Q, K] bool."""
    return np.tri(size, dtype=bool)


def uniform(visible):
    """The map that spreads each query's attention evenly over what it sees."""
    return visible / np.maximum(visible.sum(-1, keepdims=True), 1)


def record(maps, visible, texts=None):
    """A record from whole maps.

    Args:
        maps: [S, L, H, Q, K], rows of valid queries sum to 1.
        visible: [S, L, Q, K] bool, False in rows and columns of padding.
        texts: [S, K] token texts.
    """
    maps, visible = np.asarray(maps, dtype=np.float64), np.asarray(visible)
    _, layers, heads, queries, keys = maps.shape
    keys_seen, seen_by = visible.sum(-1).astype(np.int32), visible.sum(-2).astype(np.int32)
    logs = np.log(maps, out=np.zeros_like(maps), where=maps > 0)
    entropy = np.where(keys_seen[:, :, None] > 0, -(maps * logs).sum(-1), np.nan)
    received = np.where(seen_by[:, :, None] > 0, maps.sum(-2), np.nan)
    text = xr.Dataset(
        {
            "entropy": (("sample", "layer", "head", "query"), entropy.astype(np.float32)),
            "received": (("sample", "layer", "head", "key"), received.astype(np.float32)),
            "keys_seen": (("sample", "layer", "query"), keys_seen),
            "seen_by": (("sample", "layer", "key"), seen_by),
        },
        coords={
            "layer": np.arange(layers),
            "module": ("layer", strings([f"layers.{i}" for i in range(layers)])),
            "head": np.arange(heads),
            "query": np.arange(queries),
            "key": np.arange(keys),
        },
    )
    groups = {"/": xr.Dataset(attrs={"schema": 1, "model": "by hand"}), "/text": text}
    if texts is not None:
        groups["/tokens"] = xr.Dataset({"text": (("sample", "token"), strings(texts))})
    return xr.DataTree.from_dict(groups)


def strip(pieces, scores, roles=None, **attrs):
    """A token strip as `ex.saliency` makes it."""
    roles = roles or ["text"] * len(pieces)
    ends = np.cumsum([len(p) if r == "text" else 0 for p, r in zip(pieces, roles, strict=True)])
    starts = ends - [len(p) for p in pieces]
    edges = [np.where(np.array(roles) == "text", edge, -1).astype(np.int32) for edge in (starts, ends)]
    coords = {"text": strings(pieces), "role": strings(roles), "start": edges[0], "end": edges[1]}
    return xr.Dataset(
        {"score": ("token", np.asarray(scores, dtype=np.float64))},
        coords={name: ("token", values) for name, values in coords.items()},
        attrs={
            "kind": "token_strip",
            "explainer": "saliency",
            "title": "Token saliency",
            "parameters": "{}",
            "references": ["none"],
            "unit": "nat",
            "value": "score",
            "model": "by hand",
            "method": "occlusion",
            "signed": True,
            "target": "positive",
            "target_probability": 0.9,
            "input": "".join(p for p, r in zip(pieces, roles, strict=True) if r == "text"),
        }
        | attrs,
    )


def snapshot(model):
    """All that an explainer must leave as it was: weights, flags, gradients, hooks, modes."""
    return {
        "weights": [p.detach().clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "attributes": [sorted(m.__dict__) for m in model.modules()],
    }


def same_state(before, after):
    """Whether two snapshots agree, weights bit by bit."""
    import torch

    for name in before:
        for x, y in zip(before[name], after[name], strict=True):
            equal = (
                torch.equal(x, y)
                if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
                else x is y or x == y
            )
            if not equal:
                return False
    return True
