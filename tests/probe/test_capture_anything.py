"""`probe.capture` chooses the way by itself: slow route, own attention, bridges, pictures placed, heads kept."""

import copy
import warnings

import numpy as np
import pytest
import tiny_vision as tv
import torch
from family_sweep import STATISTICS, compare, state, truth
from own_models import PictureTransformer, SmallGPT, own, written_out
from tiny_models import OUTSIDE, batch, inputs_for, tiny

import probe
from probe import InputError, ModelError
from probe.families.vision import image_tokens, patches
from probe.record import towers


def assert_maps(tree, tower, exact, plain):
    """Every layer of a tower within four times the error of plain float32."""
    data = tree[tower].to_dataset()
    valid = torch.from_numpy(tree[data.attrs["queries"]]["valid"].values)
    assert data.sizes["layer"] == len(exact)
    for index, (p, rough) in enumerate(zip(exact, plain, strict=True)):
        for name, want in truth(p, valid, False).items():
            if name == "received":
                want = np.where(valid[:, None, :].numpy(), want, np.nan)
            near = truth(rough, valid, False)[name]
            allowed = 4 * np.nanmax(np.abs(near - truth(p, valid, False)[name])) + 1e-5 * max(
                1.0, np.nanmax(np.abs(want))
            )
            got = data[name].values[:, index]
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
            assert np.nanmax(np.abs(got - want)) <= allowed, (index, name)


def slow_maps(model, inputs, dtype):
    twin = copy.deepcopy(model).to(dtype)
    twin.config._attn_implementation = "eager"
    with torch.no_grad():
        return [x.double() for x in twin(**inputs, output_attentions=True).attentions]


@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_families_outside_the_interface_are_captured_as_they_write_their_maps(name, side):
    model = tiny(name, "eager")
    inputs = inputs_for(name, padded=side)
    with torch.no_grad():
        plain = model(**inputs).logits
    before = state(model)
    tree = probe.capture(model, inputs, stats=STATISTICS)
    assert state(model) == before
    assert tree["validity"].attrs["passed"]
    with torch.no_grad():
        assert torch.equal(plain, model(**inputs).logits)
    valid = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    maps = [
        [m.nan_to_num() * valid[:, None, :, None] for m in slow_maps(model, inputs, d)]
        for d in (torch.float64, torch.float32)
    ]
    assert_maps(tree, "text", *maps)


def test_the_slow_route_has_a_limit_that_the_user_may_move():
    model = tiny("bloom", "eager")
    with pytest.raises(ModelError, match="the limit is 0 MiB"):
        probe.capture(model, inputs_for("bloom"), limit=0)


def test_a_model_that_calls_the_function_itself():
    model = own(PictureTransformer)
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tree = probe.capture(model, image, stats=STATISTICS)
    assert towers(tree) == ["vision"]
    assert tree["patches"].sizes == {"sample": 2, "token": 17}
    assert tree["validity"].attrs["passed"]
    assert_maps(tree, "vision", written_out(model, image), written_out(model, image, dtype=torch.float32))


def test_a_decoder_of_ones_own():
    model = own(SmallGPT)
    ids, _ = batch([9], 9)
    tree = probe.capture(model, {"ids": ids}, stats=STATISTICS)
    assert tree.attrs["rules"] == ["causal", "causal"]
    rules = {"is_causal": True}
    assert_maps(
        tree, "text", written_out(model, ids, **rules), written_out(model, ids, dtype=torch.float32, **rules)
    )


def test_multihead_attention():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        plain = model(x)
    tree = probe.capture(model, {"src": x}, stats=STATISTICS)
    assert tree["text"].sizes["layer"] == 2
    assert tree["validity"].attrs["passed"]
    with torch.no_grad():
        assert torch.equal(plain, model(x))


def test_a_bridge_gives_the_record_of_its_model(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from probe.taps.lens import bridge_of

    model = tiny("gpt2", "eager")
    model.config.architectures = ["GPT2LMHeadModel"]
    ids, _ = batch([9], 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = bridge_of(model)
        there = probe.capture(bridge, {"input_ids": ids}, stats=STATISTICS)
    here = probe.capture(model, {"input_ids": ids}, stats=STATISTICS)
    for name in STATISTICS:
        np.testing.assert_allclose(
            there[f"text/{name}"].values, here[f"text/{name}"].values, rtol=2e-5, atol=2e-6
        )
    compare(here, model, {"input_ids": ids})


def test_a_model_without_attention_is_refused():
    with pytest.raises(ModelError, match="Linear: no module of it computes attention"):
        probe.capture(torch.nn.Linear(3, 3).eval(), torch.zeros(2, 3))


@pytest.mark.parametrize("name", tv.TEXTS)
def test_patches_and_image_tokens_stand_in_the_record(name):
    case, net = tv.CASES[name], tv.model(tv.CASES[name])
    processor = tv.image_processor(case, 4)
    sizes = [(200, 350), (360, 124)]
    inputs = tv.inputs_of(case, processor, [tv.noise(size, n) for n, size in enumerate(sizes)])
    inputs = {n: x if torch.is_tensor(x) else torch.as_tensor(x) for n, x in inputs.items()}
    tree = probe.capture(net, inputs, images=sizes, processor=processor)
    tower = patches(net.config, inputs, sizes, processor)
    text = image_tokens(net.config, inputs["input_ids"], inputs, sizes, processor)
    for group, table in (("patches", tower), ("tokens", text)):
        stored = tree[group].to_dataset()
        for side in ("x0", "y0", "x1", "y1", "image", "row", "column"):
            np.testing.assert_array_equal(stored[side].values, table[side].values)
        placed = np.isfinite(table["x0"].values)
        assert set(stored["role"].values[placed].tolist()) == {"patch"}
    assert (tree["patches/image"].values.max(), tree["tokens/image"].values.max()) == (1, 1)
    assert tree["validity"].attrs["passed"]


def test_sizes_that_do_not_fit_the_inputs_are_refused():
    case = tv.CASES["qwen2-vl"]
    net, processor = tv.model(case), tv.image_processor(case, 4)
    inputs = dict(tv.inputs_of(case, processor, [tv.noise((200, 350), 0)]))
    with pytest.raises(InputError):
        probe.capture(net, inputs, images=[(350, 200)], processor=processor)
    with pytest.raises(InputError, match="need the processor"):
        probe.capture(net, inputs, images=[(200, 350)])


def test_kept_heads_give_every_entry_of_their_maps(tmp_path):
    model = tiny("mistral-window")
    ids, mask = batch([30, 21], 30, "left")
    inputs = {"input_ids": ids, "attention_mask": mask}
    store = tmp_path / "kept.zarr"
    probe.capture(model, inputs, store=store, keep="qkv", heads={1: [3, 0]})
    tree = probe.open_record(store)
    assert list(tree["qkv/text"].children) == ["1"]
    exact = written_by(model, inputs)[1]
    for head in (0, 3):
        for sample in range(2):
            view = probe.zoom(tree, layer=1, head=head, sample=sample)
            assert view.attrs["exact"]
            got, want = view["value"].values, exact[sample, head].numpy()
            seen = np.isfinite(got)
            assert np.abs(got - want)[seen].max() < 1e-5
            assert np.abs(want[~seen & mask[sample].bool().numpy()[:, None]]).max() == 0
    with pytest.raises((InputError, probe.RecordError)):
        probe.zoom(tree, layer=0, head=0)


def written_by(model, inputs):
    from family_sweep import written_out as all_maps

    return [calls[0] for calls in all_maps(model, inputs, torch.float64).values()]


@pytest.mark.parametrize(
    ("options", "said"), [({"keep": "all"}, "expected 'qkv'"), ({"heads": {0: [0]}}, "keep='qkv'")]
)
def test_odd_wishes_to_keep_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        probe.capture(tiny("llama"), inputs_for("llama"), **options)


def test_estimates_stand_beside_their_error_and_only_under_their_own_name():
    model = tiny("llama", max_position_embeddings=2048)
    inputs = {"input_ids": batch([1500], 1500)[0]}
    exact = probe.capture(model, inputs, stats="received")["text/received"].values
    asked = {"stats": ("received_sampled", "received_error"), "seed": 3}
    tree = probe.capture(model, inputs, sampled=0.5, **asked)
    again = probe.capture(model, inputs, sampled=0.5, **asked)
    got, error = (tree[f"text/{name}"].values for name in asked["stats"])
    assert tree.attrs["sampled"] == 0.5
    assert "received" not in tree["text"].data_vars
    np.testing.assert_array_equal(got, again["text/received_sampled"].values)
    assert 0 < np.median(error) < np.median(exact)
    share = np.mean(np.abs(got - exact) <= 3 * error + 1e-6)
    assert share > 0.8
    whole = probe.capture(model, inputs, sampled=1.0, **asked)
    np.testing.assert_allclose(whole["text/received_sampled"].values, exact, rtol=2e-5, atol=1e-6)
    assert not whole["text/received_error"].values.any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stats": "received_sampled"}, "say from which share"),
        ({"sampled": 0.1}, "no estimate was asked for"),
        ({"stats": "received_sampled", "sampled": 1.5}, "more than 0 and at most 1"),
    ],
)
def test_odd_samples_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        probe.capture(tiny("llama"), inputs_for("llama"), **options)
