"""Capture around `generate()`: the record is that of one run over the same tokens, `generate` gives what it always gives."""

import numpy as np
import pytest
import torch
from generation_checks import BEAMS, PLAIN, ROWS, STATISTICS, assert_as_one_run, assert_rows, fed, run
from tiny_models import batch, inputs_for, tiny

import probe
from probe import InputError
from probe.generation.capture import capture_generation

MODELS = {
    "llama": "sdpa",
    "qwen2": "sdpa",
    "gpt2": "sdpa",
    "opt-scaled-queries": "eager",
    "deepseek-mla": "sdpa",
    "mistral-window": "sdpa",
    "gemma2-softcap-window": "eager",
    "gemma3-mixed-windows": "sdpa",
    "gpt-oss-sinks-window": "eager",
    "llama4-chunks": "sdpa",
    "lfm2-hybrid": "sdpa",
}
CACHES = (None, "static", "uncached")
QUICK = ("llama", "mistral-window", "gpt-oss-sinks-window")


def cases(names, quick):
    """Every model with every cache; all but some of them in the long run only."""
    slow = pytest.mark.slow
    return [
        pytest.param(name, cache, id=f"{name}-{cache}", marks=[] if (name, cache) in quick else slow)
        for name in names
        for cache in CACHES
    ]


ALL = cases(MODELS, [(name, None) for name in MODELS] + [(name, cache) for name in QUICK for cache in CACHES])
SOME = ("llama", "mistral-window", "gemma3-mixed-windows")
FEW = cases(
    SOME,
    [("llama", None), ("llama", "uncached"), ("mistral-window", "static"), ("gemma3-mixed-windows", None)],
)


@pytest.mark.parametrize(("name", "cache"), ALL)
def test_statistics_are_those_of_one_run_over_the_same_tokens(name, cache):
    model = tiny(name, MODELS[name])
    ids, mask = batch([9, 6], 9, "left")
    generate = (
        {**PLAIN, "use_cache": False} if cache == "uncached" else {**PLAIN, "cache_implementation": cache}
    )
    tree, output = run(model, {"input_ids": ids, "attention_mask": mask}, generate)
    assert_as_one_run(tree, model, output.sequences, fed(mask, output.sequences))
    assert tree.attrs["generation"]["passes"] == 7


@pytest.mark.parametrize(("name", "cache"), FEW)
def test_beams_hold_what_they_themselves_computed(name, cache):
    model = tiny(name)
    ids, mask = batch([8, 5], 8, "left")
    generate = {**BEAMS, "num_return_sequences": 2}
    generate |= {"use_cache": False} if cache == "uncached" else {"cache_implementation": cache}
    tree, output = run(model, {"input_ids": ids, "attention_mask": mask}, generate, rows={1: [2]})
    valid = fed(mask.repeat_interleave(2, 0), output.sequences)
    assert_as_one_run(tree, model, output.sequences, valid)
    assert_rows(tree, model, output.sequences, valid, 1, [2], 8)
    moved = output.beam_indices.numpy()
    assert (moved[:, 1:] != moved[:, :-1]).any()  # beams were reordered


@pytest.mark.parametrize(
    ("name", "cache"), [("llama", None), ("mistral-window", "static"), ("gpt-oss-sinks-window", None)]
)
def test_rows_of_chosen_heads_are_kept_for_every_step(name, cache):
    model = tiny(name, MODELS[name])
    ids, mask = batch([7, 4], 7, "left")
    inputs = {"input_ids": ids, "attention_mask": mask}
    tree, output = run(model, inputs, {**PLAIN, "cache_implementation": cache}, rows={0: [3, 1], 1: [0]})
    valid = fed(mask, output.sequences)
    assert_rows(tree, model, output.sequences, valid, 0, [3, 1], 7)
    assert_rows(tree, model, output.sequences, valid, 1, [0], 7)
    assert tree["rows/0/step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(
        tree["tokens/step"].values, np.where(valid, [0] * 7 + [1, 2, 3, 4, 5, 6], -1)
    )


def ending(model, inputs, generate, row=0):
    """An id that sample `row` generates early, so that it can be its end."""
    new = model.generate(**inputs, **generate)[:, inputs["input_ids"].shape[1] :].tolist()
    others = {i for n, ids in enumerate(new) for i in ids if n != row}
    return next(i for i in new[row][1:4] if i not in others) if len(new) < 3 else new[row][2]


@pytest.mark.parametrize("name", ["llama", "mistral-window"])
def test_what_lies_after_the_end_of_a_sample_is_padding(name):
    model = tiny(name)
    ids, mask = batch([9, 6], 9, "left")
    inputs = {"input_ids": ids, "attention_mask": mask}
    end = ending(model, inputs, PLAIN)
    tree, output = run(model, inputs, {**PLAIN, "eos_token_id": end}, rows={1: [1]})
    generated = output.sequences[:, 9:]
    at = [row.tolist().index(end) if end in row else row.shape[0] for row in generated]
    assert min(at) < 5
    assert max(at) == 7
    valid = fed(mask, output.sequences)
    for sample, place in enumerate(at):
        valid[sample, 9 + place + 1 :] = False
    assert_as_one_run(tree, model, output.sequences, valid)
    assert_rows(tree, model, output.sequences, valid, 1, [1], 9)


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"length_penalty": 0.0}])
@pytest.mark.parametrize(("name", "cache"), [("llama", None), ("mistral-window", "static")])
def test_beams_that_end_early_keep_what_they_had_then(name, cache, options):
    model = tiny(name)
    ids, mask = batch([8, 5], 8, "left")
    ends = list(range(3, 15))
    generate = {**BEAMS, "num_return_sequences": 3, "max_new_tokens": 9, "eos_token_id": ends, **options}
    tree, output = run(
        model,
        {"input_ids": ids, "attention_mask": mask},
        {**generate, "cache_implementation": cache},
        rows={0: [0]},
    )
    new = (output.beam_indices >= 0).sum(1)
    assert len(set(new.tolist())) > 2
    valid = fed(mask.repeat_interleave(3, 0), output.sequences)
    valid &= torch.arange(output.sequences.shape[1] - 1) < 8 + new[:, None] - 1
    assert_as_one_run(tree, model, output.sequences, valid)
    assert_rows(tree, model, output.sequences, valid, 0, [0], 8)


@pytest.mark.parametrize("beams", [1, 3])
def test_sampling_draws_what_it_draws_without_capture(beams):
    model = tiny("llama")
    ids, mask = batch([7, 5], 7, "left")
    generate = {**PLAIN, "do_sample": True, "num_beams": beams, "num_return_sequences": 2, "temperature": 2.0}
    tree, output = run(model, {"input_ids": ids, "attention_mask": mask}, generate)
    assert_as_one_run(tree, model, output.sequences, fed(mask.repeat_interleave(2, 0), output.sequences))


@pytest.mark.parametrize(
    ("name", "cache"), [("llama", "static"), ("mistral-window", None), ("mistral-window", "static")]
)
def test_a_prompt_in_chunks(name, cache):
    model = tiny(name)
    ids, mask = batch([11, 8], 11, "left")
    generate = {**PLAIN, "prefill_chunk_size": 4, "cache_implementation": cache}
    tree, output = run(model, {"input_ids": ids, "attention_mask": mask}, generate, rows={1: [0]})
    valid = fed(mask, output.sequences)
    assert_as_one_run(tree, model, output.sequences, valid)
    assert tree["tokens/step"].values[0].tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3, 4, 5, 6, 7, 8]
    assert tree["rows/1/step"].values.tolist() == [3, 4, 5, 6, 7, 8]


def test_one_token_is_the_prompt_alone():
    model = tiny("llama")
    ids, _ = batch([6], 6)
    tree, output = run(model, {"input_ids": ids}, {**PLAIN, "max_new_tokens": 1}, rows={0: [0]})
    assert_as_one_run(tree, model, output.sequences, torch.ones(1, 6, dtype=torch.bool))
    assert tree["rows/0/attention"].shape == (1, 0, 1, 6)


@pytest.mark.parametrize(
    ("name", "cache"), [("mistral-window", None), ("llama", "static"), ("gemma3-mixed-windows", "static")]
)
def test_masks_that_are_made_row_by_row(name, cache, monkeypatch):
    monkeypatch.setattr("probe.taps.longmask.switch.DENSE_LIMIT", 0)
    model = tiny(name)
    ids, mask = batch([9, 6], 9, "left")
    generate = {**PLAIN, "cache_implementation": cache}
    tree, output = run(model, {"input_ids": ids, "attention_mask": mask}, generate)
    assert_as_one_run(tree, model, output.sequences, fed(mask, output.sequences))


def test_a_cache_of_the_users_own():
    from transformers import StaticCache

    model = tiny("mistral-window")
    ids, _ = batch([9], 9)
    plain = model.generate(input_ids=ids, **PLAIN)
    cache = StaticCache(config=model.config, max_cache_len=40)
    tree, output = capture_generation(
        model, {"input_ids": ids}, generate={**PLAIN, "past_key_values": cache}, stats=STATISTICS
    )
    assert torch.equal(output, plain)
    assert_as_one_run(tree, model, output, torch.ones(1, output.shape[1] - 1, dtype=torch.bool))
    with pytest.raises(InputError, match="past_key_values is filled"):
        capture_generation(model, {"input_ids": ids}, generate={**PLAIN, "past_key_values": cache})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llava", {"num_beams": 2}),
        ("gemma3-image-blocks", {"cache_implementation": "static"}),
        ("paligemma-prefix", {}),
        pytest.param("qwen2.5-vl-windows", {}, marks=pytest.mark.slow),
        pytest.param("smolvlm", {"use_cache": False}, marks=pytest.mark.slow),
    ],
)
def test_a_model_that_sees_is_recorded_in_its_text_tower(name, options):
    model = tiny(name)
    inputs = inputs_for(name)
    tree, output = run(model, inputs, {**PLAIN, **options})
    ids = output.sequences[:, :-1]
    more = ids.shape[1] - inputs["input_ids"].shape[1]
    along = {
        n: x for n, x in inputs.items() if n in ("attention_mask", "token_type_ids", "mm_token_type_ids")
    }
    own = name == "paligemma-prefix"  # what it writes is causal, its prefix is not
    filled = {
        n: torch.nn.functional.pad(x, (0, more), value=int(own or n == "attention_mask"))
        for n, x in along.items()
    }
    one = probe.capture(model, {**inputs, **filled, "input_ids": ids}, stats=STATISTICS, towers=["text"])
    for name in (*ROWS, "received", "lse", "keys_seen", "seen_by"):
        want, got = (x[f"text/{name}"].values.astype(np.float64) for x in (one, tree))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)
    assert set(tree.children) == {"text", "tokens", "input", "validity"}


@pytest.mark.slow
def test_a_real_model_tells_a_story():
    model = probe.load("smollm2")
    texts = ["The cat sat on the", "Once upon a time, in a small village by the sea, there"]
    generate = {"max_new_tokens": 20, "do_sample": False}
    tree, output = capture_generation(model, texts, generate=generate, rows={3: [0, 5]})
    assert tree.validity.attrs["passed"]
    code = model.processor(texts, return_tensors="pt", padding=True, padding_side="left")
    assert torch.equal(output, model.model.generate(**code, **generate))
    valid = torch.tensor(tree["tokens/valid"].values)
    assert not valid[0, 0]
    position_ids = (valid.long().cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": output[:, :-1], "attention_mask": valid.long(), "position_ids": position_ids}
    one = probe.capture(model.model, inputs)
    for name in ("entropy", "received"):
        np.testing.assert_allclose(
            tree[f"text/{name}"].values, one[f"text/{name}"].values, rtol=2e-3, atol=2e-4
        )
    np.testing.assert_allclose(np.nansum(tree["rows/3/attention"].values, -1), 1, rtol=1e-5)
