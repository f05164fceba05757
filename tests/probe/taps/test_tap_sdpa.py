"""The tap for direct calls of PyTorch's attention function: what it hears, proves, refuses, and leaves as it was."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from map_truth import assert_report, assert_statistics, of_call
from own_models import Attention, PictureTransformer, SmallGPT, own, written_out
from tiny_models import batch, tiny
from torch import nn

from probe import InputError, ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.eager import EagerTap
from probe.taps.rules.proof import Proofs
from probe.taps.sdpa import SdpaTap

IDS = torch.randint(3, 60, (2, 13), generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(2))


def heard(model, *given, layers=None, query_valid=None, **rules):
    """The calls of one forward pass, whose output is held against one without the tap."""
    with torch.no_grad():
        plain = model(*given, **rules)
        calls = []
        with SdpaTap(model, calls.append, layers=layers, query_valid=query_valid):
            tapped = model(*given, **rules)
    assert torch.equal(plain, tapped)
    untouched(model)
    return calls


def untouched(model):
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.parametrize("style", ["module", "renamed", "helper"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_statistics_of_a_picture_transformer(style, kv_heads):
    model = own(PictureTransformer, style=style, kv_heads=kv_heads)
    calls = heard(model, IMAGE)
    assert [(c.layer, c.name) for c in calls] == [(0, "blocks.0.attn"), (1, "blocks.1.attn")]
    exact, plain = (written_out(model, IMAGE, dtype=t) for t in (torch.float64, torch.float32))
    for call, want, own_map in zip(calls, exact, plain, strict=True):
        assert call.k.shape == (2, kv_heads, 21, 8)
        assert call.output.shape == (2, 21, 4, 8)
        assert_statistics(of_call(call), want, own_map)
        assert_report(call)


def causal(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def banded(n, back, ahead):
    at = torch.arange(n)
    return (at[:, None] - at < back) & (at - at[:, None] < ahead)


RULES = {
    "flag": ({"is_causal": True}, "causal"),
    "causal mask": ({"attn_mask": causal(13)}, "causal"),
    "causal float": ({"attn_mask": torch.zeros(13, 13).masked_fill(~causal(13), -1e9)}, "causal"),
    "causal -inf": ({"attn_mask": torch.zeros(2, 1, 13, 13).masked_fill(~causal(13), -torch.inf)}, "causal"),
    "window": ({"attn_mask": causal(13) & banded(13, 4, 99)}, "causal window 4"),
    "two-way window": ({"attn_mask": banded(13, 5, 5)[None]}, "full window 5"),
    "full": ({"attn_mask": torch.ones(13, 13, dtype=torch.bool)}, "full"),
    "scale": ({"scale": 0.7, "is_causal": False}, "full"),
}


@pytest.mark.parametrize("case", RULES)
def test_rules_are_read_and_proven(case):
    rules, words = RULES[case]
    model = own(SmallGPT)
    calls = heard(model, IDS, **rules)
    exact, plain = (written_out(model, IDS, dtype=t, **rules) for t in (torch.float64, torch.float32))
    for call, want, own_map in zip(calls, exact, plain, strict=True):
        said = ["causal" if call.spec.causal else "full", f"window {call.spec.window}"]
        assert " ".join(said[: 1 if call.spec.window is None else 2]) == words
        assert_statistics(of_call(call), want, own_map)
        assert_report(call)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["causal", "keys only"])
def test_padding(side, form):
    valid = torch.ones(2, 13, dtype=torch.bool)
    valid[1, slice(0, 4) if side == "left" else slice(9, 13)] = False
    mask = valid[:, None, None, :] & (causal(13) if form == "causal" else True)
    model = own(SmallGPT)
    calls = heard(model, IDS, attn_mask=mask, query_valid=valid)
    exact, plain = (written_out(model, IDS, dtype=t, attn_mask=mask) for t in (torch.float64, torch.float32))
    for call, want, own_map in zip(calls, exact, plain, strict=True):
        assert torch.equal(call.spec.query_valid, valid)
        assert torch.equal(call.spec.key_valid, valid)
        assert_statistics(of_call(call), want, own_map, valid, valid)
        assert_report(call)


def test_a_window_is_read_off_the_longest_sample():
    valid = torch.ones(2, 13, dtype=torch.bool)
    valid[0, :10] = False
    mask = valid[:, None, None, :] & causal(13) & banded(13, 6, 99)
    calls = heard(own(SmallGPT), IDS, attn_mask=mask, query_valid=valid)
    assert [c.spec.window for c in calls] == [6, 6]


def test_flags_can_be_asked_by_group_of_positions():
    valid = torch.ones(2, 13, dtype=torch.bool)
    valid[1, 9:] = False
    asked = []
    mask = valid[:, None, None, :]
    calls = heard(own(SmallGPT), IDS, attn_mask=mask, query_valid=lambda g: asked.append(g) or valid)
    assert set(asked) == {"tokens"}
    assert torch.equal(calls[1].spec.key_valid, valid)


REFUSED = {
    "bias": ({"attn_mask": torch.linspace(-3, 0, 13).expand(13, 13)}, "a bias, not a rule of visibility"),
    "blocks": ({"attn_mask": torch.block_diag(torch.ones(6, 6), torch.ones(7, 7)).bool()}, "packed, block"),
    "padding unsaid": ({"attn_mask": (torch.arange(13) < 9).expand(13, 13)}, "query_valid="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_that_follow_no_rule_are_refused_by_name(case):
    rules, words = REFUSED[case]
    model = own(SmallGPT)
    with torch.no_grad(), pytest.raises(ModelError, match=words), SdpaTap(model, lambda call: None):
        model(IDS, **rules)
    untouched(model)


def test_a_query_that_sees_nothing_is_refused():
    keys = torch.ones(1, 5, dtype=torch.bool)
    keys[0, 0] = False
    spec = ScoreSpec(scale=1.0, key_valid=keys)
    with pytest.raises(ModelError, match="query 0 of sample 0 sees no key"):
        Proofs().derive(spec, causal(5)[None, None] & keys[:, None, None], "here")
    rows = replace(spec, query_valid=keys)
    assert Proofs().derive(rows, causal(5)[None, None] & keys[:, None, None], "here").causal


def test_a_mask_that_changed_is_proven_again():
    model, mask = own(SmallGPT), causal(13)
    first = heard(model, IDS, attn_mask=mask)
    mask &= banded(13, 3, 99)
    second = heard(model, IDS, attn_mask=mask)
    assert [c.spec.window for c in first + second] == [None, None, 3, 3]

    class Changing(SmallGPT):
        def forward(self, ids, mask):
            x = self.blocks[0](self.embed(ids), attn_mask=mask)
            mask &= banded(13, 3, 99)
            return self.blocks[1](x, attn_mask=mask)

    calls = []
    with torch.no_grad(), SdpaTap(own(Changing), calls.append) as tap:
        tap._model(IDS, causal(13))
    assert [c.spec.window for c in calls] == [None, 3]


def test_a_small_bias_is_no_mask():
    """-40 hides a key from nobody whose scores differ by more."""
    model = own(SmallGPT)
    mask = torch.zeros(13, 13).masked_fill(~causal(13), -40.0)
    with torch.no_grad(), pytest.raises(ModelError, match="adds -40"), SdpaTap(model, lambda call: None):
        model(IDS, attn_mask=mask)


def test_padding_without_a_mask_is_refused():
    valid = torch.ones(2, 13, dtype=torch.bool)
    valid[0, :2] = False
    model = own(SmallGPT)
    said = "got no mask and attends to padding"
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match=said),
        SdpaTap(model, lambda call: None, query_valid=valid),
    ):
        model(IDS)
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="does not fit the padding flags"),
        SdpaTap(model, lambda call: None, query_valid=valid[:1]),
    ):
        model(IDS)


def test_three_ways_out():
    model = own(SmallGPT)
    heard(model, IDS)

    def broken(call):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), SdpaTap(model, broken):
        model(IDS)
    untouched(model)
    with pytest.raises(IndexError), SdpaTap(model, lambda call: None):
        model(IDS + 100)
    untouched(model)
    with pytest.raises(InputError, match=r"layers: no attention module is called 'heads\.\*'"):
        SdpaTap(model, lambda call: None, layers=["heads.*"])
    untouched(model)
    assert len(heard(model, IDS)) == 2


def test_a_stand_in_of_someone_else_stays():
    model = own(SmallGPT)
    first = model.blocks[0].attn
    inner = first.forward
    first.forward = mine = lambda *given, **rules: inner(*given, **rules)
    calls = []
    with torch.no_grad(), SdpaTap(model, calls.append):
        model(IDS)
    assert len(calls) == 2
    assert first.__dict__["forward"] is mine


def test_layers_are_chosen_and_missing_ones_named():
    model = own(SmallGPT, layers=3)
    assert [c.layer for c in heard(model, IDS, layers=[0, 2])] == [0, 2]
    assert [c.layer for c in heard(model, IDS, layers=["*.1.attn"])] == [1]
    with (
        pytest.raises(InputError, match=r"layers: \[7\] never came"),
        SdpaTap(model, lambda c: None, layers=[7]),
    ):
        model(IDS)
    model.spare = Attention()
    with (
        pytest.raises(ModelError, match="spare: its attention was never called"),
        SdpaTap(model, lambda call: None) as tap,
    ):
        model(IDS)
    assert tap.expected == 4


class Twice(nn.Module):
    """One module with two calls of the function."""

    def __init__(self):
        super().__init__()
        self.attn = Attention()

    def forward(self, x):
        return (
            self.attn(x + 1)
            + nn.functional.scaled_dot_product_attention(*[x[:, None]] * 3)[:, 0]
            + self.attn(x)
        )


def test_several_calls_are_several_layers_each_with_its_own_name():
    model = Twice().eval()
    calls = heard(model, torch.randn(2, 5, 32))
    assert [(c.layer, c.name) for c in calls] == [(0, "attn"), (1, "Twice"), (2, "attn#2")]
    assert calls[1].q.shape == (2, 1, 5, 32)


def test_each_forward_pass_is_a_step():
    model, calls = own(SmallGPT), []
    with torch.no_grad(), SdpaTap(model, calls.append):
        model(IDS)
        model(IDS[:, :5])
    assert [(c.step, c.layer) for c in calls] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_only_this_model_in_this_thread_is_heard():
    model, calls = own(SmallGPT), []
    other = copy.deepcopy(model)
    with torch.no_grad(), SdpaTap(model, calls.append):
        other(IDS)
        thread = threading.Thread(target=lambda: model(IDS))
        thread.start()
        thread.join()
        assert calls == []
        model(IDS)
    assert len(calls) == 2


def test_the_fast_path_of_torch_layers_beside_it_stays():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = Attention()
            self.layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)

        def forward(self, x):
            return self.layer(self.attn(x))

    x = torch.randn(3, 40, 32)
    model = Mixed().eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            slow = model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert len(heard(model, x)) == 1
    with torch.no_grad():
        assert not torch.equal(slow, model(x))  # so the test above could have failed

    class Around(Attention):
        def __init__(self):
            super().__init__()
            self.inner = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)

    with pytest.raises(ModelError, match="holds a TransformerEncoderLayer"):
        SdpaTap(Around(), lambda call: None)


def test_dropout_odd_shapes_and_compiled_models_are_refused():
    class Odd(nn.Module):
        def forward(self, x, **rules):
            return nn.functional.scaled_dot_product_attention(x, x, x, **rules)

    x = torch.randn(2, 2, 5, 8)
    for given, rules, said in [
        (x, {"dropout_p": 0.1}, "dropout 0.1 is active"),
        (x[0], {}, r"expected \[batch, heads, positions, size\]"),
        (x * torch.nan, {}, "NaN or infinity in the queries of sample 0"),
    ]:
        model = Odd()
        with pytest.raises(ModelError, match=said), SdpaTap(model, lambda call: None):
            model(given, **rules)
        untouched(model)
    model = own(SmallGPT)
    model.blocks[1].compile()
    with pytest.raises(ModelError, match=r"blocks\.1: .* compiled"):
        SdpaTap(model, lambda call: None)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_transformers_model_that_calls_the_function_itself(side):
    """Falcon with rotary positions; with ALiBi the mask is a bias, and the model is left to the slow route."""
    import transformers

    settings = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = transformers.FalconForCausalLM(transformers.FalconConfig(**settings, multi_query=True)).eval()
    ids, mask = batch([12, 8], 12, side)
    calls = []
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).logits
        with SdpaTap(model, calls.append, query_valid=mask.bool()):
            tapped = model(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(plain, tapped)
        assert (
            [c.name for c in calls]
            == SdpaTap.finds(model)
            == [f"transformer.h.{i}.self_attention" for i in (0, 1)]
        )
        twins = [copy.deepcopy(model).to(dtype) for dtype in (torch.float64, torch.float32)]
        for twin in twins:
            twin.config._attn_implementation = "eager"  # Falcon ignores set_attn_implementation
        exact, own_maps = (
            t(input_ids=ids, attention_mask=mask, output_attentions=True).attentions for t in twins
        )
    for call, want, own_map in zip(calls, exact, own_maps, strict=True):
        assert_statistics(of_call(call), want, own_map, mask.bool(), mask.bool())
        assert_report(call)
    assert SdpaTap.finds(twins[1]) == []
    alibi = transformers.FalconForCausalLM(
        transformers.FalconConfig(**settings, multi_query=False, alibi=True)
    ).eval()
    assert SdpaTap.finds(alibi) == []
    assert EagerTap.finds(alibi) == EagerTap.finds(model)


def test_what_is_its_business():
    assert SdpaTap.finds(own(SmallGPT)) == ["blocks.0.attn", "blocks.1.attn"]
    assert SdpaTap.finds(tiny("llama")) == []
    assert SdpaTap.finds(nn.TransformerEncoderLayer(8, 2)) == []
    with pytest.raises(ModelError, match="no module calls"):
        SdpaTap(nn.Linear(2, 2), lambda call: None)
