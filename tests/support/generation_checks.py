"""What a captured generation is held against: the same call without capture, and one run over the tokens that were fed."""

import numpy as np
import torch
from attention_oracle import EPS32
from tiny_models import maps

import probe
from probe.generation.capture import capture_generation

ROWS = ("entropy", "max_prob", "second_moment", "key_mass", "distance")
STATISTICS = (*ROWS, "received", "max_key", "lse")
PLAIN = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
BEAMS = {**PLAIN, "num_beams": 3}


def run(model, inputs, generate, **options):
    """The record and the sequences; the tokens and scores are those of the same call without capture."""
    asked = {**generate, "return_dict_in_generate": True, "output_scores": True}
    torch.manual_seed(3)
    plain = model.generate(**inputs, **asked)
    torch.manual_seed(3)
    tree, output = capture_generation(model, inputs, generate=asked, **{"stats": STATISTICS, **options})
    assert torch.equal(output.sequences, plain.sequences)
    assert len(output.scores) == len(plain.scores)
    assert all(torch.equal(a, b) for a, b in zip(output.scores, plain.scores, strict=True))
    assert tree.validity.attrs["passed"]
    return tree, output


def whole(model, sequences, valid):
    """One run over all that was fed, as the model's forward takes it."""
    inputs = {"input_ids": sequences[:, :-1], "attention_mask": valid.long()}
    if model.config.model_type in ("gpt2", "opt"):
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return inputs


def truth(layers, valid):
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


def assert_as_one_run(tree, model, sequences, valid):
    """Within four times the error of the model's own eager attention in float32, and a few roundings."""
    inputs = whole(model, sequences, valid)
    exact, plain = (truth(maps(model, inputs, dtype), valid) for dtype in (torch.float64, torch.float32))
    for name, want in exact.items():
        got = tree[f"text/{name}"].values.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        own = np.nanmax(np.abs(plain[name] - want))
        floor = 64 * EPS32 * max(1.0, np.nanmax(np.abs(want)))
        assert np.nanmax(np.abs(got - want)) <= 4 * own + floor, name
    one = probe.capture(model, inputs, stats=STATISTICS)
    for name in ("max_key", "keys_seen", "seen_by"):
        np.testing.assert_array_equal(tree[f"text/{name}"].values, one[f"text/{name}"].values, err_msg=name)
    np.testing.assert_array_equal(tree["tokens/id"].values, inputs["input_ids"].numpy())
    np.testing.assert_array_equal(tree["tokens/valid"].values, valid.numpy())


def fed(mask, sequences):
    """Which positions are tokens, where no sample ends early."""
    return torch.nn.functional.pad(mask, (0, sequences.shape[1] - 1 - mask.shape[1]), value=1).bool()


def assert_rows(tree, model, sequences, valid, layer, heads, prompt):
    p = maps(model, whole(model, sequences, valid), torch.float64)[layer][:, heads, prompt:]
    plain = maps(model, whole(model, sequences, valid), torch.float32)[layer][:, heads, prompt:]
    n = valid.shape[1]
    there = torch.tril(torch.ones(n, n, dtype=torch.bool))[prompt:] & valid[:, prompt:, None] & valid[:, None]
    want = p.masked_fill(~there[:, None], torch.nan).transpose(1, 2).numpy()
    got = tree[f"rows/{layer}/attention"]
    assert got.dims == ("sample", "step", "head", "key")
    np.testing.assert_array_equal(np.isnan(got.values), np.isnan(want))
    own = float((plain - p).abs().max())
    assert np.nanmax(np.abs(got.values - want)) <= 4 * own + 64 * EPS32
    assert tree[f"rows/{layer}/head"].values.tolist() == heads
    assert tree[f"rows/{layer}/query"].values.tolist() == list(range(prompt, n))
