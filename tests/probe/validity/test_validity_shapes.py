"""The checks of a layer on every shape of call: sound ones pass, and what is planted is found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from heard import calls_of, generating, padding_of
from tiny_models import inputs_for, tiny

from probe.call import AttentionCall, MapCall
from probe.kernels.dense import DENSE_STATISTICS, dense_statistics
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import MAP_STATISTICS, map_statistics
from probe.kernels.visible import visible_counts
from probe.taps.rules.derive import Rules, backend_of, describe
from probe.validity import Report, parity

ALL = {"padding", "column sums", "entropy bounds", "eager parity", "output"}


def array(x):
    return x.to(torch.float32 if x.is_floating_point() else torch.int32).numpy()


def statistics(call):
    """The statistics that a record can hold of a call, and how many keys each query sees."""
    names = [n for n in MAP_STATISTICS if n != "distance" or call.queries == call.keys]
    values = map_statistics(call.q, call.k, call.spec, names, "reference")
    seen, _ = visible_counts(call.spec, call.q.shape[0], call.q.shape[2], call.k.shape[2])
    return {name: array(x) for name, x in values.items()}, array(seen)


def checked(call, change=None):
    """The names of the checks of a call, and of those that failed."""
    values, seen = statistics(call)
    if change is not None:
        change(values)
    report = Report()
    report.layer(call, values, seen, "reference")
    return {c.name for c in report.checks}, {c.name for c in report.checks if not c.passed}


def calls(name, backend="sdpa", **options):
    inputs = inputs_for(name, **options)
    return calls_of(name, tiny(name, backend), inputs), padding_of(name, inputs)


def first(name, stream, *, layer=0, backend="sdpa", **options):
    found, _ = calls(name, backend, **options)
    return [c for c in found if c.stream == stream][layer]


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [None, "right", "left"])
@pytest.mark.parametrize(
    "name",
    ["t5", "umt5", "bart", "whisper", "bert-decoder-cross", "clip", "qwen2.5-vl-windows", "smolvlm",
     "paligemma-prefix", "gemma3-image-blocks", "llava-next-tiles", "lfm2-hybrid"],
)  # fmt: skip
def test_sound_calls_pass_all_their_checks(name, backend, padded):
    for call in calls(name, backend, padded=padded)[0]:
        names, failed = checked(call)
        assert failed == set(), (call.name, describe(call.spec))
        assert names >= ALL


@pytest.mark.parametrize("lengths", [(150, 140), (300, 290)])
@pytest.mark.parametrize(
    ("name", "padded"), [("t5", "right"), ("t5", "left"), ("bart", "left"), ("gpt2", "left")]
)
def test_long_sound_calls_pass_and_are_checked_at_their_end(name, padded, lengths):
    room = {"max_position_embeddings": 512} if name == "bart" else {}
    room = {"n_positions": 512} if name == "gpt2" else room
    inputs = inputs_for(name, padded=padded, lengths=lengths)
    for call in calls_of(name, tiny(name, **room), inputs):
        names, failed = checked(call)
        assert failed == set(), call.name
        assert "last rows" in names


def steps_of(name, backend="sdpa", cache=None, *, padded="left", lengths=(11, 8), plant=None):
    """Each call of a generation: prompt length, names of its checks, those that failed (of decoding steps only)."""
    inputs, rules, found = inputs_for(name, padded=padded, lengths=lengths), Rules(), []
    prompt = inputs["attention_mask"].bool()

    def hear(module, seen, total):
        q, k = seen.arguments["query"], seen.arguments["key"]
        valid = torch.nn.functional.pad(prompt, (0, 20), value=True)
        at = torch.arange(k.shape[2]) + max(0, total - k.shape[2])
        queries = torch.arange(total - q.shape[2], total)
        spec = rules.derive(
            seen, module, query_valid=valid[:, queries], key_valid=valid[:, at] & (at < total)
        )
        own = ("query", "key", "value", "attention_mask")
        call = AttentionCall(
            name=module, module=seen.module, layer=0, q=q, k=k, v=seen.arguments["value"], output=seen.output,
            spec=spec, mask=seen.arguments.get("attention_mask"), backend=backend_of(seen), eager=seen.eager,
            arguments={n: x for n, x in seen.arguments.items() if n not in own},
        )  # fmt: skip
        if q.shape[2] == 1:
            found.append(checked(call if plant is None else plant(call)))

    model = tiny(name, backend, max_position_embeddings=512)
    generating(model, inputs, hear, steps=4, cache_implementation=cache)
    return found


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize(
    ("name", "backend", "padded"),
    [("llama", "sdpa", None), ("llama", "sdpa", "left"), ("llama", "eager", "left"), ("mistral-window", "sdpa", "left"),
     ("gemma3-mixed-windows", "eager", "left"), ("gpt-oss-sinks-window", "eager", "left"),
     ("gemma2-softcap-window", "eager", "left")],
)  # fmt: skip
def test_sound_steps_of_decoding_pass(name, backend, padded, cache):
    steps = steps_of(name, backend, cache, padded=padded)
    assert len(steps) == 6
    for names, failed in steps:
        assert failed == set()
        assert names >= ALL


@pytest.mark.parametrize("cache", [None, "static"])
def test_steps_with_a_long_past_are_checked_over_all_keys(cache):
    for names, failed in steps_of("llama", "sdpa", cache, lengths=(200, 150)):
        assert failed == set()
        assert "last rows" in names
    changes = {"scale": 0.36, "window": 5, "softcap": 20.0}
    for name, value in changes.items():
        steps = steps_of(
            "llama", "sdpa", cache, lengths=(200, 150),
            plant=lambda c, n=name, v=value: replace(c, spec=replace(c.spec, **{n: v})),
        )  # fmt: skip
        assert all({"eager parity", "last rows"} & failed for _, failed in steps), name


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize(
    "plant",
    [
        lambda c: replace(c, spec=replace(c.spec, offset=c.spec.offset - 1)),
        lambda c: replace(c, spec=replace(c.spec, window=3)),
        lambda c: replace(c, spec=replace(c.spec, key_valid=None)),
        lambda c: replace(c, q=c.q.flip(1), k=c.k.flip(1)),
        lambda c: replace(c, output=c.output + 1e-3),
        lambda c: replace(c, k=c.k.roll(1, 2)),
    ],
    ids=["offset", "window", "padding", "heads", "output", "keys"],
)
def test_what_is_planted_in_a_step_of_decoding_is_found(plant, cache):
    assert all(failed for _, failed in steps_of("llama", "sdpa", cache, plant=plant))


def of_spec(**fields):
    return lambda call: replace(call, spec=replace(call.spec, **fields))


def half_of_the_table(call):
    return replace(call, spec=replace(call.spec, distance_bias=call.spec.distance_bias / 2))


def groups_but_one(call):
    groups = call.spec.groups.clone()
    groups[0, int((groups[0] >= 0).nonzero()[0])] = -1
    return replace(call, spec=replace(call.spec, groups=groups))


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "stream", "padded", "plant", "found"),
    [
        ("t5", "encoder", None, of_spec(distance_bias=None), {"eager parity"}),
        ("t5", "encoder", "right", half_of_the_table, {"eager parity"}),
        ("t5", "decoder", None, of_spec(distance_bias=None), {"eager parity"}),
        ("t5", "encoder", None, lambda c: replace(c, arguments={**c.arguments, "position_bias": None}),
         {"eager parity", "output"}),
        ("bart", "cross", "left", of_spec(key_valid=None), {"eager parity"}),
        ("bart", "cross", None, of_spec(window=4), {"eager parity"}),
        ("bart", "cross", None, lambda c: replace(c, q=c.q.flip(1), k=c.k.flip(1)), {"output"}),
        ("whisper", "cross", None, of_spec(scale=0.9), {"eager parity"}),
        ("qwen2.5-vl-windows", "vision", None, of_spec(documents=None), {"eager parity"}),
        ("qwen2.5-vl-windows", "vision", None, lambda c: replace(c, lengths=(24, 24)), {"eager parity", "output"}),
        ("qwen2.5-vl-windows", "vision", None, lambda c: replace(c, lengths=None), {"eager parity", "output"}),
        ("paligemma-prefix", "text", None, of_spec(groups=None), {"eager parity"}),
        ("gemma3-image-blocks", "text", "left", of_spec(groups=None), {"eager parity"}),
        ("gemma3-image-blocks", "text", None, groups_but_one, {"eager parity"}),
        ("llava-next-tiles", "text", None, of_spec(causal=False), {"eager parity"}),
    ],
)  # fmt: skip
def test_what_is_planted_in_a_call_is_found(name, stream, padded, plant, found, backend):
    call = first(name, stream, backend=backend, padded=padded, lengths=(14, 11))
    assert found <= checked(plant(call))[1]


def test_a_bias_that_the_backend_did_not_use_is_found_at_the_output():
    call = first("t5", "encoder")
    without = parity.eager(replace(call, arguments={**call.arguments, "position_bias": None}),
                            replace(parity.window(call), bias=None), torch.float32)[0]  # fmt: skip
    assert checked(replace(call, output=without))[1] == {"output"}


def test_an_additive_mask_reaches_the_eager_function_as_it_came():
    """ALiBi in a mask of the user's own: the model is right, its rule is proven, the checks follow the mask."""
    i, j = torch.arange(12)[:, None], torch.arange(12)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None]
    mask = torch.where(j <= i, slopes * (j - i), torch.finfo(torch.float32).min).expand(2, -1, -1, -1)
    ids = inputs_for("llama", lengths=(12, 12))["input_ids"]
    for backend in ("sdpa", "eager"):
        for call in calls_of(
            "llama", tiny("llama", backend), {"input_ids": ids, "attention_mask": mask.clone()}
        ):
            assert describe(call.spec) == "causal bias"
            assert checked(call) == (ALL, set())
            assert "eager parity" in checked(half_of_the_table(call))[1]
            unheard = replace(call, mask=torch.where(call.mask < -100, call.mask, 0.0))
            assert {"eager parity", "output"} <= checked(unheard)[1]


def written(n_queries, n_keys, *, query_valid=None, key_valid=None, **fields):
    """A call that is made up: eager attention without a mask."""
    generator = torch.Generator().manual_seed(0)
    sizes = (n_queries, n_keys, n_keys)
    q, k, v = (torch.randn(2, 2, n, 4, generator=generator) for n in sizes)
    spec = ScoreSpec(0.5, query_valid=query_valid, key_valid=key_valid, **fields)
    return AttentionCall(
        name="m", module=torch.nn.Module(), layer=0, q=q, k=k, v=v, output=q.transpose(1, 2), spec=spec, mask=None,
        arguments={}, backend="eager", eager=None,
    )  # fmt: skip


def test_the_window_of_cross_attention_begins_at_the_first_key_that_is_no_padding():
    key_valid = torch.arange(300).expand(2, -1) >= torch.tensor([[150], [160]])
    query_valid = torch.arange(9).expand(2, -1) >= torch.tensor([[2], [3]])
    cut = parity.window(written(9, 300, query_valid=query_valid, key_valid=key_valid))
    assert (cut.rows[:, 0].tolist(), cut.keys[:, 0].tolist()) == ([2, 2], [150, 150])
    assert (cut.offset, cut.before) == (-148, 150)  # row 2 among the keys from 150
    assert cut.row_valid.sum(1).tolist() == [7, 6]
    assert cut.key_valid.sum(1).tolist() == [128, 118]
    assert not cut.contained[0].any()


def test_the_window_of_a_step_holds_the_keys_before_it():
    cut = parity.window(written(3, 300, causal=True, offset=290))
    assert cut.rows[0].tolist() == [0, 1, 2]
    assert cut.keys[0, [0, -1]].tolist() == [165, 292]
    assert (cut.offset, cut.before) == (125, None)


def map_call(**changes):
    """The first layer of an eager BERT as a written-out map, its statistics and counts."""
    call = first("bert", "text", backend="eager", padded="right", lengths=(9, 6))
    inputs = inputs_for("bert", padded="right", lengths=(9, 6))
    with torch.no_grad():
        weights = tiny("bert", "eager")(**inputs, output_attentions=True).attentions[0]
    valid = inputs["attention_mask"].bool()
    written_out = MapCall("m", call.module, 0, weights.clone(), valid, valid, "output_attentions")
    return replace(written_out, **changes), statistics(call)[1]


def map_failures(call, seen, change=None):
    values = dense_statistics(call.weights, DENSE_STATISTICS, call.query_valid, call.key_valid)
    values = {name: array(x) for name, x in values.items()}
    if change is not None:
        change(values)
    report = Report()
    report.layer(call, values, seen, "reference")
    return {c.name for c in report.checks}, {c.name for c in report.checks if not c.passed}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_sound_written_out_map_passes(dtype):
    call, seen = map_call()
    names, failed = map_failures(replace(call, weights=call.weights.to(dtype)), seen)
    assert failed == set()
    assert names == {"padding", "row sums", "weights", "weights at padding", "column sums", "entropy bounds"}


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        ((0, 1, 4, 5), 0.9, {"row sums"}),
        ((0, 1, 4, 5), -0.1, {"row sums", "weights"}),
        ((1, 3, 2, 0), float("nan"), {"weights"}),
        ((1, 3, 2, 7), 1e-6, {"weights at padding"}),
    ],
)
def test_what_is_wrong_in_a_written_out_map_is_found(place, value, found):
    call, seen = map_call()
    call.weights[place] = value
    assert found <= map_failures(call, seen)[1]


def test_wrong_statistics_of_a_written_out_map_are_found():
    call, seen = map_call()

    def plant(name, place, value):
        def change(values):
            values[name][place] = value

        return change

    assert map_failures(call, seen, plant("received", (0, 0, 3), 4.0))[1] == {"column sums"}
    assert map_failures(call, seen, plant("entropy", (0, 0, 3), 2.5))[1] == {"entropy bounds"}
    assert map_failures(call, seen, plant("entropy", (1, 0, 7), 0.5))[1] >= {"padding"}
    assert map_failures(call, seen, plant("max_prob", (1, 0, 2), np.nan))[1] == {"padding"}


def test_padding_is_held_against_what_the_input_says():
    call = first("llama", "text", padded="right", lengths=(9, 6))
    valid = call.spec.query_valid
    values, seen = statistics(replace(call, spec=replace(call.spec, query_valid=None, key_valid=None)))
    told = Report()
    told.layer(call, values, seen, "reference")
    unpadded = replace(call, spec=replace(call.spec, query_valid=None, key_valid=None))
    blind, held = Report(), Report()
    blind.layer(unpadded, values, seen, "reference")
    held.layer(unpadded, values, seen, "reference", query_valid=valid, key_valid=valid)
    found = ["padding" in {c.name for c in report.checks if not c.passed} for report in (told, blind, held)]
    assert found == [True, False, True]
