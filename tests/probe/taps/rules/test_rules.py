"""From arguments and masks to rules: what is derived, what is proven, what is refused by name."""

import pytest
import torch
from heard import derive, flash, observed, packed_lengths, sdpa
from tiny_models import batch, inputs_for, tiny

import probe
from probe import InputError, ModelError
from probe.kernels.score import ScoreSpec
from probe.taps.rules import masks
from probe.taps.rules.derive import Rules, describe

LOW = torch.finfo(torch.float32).min
AWAY = (torch.arange(6)[:, None] - torch.arange(6)).abs()


def own(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    raise NotImplementedError


def causal_mask(n=6, window=None):
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    seen = (j <= i) if window is None else (j <= i) & (i - j < window)
    return seen.expand(2, 1, n, n).clone()


@pytest.mark.parametrize(
    ("seen", "rule"),
    [
        (observed(), "full"),
        (observed(function=sdpa()), "causal"),
        (observed(function=sdpa(), causal=False), "full"),
        (observed(function=sdpa(), causal=False, is_causal=True), "causal"),
        (observed(function=sdpa(), causal=True, is_causal=False), "full"),
        (observed(function=sdpa(), sliding_window=3), "causal"),
        (observed(function=sdpa(), n=(1, 6)), "causal"),
        (observed(function=sdpa(), n=(1, 6), causal=False), "full"),
        (observed(function=flash(), sliding_window=3), "causal window 3"),
        (observed(function=flash(), causal=False, sliding_window=3), "full window 3"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_without_a_mask_the_rule_is_what_the_backend_then_does(seen, rule):
    assert describe(derive(seen, "m")) == rule


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize(
    ("mask", "rule", "extra"),
    [
        (causal_mask(), "causal", {}),
        (causal_mask(), "causal", {"causal": False}),
        (causal_mask(window=3), "causal window 3", {"sliding_window": 3}),
        (causal_mask(window=3), "causal window 3", {"config": {"sliding_window": 3}}),
        (causal_mask(), "causal", {"sliding_window": 3}),
        (torch.ones(2, 1, 6, 6, dtype=torch.bool), "full", {}),
        (AWAY.le(2).expand(2, 1, 6, 6), "full window 3", {"sliding_window": 2}),
        (AWAY.lt(2).expand(2, 1, 6, 6), "full window 2", {"sliding_window": 2}),
        (causal_mask() & (torch.arange(6)[:, None] // 2 == torch.arange(6) // 2), "causal chunks of 2",
         {"config": {"attention_chunk_size": 2}}),
    ],
)  # fmt: skip
def test_a_mask_gives_the_rule_that_reproduces_it(mask, rule, extra, additive):
    given = torch.where(mask, 0.0, LOW) if additive else mask
    assert describe(derive(observed(given, **extra), "m")) == rule


def test_a_longer_mask_is_cut_and_decoding_has_an_offset():
    seen = torch.ones(2, 1, 2, 9, dtype=torch.bool)
    seen[:, :, 0, 5] = False
    spec = derive(observed(seen, n=(2, 6)), "m")
    assert (describe(spec), spec.offset) == ("causal", 4)


def test_padding_goes_into_the_rule_and_padded_rows_do_not_count():
    valid = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    mask = causal_mask() & valid[:, None, None, :]
    mask[0, 0, 0] = True  # what a padded query sees is nobody's business
    spec = derive(observed(mask), "m", valid)
    assert describe(spec) == "causal"
    assert torch.equal(spec.key_valid, valid)
    assert torch.equal(spec.query_valid, valid)


@pytest.mark.parametrize(
    "entries", [[(0, 0, 2, 1)], [(1, 0, 5, 0)], [(1, 0, 0, 5), (1, 0, 1, 5)]], ids=["inner", "first", "ahead"]
)
@pytest.mark.parametrize("additive", [False, True])
def test_entries_that_differ_are_found_and_named(entries, additive):
    mask = causal_mask()
    for entry in entries:
        mask[entry] = ~mask[entry]
    given = torch.where(mask, 0.0, LOW) if additive else mask
    sample, _, query, key = entries[0]
    said = "hidden" if key <= query else "visible"
    with pytest.raises(
        ModelError, match=rf"m: .*sample {sample}, query {query}, key {key}: the mask says {said}"
    ):
        derive(observed(given), "m")


def test_an_entry_beyond_the_first_block_of_rows_is_found(monkeypatch):
    monkeypatch.setattr(masks, "_BLOCK", 12)
    mask = causal_mask()
    mask[1, 0, 5, 2] = False
    with pytest.raises(ModelError, match="sample 1, query 5, key 2"):
        derive(observed(mask), "m")


def test_a_mask_that_differs_by_head_is_refused():
    mask = causal_mask().expand(2, 2, 6, 6).clone()
    mask[1, 1, 4, 0] = False
    with pytest.raises(ModelError, match="sample 1, query 4, key 0"):
        derive(observed(mask), "m")


def test_a_mask_is_proven_once_and_again_after_a_change(monkeypatch):
    rules, mask, proofs = Rules(), causal_mask(), []
    first_mismatch = masks.first_mismatch

    def counting(*arguments):
        proofs.append(arguments)
        return first_mismatch(*arguments)

    monkeypatch.setattr("probe.taps.rules.derive.first_mismatch", counting)
    derive(observed(mask), "a", rules=rules)
    spec = derive(observed(mask, scaling=0.25), "b", rules=rules)
    assert (len(proofs), spec.scale) == (1, 0.25)
    mask[0, 0, 3, 1] = False
    with pytest.raises(ModelError, match="c: the mask follows none"):
        derive(observed(mask), "c", rules=rules)


def test_proofs_of_masks_that_are_gone_are_forgotten():
    rules = Rules()
    for step in range(5):
        mask = causal_mask(window=1 + step % 3)
        derive(observed(mask, sliding_window=1 + step % 3), "m", rules=rules)
        assert len(rules._proven) <= 2


def test_a_proof_does_not_hold_under_another_padding():
    rules, mask = Rules(), causal_mask()
    derive(observed(mask), "a", rules=rules)
    with pytest.raises(ModelError, match="query 2, key 1: the mask says visible, the rule hidden"):
        derive(observed(mask), "b", torch.tensor([[True] * 6, [True, False, True, True, True, True]]), rules)


def test_a_block_mask_is_read_through_its_function():
    from torch.nn.attention.flex_attention import create_block_mask
    from transformers.integrations.flex_attention import flex_attention_forward

    def windowed(b, h, i, j):
        return (j <= i) & (i - j < 3)

    mask = create_block_mask(windowed, 2, None, 6, 6, device="cpu", BLOCK_SIZE=128)
    seen = observed(mask, function=flex_attention_forward, sliding_window=3)
    assert describe(derive(seen, "m")) == "causal window 3"
    with pytest.raises(ModelError, match="query 3, key 0"):
        derive(observed(mask, function=flex_attention_forward), "m")


PADDED = torch.tensor([[True] * 6, [False] + [True] * 5])


@pytest.mark.parametrize(
    ("seen", "valid", "said"),
    [
        (observed(function=sdpa()), PADDED, "the input is padded, but the sdpa backend got no mask"),
        (observed(function=own), None, "the attention function 'mine' got no mask"),
        (observed(n=(6, 4)), None, "6 queries and only 4 keys"),
        (observed(n=(3, 4)), PADDED, "4 keys .* do not fit their padding mask"),
        (observed(torch.ones(2, 6, dtype=torch.bool)), None, r"cannot read a mask of form \(2, 6\)"),
        (observed(object()), None, "cannot read a mask of form object"),
        (observed(~PADDED, function=flash()), PADDED, "differs from the input's attention_mask"),
        (observed(position_bias=torch.zeros(1)), None, r"cannot read a bias of shape \[1\]"),
        (observed(function=flash(), position_bias=torch.zeros(1)), None, "which flash attention leaves out"),
        (observed(cache=object()), None, "paged cache"),
        (observed(**packed_lengths([0, 4])), None, "packed .cu_seq_lens.*rise from 0 to 6"),
        (observed(**packed_lengths([0, 6]) | {"batch": 2}), None, "packed .cu_seq_lens.*2 rows"),
        (observed(batch=1, function=flash(), position_ids=torch.tensor([[3, 4, 5, 0, 1, 2]])), None, "jump"),
        (observed(function=sdpa(), s_aux=torch.zeros(2)), None, "sinks .s_aux., which sdpa leaves out"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(seen, valid, said):
    with pytest.raises(ModelError, match=f"^m.*{said}") as caught:
        derive(seen, "m", valid)
    assert "\n" not in str(caught.value)


def test_dropout_in_training_is_refused():
    seen = observed(dropout=0.1)
    seen.module.train()
    with pytest.raises(ModelError, match=r"dropout 0\.1 is active; call model\.eval"):
        derive(seen, "m")


def test_an_unknown_argument_of_the_models_attention_is_refused():
    def with_bias(module, query, key, value, attention_mask, scaling, relative_bias=None, **kwargs):
        raise NotImplementedError

    seen = observed(default=with_bias, function=with_bias, relative_bias=torch.zeros(1))
    with pytest.raises(ModelError, match="takes relative_bias, whose effect"):
        derive(seen, "m")
    assert derive(observed(default=with_bias, function=with_bias), "m").scale == 0.5


def test_sinks_of_the_module_that_are_not_passed_are_refused():
    def with_sinks(module, query, key, value, attention_mask, scaling, **kwargs):
        return module.sinks

    with pytest.raises(ModelError, match=r"reads module\.sinks, but no s_aux"):
        derive(observed(default=with_sinks, function=with_sinks), "m")


@pytest.mark.parametrize(("name", "what"), [("query", "queries"), ("key", "keys")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_place(name, what, value):
    seen = observed()
    seen.arguments[name][1, 1, 3, 2] = value
    with pytest.raises(ModelError, match=f"m: NaN or infinity in the {what} of sample 1, position 3"):
        derive(seen, "m")


def test_values_that_are_not_finite_at_padding_do_not_matter():
    valid = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    seen = observed(valid[:, None, None, :].expand(2, 1, 6, 6), causal=False)
    seen.arguments["key"][1, 1, 3, 2] = float("nan")
    assert isinstance(derive(seen, "m", valid), ScoreSpec)


def test_scale_softcap_and_sink_are_taken_over():
    sink = torch.tensor([0.5, -1.0])
    spec = derive(observed(scaling=None, softcap=30.0, s_aux=sink), "m")
    assert (spec.scale, spec.softcap) == (0.5, 30.0)  # 4 ** -0.5
    assert torch.equal(spec.sink, sink)


def test_a_four_dimensional_mask_of_the_users_own_is_proven_too():
    model = tiny("llama")
    ids, _ = batch([6, 6], 6)
    tree = probe.capture(model, {"input_ids": ids, "attention_mask": causal_mask()})
    assert tree.attrs["rules"] == ["causal", "causal"]
    block = causal_mask()
    block[:, :, 3:, :3] = False  # two packed texts
    tree = probe.capture(model, {"input_ids": ids, "attention_mask": block})
    assert tree.attrs["rules"] == ["causal documents", "causal documents"]
    block[:, :, 5, 0] = True  # and one look back
    with pytest.raises(ModelError, match=r"self_attn: the mask follows none.*query 3, key 0"):
        probe.capture(model, {"input_ids": ids, "attention_mask": block})


def test_bias_in_two_dimensions_and_reduced_keys_are_refused_by_name():
    for name in ("beit-bias", "swin-windows"):
        with pytest.raises(ModelError, match=r"attention: .*no function of the distance from query to key"):
            probe.capture(tiny(name), inputs_for(name))


def test_unknown_ids_are_refused_before_the_model_runs():
    with pytest.raises(InputError, match="got ids from 4 to 99, expected 0 to 59"):
        probe.capture(tiny("llama"), {"input_ids": torch.tensor([[4, 99]])})
