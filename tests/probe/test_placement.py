"""Models over several devices, offloaded, quantised: recorded as plain ones are; compiled ones are refused by name."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from attention_oracle import EPS32
from tiny_cnns import Gated, picture, seeded
from tiny_models import batch, tiny
from torch import nn

import probe
from probe import placement
from probe._maps import maps
from probe.errors import ModelError

STATISTICS = ("entropy", "received", "lse", "key_mass")
PARTS = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "disk"}
PARTS |= {"model.rotary_emb": "cpu", "lm_head": "disk"}


@pytest.fixture
def inputs():
    ids, mask = batch([13, 9], 13, "left")
    return {"input_ids": ids, "attention_mask": mask, "logits_to_keep": 0}


def record(model, inputs):
    """The record, after checking that the model's logits are bit-identical to those without capture."""
    with torch.no_grad():
        plain = model(**inputs, use_cache=False).logits
    heard = []
    handle = model.register_forward_hook(lambda _m, _a, out: heard.append(out.logits.clone()))
    try:
        tree = probe.capture(model, inputs, stats=STATISTICS)
    finally:
        handle.remove()
    assert torch.equal(heard[0], plain)
    assert tree["validity"].attrs["passed"]
    return tree


def assert_same(tree, reference):
    for name in STATISTICS:
        np.testing.assert_array_equal(tree[f"text/{name}"].values, reference[f"text/{name}"].values)


def offloaded(way, model, folder):
    from accelerate import cpu_offload, disk_offload, dispatch_model
    from transformers import AutoModelForCausalLM

    if way == "cpu offload":
        return cpu_offload(model, execution_device="cpu")
    if way == "disk offload":
        return disk_offload(model, str(folder / "off"), execution_device="cpu")
    if way == "dispatched":
        return dispatch_model(model, PARTS, main_device="cpu", offload_dir=str(folder / "off"))
    model.save_pretrained(folder / "saved")
    where = PARTS if way == "device_map" else "auto"
    return AutoModelForCausalLM.from_pretrained(
        folder / "saved", device_map=where, offload_folder=str(folder / "off"), attn_implementation="sdpa"
    ).eval()


@pytest.mark.parametrize("way", ["cpu offload", "disk offload", "dispatched", "device_map", "auto"])
def test_weights_that_are_brought_in_for_each_call(way, inputs, tmp_path):
    reference = record(tiny("llama"), inputs)
    model = offloaded(way, tiny("llama"), tmp_path)
    found = placement.placement(model)
    assert bool(found.offloaded) == (way != "auto")
    assert ("meta" in found.devices) == (way != "auto")
    assert placement.input_device(model) == torch.device("cpu")
    forwards = [m.forward for m in model.modules()]
    tree = record(model, inputs)
    assert_same(tree, reference)
    assert tree.attrs["device"] == "cpu"
    assert [m.forward for m in model.modules()] == forwards
    assert placement.placement(model) == found


def test_offloaded_sinks(tmp_path):
    from accelerate import disk_offload

    ids, _ = batch([12], 12)
    reference = record(tiny("gpt-oss-sinks-window", "eager"), {"input_ids": ids, "logits_to_keep": 0})
    model = disk_offload(tiny("gpt-oss-sinks-window", "eager"), str(tmp_path), execution_device="cpu")
    assert_same(record(model, {"input_ids": ids, "logits_to_keep": 0}), reference)
    assert reference["text/key_mass"].values.max() < 1


def test_inputs_go_where_accelerate_computes():
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert placement.input_device(model) == torch.device("cpu")
    assert placement.input_device(
        nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    ) == torch.device("cpu")
    model[0]._hf_hook = AlignDevicesHook(
        execution_device=1, offload=True
    )  # not attached: there is no such device here
    assert placement.input_device(model) == torch.device("cuda:1")
    model._hf_hook = SequentialHook(AlignDevicesHook(execution_device="meta"))
    assert placement.input_device(model) == torch.device("meta")
    assert placement.placement(model).offloaded == ("0",)


def test_an_offloaded_network_of_convolutions():
    from accelerate import cpu_offload

    reference = maps(seeded(Gated()), picture(), layers="body", gradient_of=None)
    tree = maps(cpu_offload(seeded(Gated()), execution_device="cpu"), picture(), layers="body")
    np.testing.assert_array_equal(tree["maps/body/activation"], reference["maps/body/activation"])
    np.testing.assert_array_equal(tree["gates/squeeze/channel_gate"], reference["gates/squeeze/channel_gate"])


def quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this moves to another package
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def heard_queries_and_keys(model, inputs):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from probe.taps.interface import listen, unlisten

    seen = []

    def listener(observed):
        seen.append(
            [observed.arguments[n].double() for n in ("query", "key")] + [observed.arguments["scaling"]]
        )

    listen(ALL_ATTENTION_FUNCTIONS, listener)
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        unlisten(ALL_ATTENTION_FUNCTIONS, listener)
    return seen


def test_quantised_linear_layers(inputs):
    model = quantised(tiny("llama"))
    assert len(placement.placement(model).quantised) >= 14
    tree = record(model, inputs)
    plain = record(tiny("llama"), inputs)
    valid = inputs["attention_mask"].bool()
    causal = torch.ones(13, 13).tril().bool()
    for layer, (q, k, scale) in enumerate(heard_queries_and_keys(model, inputs)):
        scores = scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT
        p = scores.masked_fill(~(causal & valid[:, None, None]), -torch.inf).softmax(-1).nan_to_num()
        rows = valid[:, None].expand(-1, 4, -1)
        entropy = -torch.special.xlogy(p, p).sum(-1)
        received = (p * rows[..., None]).sum(-2)
        for name, want in (("entropy", entropy), ("received", received)):
            got = torch.from_numpy(tree[f"text/{name}"].values[:, layer])
            assert torch.equal(got.isnan(), ~rows)
            assert (got[rows] - want[rows]).abs().max() < 64 * EPS32 * want.max()
    assert (
        np.nanmax(np.abs(tree["text/entropy"].values - plain["text/entropy"].values)) > 1e-3
    )  # it is another model


def test_packed_weights_are_known_as_quantised():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    assert placement.placement(nn.Sequential(nn.Linear(4, 4), layer)).quantised == ("1",)


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def one_layer(model):
    model.model.layers[1].compile(backend="eager")
    return model


def one_attention(model):
    model.model.layers[1].self_attn = torch.compile(model.model.layers[1].self_attn, backend="eager")
    return model


def forward_only(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def parallel(model):
    return nn.DataParallel(model).eval()


REFUSED = {
    whole: r"OptimizedModule: the model is compiled \(torch.compile\)",
    in_place: r"LlamaForCausalLM: the model is compiled",
    one_layer: r"model.layers.1: 1 of its modules are compiled",
    one_attention: r"model.layers.1.self_attn: 1 of its modules are compiled",
    forward_only: r"LlamaForCausalLM: the model is compiled",
    parallel: r"DataParallel: DataParallel runs copies .* \(model.module\)",
}


@pytest.mark.parametrize("way", REFUSED, ids=lambda f: f.__name__)
def test_what_cannot_be_heard_is_refused_before_it_runs(way, inputs):
    model = tiny("llama")
    calls = []
    model.model.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ModelError, match=REFUSED[way]):
        probe.capture(way(model), inputs)
    assert calls == []


def test_compiled_and_scripted_networks_give_no_maps():
    model = seeded(Gated())
    model.stem.compile(backend="eager")
    with pytest.raises(ModelError, match="stem: 1 of its modules are compiled"):
        maps(model, picture(), layers="body")
    with pytest.raises(ModelError, match="TorchScript"):
        maps(torch.jit.script(nn.Conv2d(3, 4, 3).eval()), picture(), layers="last-conv")


def test_looking_changes_nothing_and_runs_nothing():
    model = tiny("llama")
    before = copy.deepcopy(model.state_dict())
    found = placement.placement(model)
    assert json.loads(json.dumps(vars(found)))["devices"] == ["cpu"]
    assert (found.offloaded, found.quantised, found.compiled, found.wrapped) == ((), (), (), None)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
