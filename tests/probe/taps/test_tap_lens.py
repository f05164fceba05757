"""The tap for TransformerLens: its calls give what an eager capture of the same Hugging Face model gives."""

import copy
import warnings

import pytest
import torch
from map_truth import NAMES, assert_report, assert_statistics, of_call, of_map
from tiny_models import ENCODER, batch, maps, tiny

from probe import InputError, ModelError
from probe.call import AttentionCall, MapCall
from probe.kernels.statistics import map_statistics
from probe.taps.hf import HFTap
from probe.taps.lens import LensTap, bridge_of, statistics_hook


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """No network and no telemetry; TransformerLens warns about itself when it is imported."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("HF_HUB_OFFLINE", "1")
        warnings.simplefilter("ignore")
        yield


def bert():
    import transformers

    config = transformers.BertConfig(**ENCODER)
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    return model.eval()


def t5():
    import transformers

    settings = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 48}
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**settings, decoder_start_token_id=0)
    ).eval()


def model_of(name):
    return bert() if name == "bert" else tiny(name, "eager")


def heard(bridge, ids, query_valid=None, layers=None, limit=1024, **rules):
    hooks = [(p, dict(p._forward_hooks)) for p in bridge.modules()]
    with torch.no_grad():
        plain = bridge(ids, **rules)
        calls = []
        with LensTap(bridge, calls.append, query_valid=query_valid, layers=layers, limit=limit):
            tapped = bridge(ids, **rules)
    assert torch.equal(plain, tapped)
    assert [(p, dict(p._forward_hooks)) for p in bridge.modules()] == hooks
    assert "forward" not in bridge.__dict__
    return calls


FAMILIES = [
    "gpt2",
    "llama",
    "mistral-window",
    "gemma2-softcap-window",
    "gpt-oss-sinks-window",
    "qwen3",
    "bert",
]


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_same_statistics_as_the_hugging_face_model(name, side):
    model = model_of(name)
    ids, mask = batch([12, 12 if side == "none" else 8], 12, "right" if side == "none" else side)
    valid = mask.bool()
    inputs = {"input_ids": ids, "attention_mask": mask}
    if side == "left" and name in ("gpt2", "bert"):
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)  # TransformerLens counts so by itself
    calls = heard(bridge_of(model), ids, attention_mask=mask)
    assert [c.name for c in calls] == ["blocks.0.attn", "blocks.1.attn"]
    assert all(isinstance(c, AttentionCall) for c in calls)
    own = []
    with torch.no_grad(), HFTap(model, own.append, valid=valid):
        model(**inputs)
    exact, plain = (maps(model, inputs, dtype) for dtype in (torch.float64, torch.float32))
    for call, there, want, written in zip(calls, own, exact, plain, strict=True):
        for rule in ("causal", "window", "softcap"):
            assert getattr(call.spec, rule) == getattr(there.spec, rule)
        assert call.k.shape == there.k.shape
        assert call.layer == there.layer
        assert_statistics(of_call(call), want, written, valid, valid)
        assert_report(call)
        torch.testing.assert_close(call.output[valid], there.output[valid], rtol=2e-4, atol=2e-5)


def test_the_model_that_was_given_stays():
    model = tiny("llama")
    before = copy.deepcopy(model.state_dict())
    modules = [type(m) for m in model.modules()]
    bridge = bridge_of(model)
    heard(bridge, batch([5], 5)[0])
    assert model.config._attn_implementation == "sdpa"
    assert [type(m) for m in model.modules()] == modules
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert LensTap.finds(model) == []
    assert LensTap.finds(bridge) == ["blocks.0.attn", "blocks.1.attn"]
    with pytest.raises(ModelError, match="no hook_pattern in it"):
        LensTap(model, lambda call: None)


def test_bfloat16():
    model = tiny("llama", "eager").to(torch.bfloat16)
    calls = heard(bridge_of(model), batch([30], 30)[0])
    assert all(isinstance(c, AttentionCall) and c.q.dtype == torch.bfloat16 for c in calls)


@pytest.mark.parametrize("side", ["right", "left"])
def test_rotated_queries_that_are_not_shown_give_the_pattern_itself(side):
    """The bridge fires no hook for the rotated queries of GPT-NeoX."""
    model = tiny("gpt-neox", "eager")
    ids, mask = batch([12, 8], 12, side)
    calls = heard(bridge_of(model), ids, attention_mask=mask)
    for call, want in zip(calls, maps(model, {"input_ids": ids, "attention_mask": mask}), strict=True):
        assert isinstance(call, MapCall)
        assert torch.equal(call.key_valid, mask.bool())
        rows = call.query_valid[:, None, :, None].expand(want.shape)
        torch.testing.assert_close(call.weights.double()[rows], want[rows], rtol=1e-5, atol=1e-5)


def test_a_learned_bias_gives_the_pattern_itself():
    model, ids = t5(), batch([9], 9)[0]
    calls = heard(bridge_of(model), ids, decoder_input=ids[:, :4])
    assert [isinstance(c, MapCall) for c in calls] == [c.stream != "cross" for c in calls]
    assert [(c.stream, c.layer) for c in calls] == [
        ("encoder", 0),
        ("encoder", 1),
        ("decoder", 0),
        ("cross", 0),
        ("decoder", 1),
        ("cross", 1),
    ]
    assert [tuple(c.weights.shape[2:]) for c in calls if isinstance(c, MapCall)] == [(9, 9)] * 2 + [
        (4, 4)
    ] * 2
    assert "do not give its pattern" in calls[0].source
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    out = eager(input_ids=ids, decoder_input_ids=ids[:, :4], output_attentions=True)
    for i in (0, 1):
        torch.testing.assert_close(calls[i].weights, out.encoder_attentions[i])
        torch.testing.assert_close(calls[2 + 2 * i].weights, out.decoder_attentions[i])
        assert_statistics(of_call(calls[3 + 2 * i]), out.cross_attentions[i], out.cross_attentions[i])
    bridge = bridge_of(model)
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="the limit is 0 MiB"),
        LensTap(bridge, lambda call: None, limit=0),
    ):
        bridge(ids, decoder_input=ids[:, :4])


def test_hooks_of_the_user_that_change_the_pattern_are_recorded_or_refused():
    bridge, ids = bridge_of(tiny("llama", "eager")), batch([9], 9)[0]

    def first_head_off(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 0] = 0
        return pattern

    name = "blocks.0.attn.hook_pattern"
    with bridge.hooks(fwd_hooks=[(name, first_head_off)]):
        first, second = heard(bridge, ids)
    assert isinstance(first, MapCall)
    assert not first.weights[:, 0].any()
    assert isinstance(second, AttentionCall)
    said = "a hook was added to its pattern after the tap was opened"
    with torch.no_grad(), pytest.raises(ModelError, match=said), LensTap(bridge, lambda call: None):
        bridge.run_with_hooks(ids, fwd_hooks=[(name, first_head_off)])
    assert len(heard(bridge, ids)) == 2


def test_padding_of_which_nobody_told_is_refused():
    bridge = bridge_of(tiny("llama", "eager"))
    ids, mask = batch([9, 5], 9, "left")
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="several texts at once"),
        LensTap(bridge, lambda c: None),
    ):
        bridge(["a", "b c"])
    dense = torch.zeros(2, 1, 9, 9).masked_fill(
        ~(mask[:, None, None].bool() & torch.ones(9, 9).tril().bool()), -1e38
    )
    dense = dense.masked_fill(dense < 0, torch.finfo(torch.float32).min)
    with torch.no_grad(), pytest.raises(ModelError, match="query_valid="), LensTap(bridge, lambda c: None):
        bridge(ids, attention_mask=dense)
    calls = heard(bridge, ids, attention_mask=dense, query_valid=mask.bool())
    assert torch.equal(calls[1].spec.query_valid, mask.bool())


def test_patterns_that_never_come_are_named():
    model = t5()
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    twin = copy.deepcopy(model)
    twin.set_attn_implementation("sdpa")
    bridge = build_bridge_from_module(twin, type(model).__name__, hf_config=twin.config)
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="its hook_pattern never fired"),
        LensTap(bridge, lambda call: None),
    ):
        bridge(batch([5], 5)[0])


def test_three_ways_out():
    bridge, ids = bridge_of(tiny("gpt2", "eager")), batch([9], 9)[0]
    hooks = [dict(p._forward_hooks) for p in bridge.modules()]

    def broken(call):
        raise RuntimeError("stop")

    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"), LensTap(bridge, broken):
        bridge(ids)
    assert [dict(p._forward_hooks) for p in bridge.modules()] == hooks
    with torch.no_grad(), pytest.raises(IndexError), LensTap(bridge, lambda call: None):
        bridge(ids + 1000)
    assert [dict(p._forward_hooks) for p in bridge.modules()] == hooks
    assert "forward" not in bridge.__dict__
    with pytest.raises(InputError, match="layers"):
        LensTap(bridge, lambda call: None, layers=["h.*"])
    with (
        pytest.raises(ModelError, match=r"blocks\.0\.attn: its attention was never called"),
        LensTap(bridge, lambda call: None),
    ):
        pass
    assert [c.layer for c in heard(bridge, ids, layers=["blocks.1.*"])] == [1]
    calls = []
    with torch.no_grad(), LensTap(bridge, calls.append):
        bridge(ids)
        bridge(ids)
    assert [(c.step, c.layer) for c in calls] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ModelError, match="BertModel: TransformerLens makes no bridge for it"):
        bridge_of(tiny("bert", "eager"))


@pytest.mark.parametrize("side", ["right", "left"])
def test_statistics_beside_its_own_hooks(side):
    model = tiny("mistral-window", "eager")
    bridge = bridge_of(model)
    ids, mask = batch([12, 8], 12, side)
    got = {}
    hook = statistics_hook(("entropy", "received"), got.__setitem__, valid=mask.bool())
    with torch.no_grad():
        plain = bridge(ids, attention_mask=mask)
        tapped = bridge.run_with_hooks(
            ids, attention_mask=mask, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), hook)]
        )
    assert torch.equal(plain, tapped)
    assert list(got) == ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    for found, want in zip(
        got.values(), maps(model, {"input_ids": ids, "attention_mask": mask}), strict=True
    ):
        exact = of_map(want, mask.bool())
        for name, x in found.items():
            keep = mask.bool()[:, None].expand(x.shape)
            torch.testing.assert_close(x.double()[keep], exact[name][keep], rtol=1e-5, atol=1e-5)
    with torch.no_grad(), pytest.raises(InputError, match="expected a hook_pattern"):
        bridge.run_with_hooks(ids, fwd_hooks=[("blocks.0.attn.hook_q", hook)])


def test_names_of_statistics_are_those_of_the_kernels():
    calls = heard(bridge_of(tiny("llama", "eager")), batch([9], 9)[0])
    assert set(map_statistics(calls[0].q, calls[0].k, calls[0].spec, NAMES)) == set(NAMES)
