"""The tap for `nn.MultiheadAttention`: both paths, every argument, parity of outputs, refusals, and the way back."""

import copy

import pytest
import torch
from map_truth import assert_report, assert_statistics, of_call
from torch import nn

from probe import InputError, ModelError
from probe.taps.mha import MhaTap

VALID = torch.ones(3, 11, dtype=torch.bool)
VALID[1, 7:] = False
VALID[2, 4:] = False


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def module(seed=0, **settings):
    torch.manual_seed(seed)
    made = nn.MultiheadAttention(16, 4, **{"batch_first": True, **settings})
    with torch.no_grad():
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.4)
    return made.eval()


def heard(model, *given, grad=False, query_valid=None, layers=None, **rules):
    with torch.set_grad_enabled(grad):
        plain = model(*given, **rules)
        calls = []
        with MhaTap(model, calls.append, query_valid=query_valid, layers=layers):
            tapped = model(*given, **rules)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (plain, tapped)), strict=True):
        assert a is b is None or torch.equal(a, b)
    untouched(model)
    return calls


def untouched(model):
    assert not any("forward" in inner.__dict__ for inner in model.modules())
    assert not any(inner._forward_hooks or inner._forward_pre_hooks for inner in model.modules())


def truth(made, query, key, value, **rules):
    """The module's own weights in float64 and float32, [B, H, Nq, Nk]: PyTorch writes them out on request."""
    maps = []
    for dtype in (torch.float64, torch.float32):
        twin = copy.deepcopy(made).to(dtype)
        cast = [x.to(dtype) for x in (query, key, value)]
        own = {
            n: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for n, x in rules.items()
        }
        own.pop("need_weights", None)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                maps.append(twin(*cast, need_weights=True, average_attn_weights=False, **own)[1].double())
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    return [m if m.ndim == 4 else m[None] for m in maps]


HIDDEN = torch.ones(11, 11, dtype=torch.bool).triu(1)
FLOAT = torch.zeros(11, 11).masked_fill(HIDDEN, -torch.inf)
CASES = {
    "plain": ({}, {}),
    "no bias": ({"bias": False}, {}),
    "time first": ({"batch_first": False}, {}),
    "padding": ({}, {"key_padding_mask": ~VALID}),
    "padding, time first": ({"batch_first": False}, {"key_padding_mask": ~VALID}),
    "causal": ({}, {"attn_mask": HIDDEN}),
    "causal and padding": ({}, {"attn_mask": HIDDEN, "key_padding_mask": ~VALID}),
    "open and padding": (
        {},
        {"attn_mask": torch.zeros(11, 11, dtype=torch.bool), "key_padding_mask": ~VALID},
    ),
    "causal of each head": ({}, {"attn_mask": HIDDEN.expand(12, 11, 11)}),
    "float of each head": ({}, {"attn_mask": FLOAT.expand(12, 11, 11)}),
    "float": ({"batch_first": False}, {"attn_mask": FLOAT}),
    "hint": ({}, {"attn_mask": FLOAT, "is_causal": True}),
    "zero key": ({"add_zero_attn": True}, {"key_padding_mask": ~VALID}),
    "zero key, causal": ({"add_zero_attn": True}, {"attn_mask": HIDDEN}),
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_self_attention(case, need_weights):
    settings, rules = CASES[case]
    made = module(**settings)
    x = rand(3, 11, 16)
    x = x if made.batch_first else x.transpose(0, 1).contiguous()
    (call,) = heard(made, x, x, x, need_weights=need_weights, **rules)
    valid = VALID if "key_padding_mask" in rules else None
    exact, plain = (m[..., :11] for m in truth(made, x, x, x, **rules))
    assert (call.spec.sink is not None) == made.add_zero_attn
    assert call.spec.causal == ("attn_mask" in rules and not case.startswith("open"))
    assert_statistics(of_call(call), exact, plain, valid, valid)
    assert_report(call)
    assert call.output.shape == (3, 11, 4, 4)


@pytest.mark.parametrize("settings", [{}, {"kdim": 12, "vdim": 20}, {"batch_first": False}])
def test_cross_attention(settings):
    made = module(**settings)
    query, key, value = rand(3, 6, 16), rand(3, 11, made.kdim, seed=1), rand(3, 11, made.vdim, seed=2)
    if not made.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    (call,) = heard(made, query, key, value, key_padding_mask=~VALID)
    exact, plain = truth(made, query, key, value, key_padding_mask=~VALID)
    assert call.spec.query_valid is None
    assert torch.equal(call.spec.key_valid, VALID)
    assert_statistics(of_call(call), exact, plain, None, VALID)
    assert_report(call)


def test_one_sample_without_a_batch():
    made = module()
    x = rand(11, 16)
    (call,) = heard(made, x, x, x, key_padding_mask=~VALID[1])
    exact, plain = truth(made, x, x, x, key_padding_mask=~VALID[1])
    assert_statistics(of_call(call), exact, plain, VALID[1:2], VALID[1:2])


def encoder(layers=2, seed=0, nested=True, **settings):
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(16, 4, 24, **{"batch_first": True, **settings})
    made = nn.TransformerEncoder(layer, layers, enable_nested_tensor=nested)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
    return made.eval()


@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
@pytest.mark.parametrize("rule", ["none", "padding", "causal", "both"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_fast_path_of_encoders_is_heard(activation, norm_first, nested, rule):
    made = encoder(nested=nested, norm_first=norm_first, activation=activation)
    x = rand(3, 11, 16)
    rules = {"src_key_padding_mask": ~VALID} if rule in ("padding", "both") else {}
    rules |= {"mask": HIDDEN} if rule in ("causal", "both") else {}
    fast = heard(made, x, **rules)
    slow = heard(made, x, grad=True, **rules)  # gradients keep PyTorch from the fast path
    assert [c.name for c in fast] == [c.name for c in slow] == ["layers.0.self_attn", "layers.1.self_attn"]
    for a, b in zip(fast, slow, strict=True):
        assert_report(a)
        length = a.q.shape[2]
        assert a.spec.causal == b.spec.causal == (rule in ("causal", "both"))
        valid = None if a.spec.query_valid is None else VALID[:, :length]
        assert (valid is None) == (rule in ("none", "causal"))
        for (name, got), want in zip(of_call(a).items(), of_call(b).values(), strict=True):
            got, want = (
                z if valid is None else z[..., :length].masked_fill(~valid[:, None], 0) for z in (got, want)
            )
            torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5, msg=name)


@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
def test_padding_that_the_encoder_cuts_off_comes_back():
    """PyTorch's stack of encoder layers computes on 7 positions where the longest sample has 7 of 11."""
    valid = VALID & (torch.arange(11) < 7)
    x = rand(3, 11, 16)
    for given in (None, valid):
        calls = heard(encoder(), x, src_key_padding_mask=~valid, query_valid=given)
        for call in calls:
            assert call.q.shape[2] == call.k.shape[2] == 11
            assert torch.equal(call.spec.query_valid, valid)
            assert torch.equal(call.spec.key_valid, valid)


def test_the_test_above_takes_the_fast_path(monkeypatch):
    seen = []
    real = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: seen.append(1) or real(*a))
    assert len(heard(encoder(), rand(3, 11, 16))) == 2
    assert len(seen) == 4


def test_encoder_and_decoder_fall_into_towers():
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 1, 1, 24, batch_first=True).eval()
    calls = heard(model, rand(2, 7, 16), rand(2, 5, 16), tgt_mask=HIDDEN[:5, :5])
    assert [c.name for c in calls] == [
        "encoder.layers.0.self_attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.multihead_attn",
    ]
    assert [c.stream for c in calls][2] == "cross"
    assert calls[2].q.shape[2:] == (5, 4)
    assert calls[2].k.shape[2:] == (7, 4)
    assert [c.spec.causal for c in calls] == [False, True, False]


def test_bfloat16():
    made = module().to(torch.bfloat16)
    x = rand(3, 11, 16).bfloat16()
    for need_weights in (True, False):
        assert len(heard(made, x, x, x, need_weights=need_weights)) == 1
    assert len(heard(encoder().to(torch.bfloat16), x)) == 2


def test_refusals():
    x = rand(3, 11, 16)
    bias = torch.linspace(-2, 0, 11).expand(11, 11).contiguous()
    blocks = ~torch.block_diag(torch.ones(5, 5), torch.ones(6, 6)).bool()
    for settings, rules, said in [
        ({"add_bias_kv": True}, {}, "add_bias_kv"),
        ({}, {"attn_mask": bias}, "a bias, not a rule of visibility"),
        ({}, {"attn_mask": blocks}, "packed, block and other custom masks"),
    ]:
        made = module(**settings)
        with torch.no_grad(), pytest.raises(ModelError, match=said), MhaTap(made, lambda call: None):
            made(x, x, x, **rules)
        untouched(made)
    made = module(dropout=0.1).train()
    with pytest.raises(ModelError, match=r"dropout 0\.1 is active"), MhaTap(made, lambda call: None):
        made(x, x, x)
    made = module()
    said = "key_padding_mask says otherwise"
    with pytest.raises(ModelError, match=said), MhaTap(made, lambda call: None, query_valid=VALID):
        made(x, x, x)
    with pytest.raises(ModelError, match=r"Linear: holds no nn\.MultiheadAttention"):
        MhaTap(nn.Linear(2, 2), lambda call: None)
    assert MhaTap.finds(nn.Linear(2, 2)) == []
    assert MhaTap.finds(made) == ["MultiheadAttention"]


def test_a_wrong_hint_is_refused():
    """`is_causal` without weights makes PyTorch leave the mask out and attend causally, whatever the mask says."""
    made = module()
    x = rand(3, 11, 16)
    full = torch.zeros(11, 11)
    with (
        pytest.raises(ModelError, match="its is_causal hint contradicts its mask"),
        MhaTap(made, lambda call: None),
    ):
        made(x, x, x, attn_mask=full, is_causal=True, need_weights=False)


def test_an_encoder_layer_with_its_own_forward_is_not_heard_on_the_fast_path():
    class Own(nn.TransformerEncoderLayer):
        def forward(self, x):
            return super().forward(x) + 1

    made = Own(16, 4, 24, batch_first=True).eval()
    x = rand(3, 11, 16)
    said = r"self_attn: its attention was never called .* fast path may have passed it by in Own"
    with torch.no_grad(), pytest.raises(ModelError, match=said), MhaTap(made, lambda call: None):
        made(x)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert len(heard(made, x)) == 1
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_hook_that_changes_the_output_is_noticed():
    made = module()
    x = rand(3, 11, 16)
    made.out_proj.weight.data += 0
    wrapped = made.forward
    made.forward = lambda *a, **k: (wrapped(*a, **k)[0] * 1.001, None)
    with (
        pytest.raises(ModelError, match="does not follow from its own projections"),
        MhaTap(made, lambda call: None),
    ):
        made(x, x, x)


def test_three_ways_out():
    made = encoder()
    x = rand(3, 11, 16)
    heard(made, x)

    def broken(call):
        raise RuntimeError("stop")

    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"), MhaTap(made, broken):
        made(x)
    untouched(made)
    with torch.no_grad(), pytest.raises(RuntimeError), MhaTap(made, lambda call: None):
        made(x[..., :5])
    untouched(made)
    with pytest.raises(InputError, match="layers"):
        MhaTap(made, lambda call: None, layers=["nothing"])
    with (
        pytest.raises(ModelError, match=r"layers\.0\.self_attn: its attention was never called"),
        MhaTap(made, lambda call: None),
    ):
        pass
    untouched(made)
    assert [c.layer for c in heard(made, x, layers=[1])] == [1]


def test_each_forward_pass_is_a_step():
    made, calls = encoder(), []
    with torch.no_grad(), MhaTap(made, calls.append):
        made(rand(3, 11, 16))
        made(rand(2, 5, 16))
    assert [(c.step, c.layer) for c in calls] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_towers_are_chosen():
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 1, 1, 24, batch_first=True).eval()
    calls = []
    with torch.no_grad(), MhaTap(model, calls.append, towers=["cross"]) as tap:
        model(rand(2, 7, 16), rand(2, 5, 16))
    assert [c.name for c in calls] == ["decoder.layers.0.multihead_attn"]
    assert tap.expected == 1
    assert tap.unused == []
