"""The slow route: maps as the model writes them out, held against float64 copies; what is refused by name."""

import copy

import pytest
import torch
from map_truth import of_map
from tiny_models import batch, tiny

from probe import InputError, ModelError
from probe.taps.eager import EagerTap

TEXT = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {**TEXT, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
LONG = {**WIDE, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0}
MODELS = {
    "bloom": ("BloomForCausalLM", "BloomConfig", {**TEXT, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    "falcon": ("FalconForCausalLM", "FalconConfig", {**WIDE, "multi_query": True}),
    "falcon-alibi": ("FalconForCausalLM", "FalconConfig", {**WIDE, "multi_query": False, "alibi": True}),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            **TEXT,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 4,
            "max_position_embeddings": 64,
        }
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "deberta-v2": (
        "DebertaV2Model",
        "DebertaV2Config",
        {**LONG, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    ),
    "xlnet": ("XLNetModel", "XLNetConfig", {**TEXT, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "big-bird": (
        "BigBirdModel",
        "BigBirdConfig",
        {**LONG, "attention_type": "original_full", "sep_token_id": 3},
    ),
}


def slow(name, seed=0, **overrides):
    import transformers

    model_class, config_class, settings = MODELS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(
        getattr(transformers, config_class)(**{**settings, **overrides})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=1.2 * parameter.shape[-1] ** -0.5)
    return model.eval()


def values(out):
    return [x for x in out.values() if torch.is_tensor(x)]


def heard(model, query_valid=None, layers=None, limit=1024, **inputs):
    backend = model.config._attn_implementation
    with torch.no_grad():
        plain = model(**inputs)
        calls = []
        with EagerTap(model, calls.append, query_valid=query_valid, layers=layers, limit=limit):
            tapped = model(**inputs)
    assert type(plain) is type(tapped)
    assert list(plain) == list(tapped)
    assert all(torch.equal(a, b) for a, b in zip(values(plain), values(tapped), strict=True))
    untouched(model, backend)
    return calls


def untouched(model, backend="eager"):
    assert not any("forward" in inner.__dict__ for inner in model.modules())
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {backend}


def truth(model, dtype, **inputs):
    twin = copy.deepcopy(model).to(dtype)
    twin.config._attn_implementation = "eager"
    with torch.no_grad():
        return [x.double() for x in twin(**inputs, output_attentions=True).attentions]


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_of_the_float64_copy(name, side):
    model = slow(name)
    ids, mask = batch([12, 12 if side == "none" else 8], 12, "right" if side == "none" else side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    calls = heard(model, **inputs)
    assert [c.layer for c in calls] == [0, 1]
    assert [c.name for c in calls] == EagerTap.finds(model)
    valid = mask.bool()
    double, single = truth(model, torch.float64, **inputs), truth(model, torch.float32, **inputs)
    for call, exact, plain in zip(calls, double, single, strict=True):
        assert ("second pass" in call.source) == name.startswith("falcon")
        if side == "none":
            assert call.query_valid is call.key_valid is None
        else:
            assert torch.equal(call.query_valid, valid)
            assert torch.equal(call.key_valid, valid)
        got, want, own = (of_map(p, valid) for p in (call.weights, exact, plain))
        for stat, x in got.items():
            error = (own[stat] - want[stat]).nan_to_num().abs().max()
            assert float((x - want[stat]).nan_to_num().abs().max()) <= 2 * error + 1e-5, stat


@pytest.mark.parametrize("name", ["bloom", "falcon"])
def test_a_user_who_asks_for_maps_gets_them(name):
    model = slow(name)
    model.config._attn_implementation = "eager"
    ids, _ = batch([9], 9)
    calls = []
    with torch.no_grad(), EagerTap(model, calls.append):
        asked = model(input_ids=ids, output_attentions=True)
        as_tuple = model(input_ids=ids, return_dict=False)
        plain = model(input_ids=ids)
    assert torch.equal(asked.attentions[1], calls[1].weights)
    assert "attentions" not in plain
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], plain.logits)
    assert [(c.step, c.layer) for c in calls] == [(s, i) for s in range(3) for i in range(2)]


def test_an_architecture_that_is_not_verified_makes_a_second_pass(monkeypatch):
    model, ids = slow("gpt-neo"), batch([9], 9)[0]
    (first, _) = heard(model, input_ids=ids)
    monkeypatch.setattr("probe.taps.eager._SAME", set())
    (second, _) = heard(model, input_ids=ids)
    assert "second pass" in second.source
    assert "second pass" not in first.source
    assert torch.equal(first.weights, second.weights)
    kept = model.transformer.forward
    model.transformer.forward = lambda *a, output_attentions=None, **k: (
        kept(a[0] + (output_attentions is True), *a[1:], output_attentions=output_attentions, **k)
        if a
        else kept(
            **{**k, "input_ids": k["input_ids"] + (output_attentions is True)},
            output_attentions=output_attentions,
        )
    )
    said = "computes something else when it is asked for its maps"
    with torch.no_grad(), pytest.raises(ModelError, match=said), EagerTap(model, lambda call: None):
        model(input_ids=ids)


def test_decoding_with_a_cache():
    model = slow("bloom")
    ids, mask = batch([9, 6], 9, "left")
    calls = []
    with torch.no_grad(), EagerTap(model, calls.append):
        first = model(input_ids=ids[:, :7], attention_mask=mask[:, :7])
        model(input_ids=ids[:, 7:], attention_mask=mask, past_key_values=first.past_key_values)
    assert [tuple(c.weights.shape[2:]) for c in calls] == [(7, 7)] * 2 + [(2, 9)] * 2
    assert torch.equal(calls[3].key_valid, mask.bool())
    whole = heard(model, input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(calls[3].weights, whole[1].weights[:, :, 7:], rtol=1e-4, atol=1e-5)
    falcon = slow("falcon")
    past = falcon(input_ids=ids[1:, 3:7]).past_key_values
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="a pass with a cache cannot be repeated"),
        EagerTap(falcon, lambda call: None),
    ):
        falcon(input_ids=ids[1:, 7:], past_key_values=past)
    untouched(falcon, "sdpa")


def test_the_limit_is_held_before_anything_is_computed():
    model = slow("bloom")
    ids, _ = batch([400], 400)
    said = r"2 maps of 1 × 4 × 400 × 400, 5 MiB; the limit is 4 MiB \(limit=…\)"
    ran = model.transformer.h[0].register_forward_hook(lambda *given: pytest.fail("the model ran"))
    with torch.no_grad(), pytest.raises(ModelError, match=said), EagerTap(model, lambda call: None, limit=4):
        model(input_ids=ids)
    ran.remove()
    untouched(model)
    assert len(heard(model, input_ids=ids, limit=5)) == 2


def test_families_without_maps_are_refused_by_name():
    import transformers

    for model, said in [
        (
            transformers.LongformerModel(transformers.LongformerConfig(**LONG, attention_window=4)),
            "banded weights",
        ),
        (
            transformers.BigBirdModel(transformers.BigBirdConfig(**{**LONG, "sep_token_id": 3})),
            "random blocks",
        ),
        (tiny("llama"), "the slow route is for"),
        (torch.nn.Linear(2, 2), "the slow route is for"),
    ]:
        with pytest.raises(ModelError, match=said):
            EagerTap(model, lambda call: None)
    assert EagerTap.finds(tiny("llama")) == EagerTap.finds(torch.nn.Linear(2, 2)) == []
    ids, _ = batch([8], 8)
    rwkv = transformers.RwkvForCausalLM(
        transformers.RwkvConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    )
    funnel = transformers.FunnelModel(
        transformers.FunnelConfig(
            vocab_size=60, block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=48
        )
    )
    for model, said in [
        (rwkv, "num_attention_heads"),
        (funnel, r"attention modules; expected one of each|expected \[batch"),
    ]:
        with (
            torch.no_grad(),
            pytest.raises(ModelError, match=said),
            EagerTap(model.eval(), lambda call: None),
        ):
            model(input_ids=ids)
        untouched(model)


def test_padding_of_which_the_model_was_not_told_is_refused():
    model = slow("gpt-neo")
    ids, mask = batch([9, 6], 9, "left")
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="of its attention to padding"),
        EagerTap(model, lambda call: None, query_valid=mask.bool()),
    ):
        model(input_ids=ids)
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match=r"attention_mask of shape \[2, 1, 9, 9\]"),
        EagerTap(model, lambda call: None),
    ):
        model(input_ids=ids, attention_mask=torch.zeros(2, 1, 9, 9))
    untouched(model)


def test_what_is_no_map_is_refused():
    """A model that gives its scores in place of its weights, or banded weights."""
    model = slow("bloom")
    inner = model.transformer.h[1].self_attention
    kept = inner.forward
    inner.forward = lambda *given, **named: (lambda out: (out[0], out[1] * 1.01))(kept(*given, **named))
    ids, _ = batch([9], 9)
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match=r"sum to 1 ± 0\.01"),
        EagerTap(model, lambda call: None),
    ):
        model(input_ids=ids)
    inner.forward = lambda *given, **named: (lambda out: (out[0], torch.nn.functional.pad(out[1], (0, 2))))(
        kept(*given, **named)
    )
    with (
        torch.no_grad(),
        pytest.raises(
            ModelError, match=r"gives \[1, 4, 9, 11\] as its attention, expected \[batch, heads, 9, 9\]"
        ),
        EagerTap(model, lambda call: None),
    ):
        model(input_ids=ids)


@pytest.mark.parametrize("name", ["bloom", "falcon"])
def test_three_ways_out(name):
    model = slow(name)
    backend = model.config._attn_implementation
    ids, _ = batch([9], 9)

    def broken(call):
        raise RuntimeError("stop")

    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"), EagerTap(model, broken):
        model(input_ids=ids)
    untouched(model, backend)
    with torch.no_grad(), pytest.raises(IndexError), EagerTap(model, lambda call: None):
        model(input_ids=ids + 1000)
    untouched(model, backend)
    with pytest.raises(InputError, match="layers"):
        EagerTap(model, lambda call: None, layers=["nothing"])
    with (
        pytest.raises(ModelError, match="its attention was never called"),
        EagerTap(model, lambda call: None),
    ):
        pass
    assert [c.layer for c in heard(model, input_ids=ids, layers=[1])] == [1]
    model.train()
    with pytest.raises(ModelError, match="training mode"), EagerTap(model, lambda call: None):
        model(input_ids=ids)
    untouched(model, backend)


def test_a_failure_in_the_second_pass_leaves_the_config_as_it_was():
    model = slow("falcon")
    passes = []

    def second(module, given):
        passes.append(1)
        if len(passes) == 2:
            assert model.config._attn_implementation == "eager"
            raise RuntimeError("in the second pass")

    model.transformer.h[1].register_forward_pre_hook(second)
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="in the second pass"),
        EagerTap(model, lambda call: None),
    ):
        model(input_ids=batch([9], 9)[0])
    untouched(model, "sdpa")
