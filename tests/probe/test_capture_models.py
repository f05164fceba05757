"""Statistics of every tiny model against the maps that its eager copy writes out in float64."""

import numpy as np
import pytest
import torch
from attention_oracle import EPS32
from tiny_models import CASES, batch, maps, tiny

import probe

ROWS = ("entropy", "max_prob", "second_moment", "key_mass", "distance")
STATISTICS = (*ROWS, "received", "max_key", "lse")


def truth(layers, valid):
    """The statistics by definition, {name: [B, L, H, N]}."""
    p = torch.stack(layers, 1)
    at = torch.arange(p.shape[-1])
    rows = valid[:, None, None, :]
    stats = {
        "entropy": -torch.special.xlogy(p, p).sum(-1),
        "max_prob": p.amax(-1),
        "second_moment": (p * p).sum(-1),
        "key_mass": p.sum(-1),
        "distance": (p * (at[:, None] - at[None, :]).abs()).sum(-1),
        "received": (p * rows[..., None]).sum(-2),
    }
    return {name: torch.where(rows, x, torch.nan).numpy() for name, x in stats.items()}


def assert_close(tree, model, inputs, valid):
    """Within four times the error of the model's own eager attention in float32, and a few roundings."""
    exact, plain = (truth(maps(model, inputs, dtype), valid) for dtype in (torch.float64, torch.float32))
    for name, want in exact.items():
        got = tree[f"text/{name}"].values.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        own = np.nanmax(np.abs(plain[name] - want))
        floor = 64 * EPS32 * max(1.0, np.nanmax(np.abs(want)))
        assert np.nanmax(np.abs(got - want)) <= 4 * own + floor, name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_statistics_are_those_of_the_written_out_maps(name, backend, side):
    if name == "roberta" and side == "left":
        pytest.skip("RoBERTa takes its positions from the padding ids; its tokenizer pads on the right")
    model = tiny(name, backend)
    ids, mask = batch([13, 9], 13, side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    tree = probe.capture(model, inputs, stats=STATISTICS)
    assert_close(tree, model, inputs, mask.bool())
    report = tree.validity.to_dataset()
    assert report.attrs["passed"]
    assert {"padding", "column sums", "entropy bounds", "eager parity", "output"} <= set(
        report["name"].values
    )


@pytest.mark.parametrize(("name", "backend"), [c for c in CASES if c[1] == "sdpa" or len(c[0]) > 12])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_batch_gives_what_each_row_gives_alone(name, backend, side):
    model = tiny(name, backend)
    ids, mask = batch([13, 6], 13, side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if side == "left":
        if name in ("bert", "roberta", "distilbert-unnumbered", "albert-shared"):
            pytest.skip(
                "learned positions that count from the padding: such encoders are padded on the right"
            )
        if name in ("gpt2", "opt-scaled-queries"):
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    together = probe.capture(model, inputs, stats=STATISTICS)
    for row in range(2):
        keep = mask[row].bool()
        alone = probe.capture(model, {"input_ids": ids[row : row + 1, keep]}, stats=STATISTICS)
        for stat in (*ROWS, "received"):
            got = together[f"text/{stat}"].values[row][..., keep.numpy()]
            want = alone[f"text/{stat}"].values[0]
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5, err_msg=stat)
        best = together["text/max_key"].values[row][..., keep.numpy()] - int(keep.int().argmax())
        np.testing.assert_array_equal(best, alone["text/max_key"].values[0])
        for count in ("keys_seen", "seen_by"):
            np.testing.assert_array_equal(
                together[f"text/{count}"].values[row][:, keep.numpy()], alone[f"text/{count}"].values[0]
            )


def test_padded_positions_are_absent_in_every_statistic():
    ids, mask = batch([8, 5], 8, "left")
    tree = probe.capture(tiny("llama"), {"input_ids": ids, "attention_mask": mask}, stats=STATISTICS)
    padded = ~mask.bool().numpy()
    for stat in STATISTICS:
        values = tree[f"text/{stat}"].values
        absent = values == -1 if stat == "max_key" else np.isnan(values)
        np.testing.assert_array_equal(
            absent, np.broadcast_to(padded[:, None, None, :], values.shape), err_msg=stat
        )


def test_windows_and_sinks_show_in_counts_and_mass():
    ids, _ = batch([12], 12)
    tree = probe.capture(
        tiny("gpt-oss-sinks-window", "eager"), {"input_ids": ids}, stats=("key_mass", "received")
    )
    windowed, full = tree["text/keys_seen"].values[0]
    np.testing.assert_array_equal(windowed, np.minimum(np.arange(12) + 1, 4))
    np.testing.assert_array_equal(full, np.arange(12) + 1)
    mass = tree["text/key_mass"].values
    assert mass.max() < 1
    np.testing.assert_allclose(tree["text/received"].values.sum(-1), mass.sum(-1), rtol=1e-5)


def test_bfloat16_statistics_are_those_of_the_bfloat16_queries_and_keys():
    model = tiny("llama").to(torch.bfloat16)
    ids, _ = batch([150], 150)
    tree = probe.capture(model, {"input_ids": ids}, stats=STATISTICS)
    report = tree.validity.to_dataset()
    assert report.attrs["passed"]
    assert "last rows" in report["name"].values
    parity = report["worst"].values[report["name"].values == "eager parity"]
    assert parity.max() < 1e-4


@pytest.mark.slow
def test_flex_attention_is_read_through_its_block_mask():
    model = tiny("mistral-window", "flex_attention")
    ids, mask = batch([13, 9], 13, "left")
    inputs = {"input_ids": ids, "attention_mask": mask}
    tree = probe.capture(model, inputs, stats=STATISTICS)
    assert tree.attrs["backend"] == "flex"
    assert tree.attrs["rules"] == ["causal window 4", "causal window 4"]
    assert_close(tree, model, inputs, mask.bool())
