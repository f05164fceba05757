"""Relevance through transformers: AttnLRP against a modified gradient, and conservation on library models."""

import lrp_transformer as own
import pytest
import torch
from torch import nn

from probe.explainers._lrp import relevance_of
from probe.explainers._lrp.attention import Attention, Softmax

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IDS = torch.tensor([[7, 21, 35, 8, 90, 13, 44, 60, 5]])


def model_of(name, attention="sdpa"):
    import transformers as t

    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 99, "attn_implementation": attention}
    small_gpt = {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 99,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    makers = {
        "vit": lambda: t.ViTForImageClassification(
            t.ViTConfig(**SMALL, image_size=16, patch_size=4, attn_implementation=attention, num_labels=3)
        ),
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**text, num_labels=3)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**text, num_key_value_heads=2)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**text, num_key_value_heads=2, head_dim=8)),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**text, num_key_value_heads=2, head_dim=8)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**small_gpt, attn_implementation=attention)),
    }
    model = makers[name]().double().eval()
    for parameter in model.parameters():  # biases and position embeddings that matter
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model, torch.randn(1, 3, 16, 16).double() if name == "vit" else IDS


def rounding(found, precision):
    held = found.conservation
    moved = found.relevance.abs().sum().item() + abs(held.output) + abs(held.biases) + abs(held.softmax)
    return 1000 * torch.finfo(precision).eps * moved


@pytest.mark.parametrize("composite", ["lrp_0", "epsilon", "gamma_vit", "cp"])
@pytest.mark.parametrize("name", ["vit", "bert", "llama", "qwen3", "gemma2", "gpt2"])
def test_input_constants_and_softmax_make_the_logit(name, composite):
    model, inputs = model_of(name, "eager" if name == "gemma2" else "sdpa")  # its soft-cap is eager's alone
    found = relevance_of(model, inputs, 2, composite=composite)
    assert found.relevance.shape == inputs.shape
    # RMSNorm of these families computes in float32 whatever the model's precision
    precision = torch.float64 if name in ("vit", "bert", "gpt2") else torch.float32
    assert abs(found.conservation.rest) <= rounding(found, precision)
    assert (found.conservation.softmax == 0) == (composite == "cp")
    if name == "llama" and composite == "cp":
        assert (
            found.conservation.biases == 0
        )  # no bias anywhere, and no softmax: the input receives all but ε's part
        assert found.conservation.ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_one_attention_call_equals_its_parts_with_the_map_formed(name):
    """SDPA as one node (no N × N map) against the eager model, whose products and softmax are nodes of their own.

    The eager softmax of ViT and Llama computes in float32 whatever the model's precision.
    """
    (whole, inputs), (parts, _) = model_of(name, "sdpa"), model_of(name, "eager")
    parts.load_state_dict(whole.state_dict())
    a, b = (relevance_of(model, inputs, 1, composite="epsilon") for model in (whole, parts))
    atol = (1e-10 if name == "bert" else 1e-6) * b.relevance.abs().max().item()
    torch.testing.assert_close(a.relevance, b.relevance, rtol=0, atol=atol)
    assert a.conservation.softmax == pytest.approx(b.conservation.softmax, abs=10 * atol)


def test_a_padded_text_gives_its_padding_nothing():
    model, _ = model_of("bert")
    mask = torch.tensor([[1] * 6 + [0] * 3])
    found = relevance_of(model, IDS, call=lambda ids: model(ids, attention_mask=mask))
    assert found.relevance[0, 6:].tolist() == [0, 0, 0]
    alone = relevance_of(model, IDS[:, :6])
    torch.testing.assert_close(found.relevance[:, :6], alone.relevance)


def test_attnlrp_is_the_modified_gradient():
    torch.manual_seed(0)
    model = own.Transformer().double().eval()
    x = torch.randn(1, 7, 16).double().requires_grad_()
    logits = own.modified(model, x)
    torch.testing.assert_close(logits, model(x))
    (gradient,) = torch.autograd.grad(logits[0, 3], x)
    expected = (x * gradient).detach()
    found = relevance_of(model, x.detach(), 3, composite="lrp_0")
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=1e-11 * expected.abs().max().item())


def test_token_ids_and_their_embeddings_agree():
    model, ids = model_of("llama")
    table = model.get_input_embeddings().weight.detach()
    by_ids = relevance_of(model, ids, 4, composite="epsilon").relevance
    by_vectors = relevance_of(
        model, table[ids], 4, composite="epsilon", call=lambda e: model(inputs_embeds=e)
    ).relevance
    torch.testing.assert_close(by_vectors.sum(-1), by_ids)


def test_softmax_hands_on_by_its_taylor_expansion():
    x = torch.tensor([[0.5, -1.0, 2.0]]).double().requires_grad_()
    taken = torch.zeros(4).double().requires_grad_()
    p = Softmax.apply(x, taken, -1, lambda v: v.softmax(-1))
    relevance = torch.tensor([[0.2, 0.3, -0.1]]).double()
    found, kept = torch.autograd.grad(p, [x, taken], relevance)
    expected = [x[0, i].item() * (relevance[0, i] - p[0, i] * 0.4).item() for i in range(3)]
    assert found[0].tolist() == pytest.approx(expected)
    assert kept.tolist() == pytest.approx([0, 0, 0.4 - sum(expected), 0])


def test_long_attention_forms_no_map():
    """The node keeps q, k and v; nothing that it saves grows with the square of the length."""
    saved = []
    q, k, v = (torch.randn(1, 1, 512, 8, requires_grad=True) for _ in range(3))
    taken = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        out = Attention.apply(nn.functional.scaled_dot_product_attention, taken, 1e-9, q, k, v)
        torch.autograd.grad(out, [q, k, v], out.detach())
    assert 0 < max(saved) < 512 * 512


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention_of_pytorch(masked, weights):
    """nn.MultiheadAttention taken apart equals the same attention written with nn.Linear."""
    torch.manual_seed(0)
    width, mask = 12, torch.tensor([[False] * 4 + [True]]) if masked else None

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(width, 3, batch_first=True), nn.Linear(width, 4)

        def forward(self, x):
            out, _ = self.attention(x, x, x, key_padding_mask=mask, need_weights=weights)
            return self.head((x + out).mean(1))

    class Apart(nn.Module):
        def __init__(self, packed):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
            inner = packed.attention
            for part, w, b in zip(
                self.parts, inner.in_proj_weight.chunk(3), inner.in_proj_bias.chunk(3), strict=True
            ):
                part.weight, part.bias = nn.Parameter(w.detach()), nn.Parameter(b.detach())
            self.out, self.head = inner.out_proj, packed.head

        def forward(self, x):
            q, k, v = (part(x).unflatten(-1, (3, -1)).transpose(1, 2) for part in self.parts)
            seen = None if mask is None else ~mask[:, None, None]
            out = (
                nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
            )
            return self.head((x + self.out(out)).mean(1))

    packed, x = Packed().double().eval(), torch.randn(1, 5, width).double()
    with torch.no_grad():
        packed.attention.in_proj_bias.normal_()
    a, b = (relevance_of(net, x, 1, composite="epsilon") for net in (packed, Apart(packed).eval()))
    torch.testing.assert_close(a.relevance, b.relevance)
    assert a.conservation.biases == pytest.approx(b.conservation.biases)
    assert abs(a.conservation.rest) <= rounding(a, torch.float64)


def test_the_encoder_of_pytorch_conserves():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
    model = nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(96, 3)
    )
    found = relevance_of(model.double().eval(), torch.randn(1, 6, 16).double(), composite="epsilon")
    assert abs(found.conservation.rest) <= rounding(found, torch.float64)
