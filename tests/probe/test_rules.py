"""From arguments and masks to rules: what is derived, what is proven, what is refused by name."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import batch, tiny

import probe
from probe import InputError, ModelError
from probe.kernels.score import ScoreSpec
from probe.taps import masks
from probe.taps._switch import Observed
from probe.taps.rules import Rules, describe

LOW = torch.finfo(torch.float32).min
AWAY = (torch.arange(6)[:, None] - torch.arange(6)).abs()


def eager(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    raise NotImplementedError


def own(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    raise NotImplementedError


def observed(mask=None, *, function=eager, default=eager, causal=True, n=(6, 6), config=None, **arguments):
    module = torch.nn.Module().eval()
    module.is_causal = causal
    module.config = SimpleNamespace(**(config or {}))
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 2, size, 4, generator=generator) for size in n)
    given = {"query": q, "key": k, "value": k, "attention_mask": mask, "scaling": 0.5, **arguments}
    return Observed(module, "mine", function, default, given, q)


def sdpa():
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def flash():
    from transformers.integrations.flash_attention import flash_attention_forward

    return flash_attention_forward


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
        (observed(function=sdpa(), n=(1, 6)), "full"),
        (observed(function=flash(), sliding_window=3), "causal window 3"),
        (observed(function=flash(), causal=False, sliding_window=3), "full window 3"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_without_a_mask_the_rule_is_what_the_backend_then_does(seen, rule):
    assert describe(Rules(None).derive(seen, "m")) == rule


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
    assert describe(Rules(None).derive(observed(given, **extra), "m")) == rule


def test_a_longer_mask_is_cut_and_decoding_has_an_offset():
    seen = torch.ones(2, 1, 2, 9, dtype=torch.bool)
    seen[:, :, 0, 5] = False
    spec = Rules(None).derive(observed(seen, n=(2, 6)), "m")
    assert (describe(spec), spec.offset) == ("causal", 4)


def test_padding_goes_into_the_rule_and_padded_rows_do_not_count():
    valid = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    mask = causal_mask() & valid[:, None, None, :]
    mask[0, 0, 0] = True  # what a padded query sees is nobody's business
    spec = Rules(valid).derive(observed(mask), "m")
    assert describe(spec) == "causal"
    assert torch.equal(spec.key_valid, valid)
    assert torch.equal(spec.query_valid, valid)


@pytest.mark.parametrize("entry", [(0, 0, 2, 1), (1, 0, 5, 0), (1, 0, 0, 5)])
@pytest.mark.parametrize("additive", [False, True])
def test_one_entry_that_differs_is_found_and_named(entry, additive):
    mask = causal_mask()
    mask[entry] = ~mask[entry]
    given = torch.where(mask, 0.0, LOW) if additive else mask
    said = "hidden" if entry[3] <= entry[2] else "visible"
    with pytest.raises(
        ModelError, match=rf"m: .*sample {entry[0]}, query {entry[2]}, key {entry[3]}: the mask says {said}"
    ):
        Rules(None).derive(observed(given), "m")


def test_an_entry_beyond_the_first_block_of_rows_is_found(monkeypatch):
    monkeypatch.setattr(masks, "_BLOCK", 12)
    mask = causal_mask()
    mask[1, 0, 5, 2] = False
    with pytest.raises(ModelError, match="sample 1, query 5, key 2"):
        Rules(None).derive(observed(mask), "m")


def test_a_mask_that_differs_by_head_is_refused():
    mask = causal_mask().expand(2, 2, 6, 6).clone()
    mask[1, 1, 4, 0] = False
    with pytest.raises(ModelError, match="sample 1, query 4, key 0"):
        Rules(None).derive(observed(mask), "m")


def test_a_bias_in_the_mask_is_refused_with_its_place():
    mask = torch.where(causal_mask(), 0.0, LOW)
    mask[1, 0, 4, 2] = -1.5
    with pytest.raises(ModelError, match=r"a bias.*adds -1\.5 at sample 1, head 0, query 4, key 2"):
        Rules(None).derive(observed(mask), "m")


def test_a_mask_is_proven_once_and_again_after_a_change(monkeypatch):
    rules, mask, proofs = Rules(None), causal_mask(), []
    first_mismatch = masks.first_mismatch

    def counting(*arguments):
        proofs.append(arguments)
        return first_mismatch(*arguments)

    monkeypatch.setattr("probe.taps.rules.first_mismatch", counting)
    rules.derive(observed(mask), "a")
    spec = rules.derive(observed(mask, scaling=0.25), "b")
    assert (len(proofs), spec.scale) == (1, 0.25)
    mask[0, 0, 3, 1] = False
    with pytest.raises(ModelError, match="c: the mask follows none"):
        rules.derive(observed(mask), "c")


def test_a_block_mask_is_read_through_its_function():
    from torch.nn.attention.flex_attention import create_block_mask
    from transformers.integrations.flex_attention import flex_attention_forward

    def windowed(b, h, i, j):
        return (j <= i) & (i - j < 3)

    mask = create_block_mask(windowed, 2, None, 6, 6, device="cpu", BLOCK_SIZE=128)
    seen = observed(mask, function=flex_attention_forward, sliding_window=3)
    assert describe(Rules(None).derive(seen, "m")) == "causal window 3"
    with pytest.raises(ModelError, match="query 3, key 0"):
        Rules(None).derive(observed(mask, function=flex_attention_forward), "m")


PADDED = torch.tensor([[True] * 6, [True] * 5 + [False]])


@pytest.mark.parametrize(
    ("seen", "valid", "said"),
    [
        (observed(function=sdpa()), PADDED, "the input is padded, but the sdpa backend got no mask"),
        (observed(function=own), None, "the attention function 'mine' got no mask"),
        (observed(function=sdpa(), n=(3, 6)), None, "3 queries, 6 keys leaves keys out"),
        (observed(n=(6, 4)), PADDED, "do not fit the padding mask"),
        (observed(torch.ones(2, 6, dtype=torch.bool)), None, r"cannot read a mask of form \(2, 6\)"),
        (observed(object()), None, "cannot read a mask of form object"),
        (observed(~PADDED, function=flash()), PADDED, "differs from the input's attention_mask"),
        (observed(position_bias=torch.zeros(1)), None, "position_bias"),
        (observed(cache=object()), None, "paged cache"),
        (observed(cu_seq_lens_q=torch.zeros(2)), None, "packed"),
        (observed(function=sdpa(), s_aux=torch.zeros(2)), None, "sinks .s_aux., which sdpa leaves out"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(seen, valid, said):
    with pytest.raises(ModelError, match=f"^m.*{said}") as caught:
        Rules(valid).derive(seen, "m")
    assert "\n" not in str(caught.value)


def test_dropout_in_training_is_refused():
    seen = observed(dropout=0.1)
    seen.module.train()
    with pytest.raises(ModelError, match=r"dropout 0\.1 is active; call model\.eval"):
        Rules(None).derive(seen, "m")


def test_an_unknown_argument_of_the_models_attention_is_refused():
    def with_bias(module, query, key, value, attention_mask, scaling, relative_bias=None, **kwargs):
        raise NotImplementedError

    seen = observed(default=with_bias, function=with_bias, relative_bias=torch.zeros(1))
    with pytest.raises(ModelError, match="takes relative_bias, whose effect"):
        Rules(None).derive(seen, "m")
    assert Rules(None).derive(observed(default=with_bias, function=with_bias), "m").scale == 0.5


def test_sinks_of_the_module_that_are_not_passed_are_refused():
    def with_sinks(module, query, key, value, attention_mask, scaling, **kwargs):
        return module.sinks

    with pytest.raises(ModelError, match=r"reads module\.sinks, but no s_aux"):
        Rules(None).derive(observed(default=with_sinks, function=with_sinks), "m")


@pytest.mark.parametrize(("name", "what"), [("query", "queries"), ("key", "keys")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_place(name, what, value):
    seen = observed()
    seen.arguments[name][1, 1, 3, 2] = value
    with pytest.raises(ModelError, match=f"m: NaN or infinity in the {what} of sample 1, position 3"):
        Rules(None).derive(seen, "m")


def test_values_that_are_not_finite_at_padding_do_not_matter():
    valid = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    seen = observed(valid[:, None, None, :].expand(2, 1, 6, 6), causal=False)
    seen.arguments["key"][1, 1, 3, 2] = float("nan")
    assert isinstance(Rules(valid).derive(seen, "m"), ScoreSpec)


def test_scale_softcap_and_sink_are_taken_over():
    sink = torch.tensor([0.5, -1.0])
    spec = Rules(None).derive(observed(scaling=None, softcap=30.0, s_aux=sink), "m")
    assert (spec.scale, spec.softcap) == (0.5, 30.0)  # 4 ** -0.5
    assert torch.equal(spec.sink, sink)


def test_a_four_dimensional_mask_of_the_users_own_is_proven_too():
    model = tiny("llama")
    ids, _ = batch([6, 6], 6)
    tree = probe.capture(model, {"input_ids": ids, "attention_mask": causal_mask()})
    assert tree.attrs["rules"] == ["causal", "causal"]
    block = causal_mask()
    block[:, :, 3:, :3] = False  # two packed texts
    with pytest.raises(ModelError, match=r"self_attn: the mask follows none.*query 3, key 0"):
        probe.capture(model, {"input_ids": ids, "attention_mask": block})


def test_packed_positions_are_refused():
    ids, _ = batch([6], 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(ModelError, match="the mask follows none"):
        probe.capture(tiny("llama"), {"input_ids": ids, "position_ids": positions})


def test_models_of_other_shapes_are_refused_by_name():
    import transformers

    config = transformers.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4, vocab_size=60)
    model = transformers.T5Model(config).eval()
    ids, _ = batch([6], 6)
    with pytest.raises(ModelError, match=r"SelfAttention .*position_bias"):
        probe.capture(model, {"input_ids": ids, "decoder_input_ids": ids[:, :4]})
    config = transformers.BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=60,
    )  # fmt: skip
    bart = transformers.BartModel(config).eval()
    with pytest.raises(ModelError, match="only self-attention over the input's tokens"):
        probe.capture(bart, {"input_ids": ids, "decoder_input_ids": ids[:, :4]})
    only = probe.capture(bart, {"input_ids": ids, "decoder_input_ids": ids[:, :4]}, layers=["encoder.*"])
    assert only["text/module"].values.tolist() == ["encoder.layers.0.self_attn"]


def test_unknown_ids_are_refused_before_the_model_runs():
    with pytest.raises(InputError, match="got ids from 4 to 99, expected 0 to 59"):
        probe.capture(tiny("llama"), {"input_ids": torch.tensor([[4, 99]])})
