"""On a CUDA device, in the precision that models run in: outputs to the bit, statistics against float64."""

import math

import pytest
import torch
from tiny_models import batch, tiny

import probe
from probe.kernels.statistics import map_statistics
from probe.taps.hf import HFTap
from probe.taps.longmask import switch
from probe.taps.longmask.lazy import ROWS, LazyMask

pytestmark = pytest.mark.gpu

STATISTICS = ("entropy", "received", "max_prob", "distance", "second_moment", "lse", "key_mass")
LENGTH = 2048
LARGE = {
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 512,
    "max_position_embeddings": 4096,
}


def prepared(name, backend, dtype, lengths, side="left", **settings):
    model = tiny(name, backend, **settings).to("cuda", dtype)
    ids, mask = (x.cuda() for x in batch(lengths, LENGTH, side))
    return model, {"input_ids": ids, "attention_mask": mask}


def logits(model, inputs):
    with torch.no_grad():
        out = model(**inputs)
    return out.logits if "logits" in out else out.last_hidden_state


CASES = {
    "llama-sdpa": ("llama", "sdpa", LARGE),
    "llama-eager": ("llama", "eager", LARGE),
    "mistral-sdpa": ("mistral-window", "sdpa", {**LARGE, "sliding_window": 300}),
    "gpt-oss-eager": ("gpt-oss-sinks-window", "eager", {**LARGE, "head_dim": 64, "sliding_window": 300}),
    "bert-sdpa": (
        "bert",
        "sdpa",
        {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 4096},
    ),
}


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"]
)
@pytest.mark.parametrize("lengths", [(LENGTH,), (LENGTH, 1500)], ids=["whole", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_bit_identical(case, lengths, dtype):
    name, backend, settings = CASES[case]
    side = "right" if name == "bert" else "left"
    model, inputs = prepared(name, backend, dtype, lengths, side, **settings)
    plain = logits(model, inputs)
    assert torch.equal(plain, logits(model, inputs)), "the model itself is not deterministic here"
    heard = []

    def receive(call):
        heard.append(map_statistics(call.q, call.k, call.spec, STATISTICS))

    with HFTap(model, receive, valid=inputs["attention_mask"].bool()):
        tapped = logits(model, inputs)
    assert torch.equal(plain, tapped)
    assert len(heard) == model.config.num_hidden_layers


def exact(call, valid):
    """Statistics in float64 from the call's own q and k; causal, with padding."""
    q, k = call.q.double(), call.k.double().repeat_interleave(call.q.shape[1] // call.k.shape[1], 1)
    at = torch.arange(q.shape[2], device=q.device)
    hidden = ~((at[None, :] <= at[:, None]) & valid[:, None, None, :])
    scores = (q @ k.transpose(2, 3) * call.spec.scale).masked_fill(hidden, -math.inf)
    p = scores.softmax(-1).nan_to_num()
    rows = valid[:, None, :]
    stats = {
        "entropy": -torch.special.xlogy(p, p).sum(-1),
        "max_prob": p.amax(-1),
        "distance": (p * (at[:, None] - at[None, :]).abs()).sum(-1),
        "second_moment": p.square().sum(-1),
        "lse": scores.logsumexp(-1),
        "key_mass": p.sum(-1),
        "received": (p * rows[..., None]).sum(-2),
    }
    return {name: x.masked_fill(~rows, torch.nan) for name, x in stats.items()}


@pytest.mark.parametrize("lengths", [(LENGTH,), (LENGTH, 1500)], ids=["whole", "padded"])
def test_statistics_are_those_of_float64(lengths):
    model, inputs = prepared("llama", "sdpa", torch.bfloat16, lengths, **LARGE)
    valid = inputs["attention_mask"].bool()
    calls = []
    with HFTap(model, calls.append, valid=valid):
        logits(model, inputs)
    tree = probe.capture(model, inputs, stats=STATISTICS)
    assert tree.validity.attrs["passed"]
    for layer, call in enumerate(calls):
        for name, want in exact(call, valid).items():
            got = torch.from_numpy(tree[f"text/{name}"].values[:, layer]).cuda().double()
            assert torch.equal(got.isnan(), want.isnan()), name
            gap = (got - want).abs().nan_to_num() / want.abs().nan_to_num().amax(2, keepdim=True).clamp(min=1)
            assert gap.max() < 1e-4, (name, layer, float(gap.max()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_reports_pass(case, dtype):
    name, backend, settings = CASES[case]
    side = "right" if name == "bert" else "left"
    model, inputs = prepared(name, backend, dtype, (LENGTH, 700), side, **settings)
    report = probe.capture(model, inputs, stats=STATISTICS).validity.to_dataset()
    assert report["passed"].values.all(), report.to_dataframe().to_string()


@pytest.fixture
def row_by_row(monkeypatch):
    """Masks made row by row at any length."""
    monkeypatch.setattr(switch, "DENSE_LIMIT", 0)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"]
)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lengths", [(2 * ROWS, 700), (5000, 3100), (4 * ROWS + 1, 900)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {**LARGE, "head_dim": 64}),
        ("llama", LARGE),
        ("llama", {**LARGE, "head_dim": 256}),
        ("mistral-window", {**LARGE, "sliding_window": 300}),
        ("gemma3-mixed-windows", {**LARGE, "sliding_window": 300}),
        ("llama4-chunks", {**LARGE, "attention_chunk_size": 300, "intermediate_size_mlp": 512}),
    ],
)
@pytest.mark.usefixtures("row_by_row")
def test_masks_made_row_by_row_keep_the_bits(name, settings, lengths, side, dtype):
    model = tiny(name, "sdpa", **settings).to("cuda", dtype)
    ids, mask = (x.cuda() for x in batch(lengths, max(lengths), side))
    inputs = {"input_ids": ids, "attention_mask": mask}
    plain = logits(model, inputs)
    assert torch.equal(plain, logits(model, inputs)), "the model itself is not deterministic here"
    calls = []
    with HFTap(model, calls.append, valid=mask.bool()):
        tapped = logits(model, inputs)
    assert all(isinstance(call.mask, LazyMask) for call in calls)
    assert torch.equal(plain, tapped)


def peak_of_a_capture(model, inputs):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    tree = probe.capture(model, inputs)
    assert tree.validity.attrs["passed"]
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.usefixtures("row_by_row")
def test_a_long_padded_capture_holds_no_map(monkeypatch):
    n = 24_576
    model = tiny("llama", "sdpa", **{**LARGE, "max_position_embeddings": n}).to("cuda", torch.bfloat16)
    ids, mask = (x.cuda() for x in batch((n - 100,), n, "left"))
    inputs = {"input_ids": ids, "attention_mask": mask}
    peak_of_a_capture(model, inputs)  # the kernels are compiled and tuned
    lazy = peak_of_a_capture(model, inputs)
    monkeypatch.setattr(switch, "DENSE_LIMIT", n**3)
    dense = peak_of_a_capture(model, inputs)
    # less than a byte for each pair, the smallest mask there is; the dense one is made, and again in the dtype of q
    assert lazy < n * n, (lazy, dense)
    assert dense - lazy > 2 * n * n, (lazy, dense)
