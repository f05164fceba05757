"""Rules of every shape of attention, on calls of real models: caches, cross-attention, biases, groups, documents, pieces."""

from dataclasses import replace

import pytest
import torch
from heard import calls_of, derive, flash, generating, observed, observing, packed_lengths, padding_of, sdpa
from tiny_models import batch, inputs_for, tiny

from probe import ModelError
from probe.kernels.score import ScoreSpec
from probe.kernels.visible import visible_block
from probe.taps.hf import HFTap
from probe.taps.rules import masks
from probe.taps.rules.biases import BiasMismatch, distance_table
from probe.taps.rules.derive import Rules, describe

CACHES = [
    ("llama", None, None),
    ("mistral-window", 4, None),
    ("gemma3-mixed-windows", 4, None),
    ("gemma2-softcap-window", 4, None),
    ("gpt-oss-sinks-window", 4, None),
    ("llama4-chunks", None, 5),
    ("deepseek-mla", None, None),
    ("qwen3-next-hybrid", None, None),
]


def visible(spec, sample, n_queries, n_keys):
    return visible_block(spec, sample, range(n_queries), range(n_keys), "cpu")


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("padded", [None, "left"])
@pytest.mark.parametrize(("name", "window", "chunk"), CACHES)
def test_with_a_cache_each_query_sees_what_it_would_see_without(name, window, chunk, padded, cache):
    """What is visible follows from positions alone: the cache holds the last ones, or the first ones and room."""
    backend = "eager" if name.startswith(("gemma2", "gpt-oss")) else "sdpa"
    inputs, rules, kinds = inputs_for(name, padded=padded, lengths=(11, 8)), Rules(), set()
    prompt = inputs["attention_mask"].bool()

    def hear(module, seen, total):
        n_queries, n_keys = seen.arguments["query"].shape[2], seen.arguments["key"].shape[2]
        valid = torch.nn.functional.pad(prompt, (0, 20), value=True)
        keys = torch.arange(n_keys) + max(0, total - n_keys)
        queries = torch.arange(total - n_queries, total)
        spec = rules.derive(
            seen, module, query_valid=valid[:, queries], key_valid=valid[:, keys] & (keys < total)
        )
        local = "window" in describe(spec) or "chunk" in describe(spec)
        for sample in range(2):
            i, j = queries[:, None], keys[None, :]
            truth = (j <= i) & valid[sample, keys] & (j < total)
            if window is not None and local:
                truth &= i - j < window
            if chunk is not None and local:
                start = int(prompt[sample].int().argmax())
                truth &= (i - start) // chunk == (j - start) // chunk
            rows = valid[sample, queries]
            assert torch.equal(visible(spec, sample, n_queries, n_keys)[rows], truth[rows]), (module, total)
        assert spec.offset == int(queries[0] - keys[0])
        kinds.add((describe(spec), n_queries > 1))

    generating(tiny(name, backend), inputs, hear, cache_implementation=cache)
    assert ("causal", False) in kinds or window == 4
    assert window is None or ("causal window 4", False) in kinds


def test_a_prompt_in_two_parts_continues_at_the_cache():
    ids, _ = batch([11, 11], 11)
    model, said = tiny("llama"), []

    def hear(module, seen):
        spec = derive(seen, module)
        said.append((seen.arguments["key"].shape[2], describe(spec), spec.offset))

    with torch.no_grad():
        first = model(input_ids=ids[:, :6], use_cache=True)
        with observing(model, hear):
            model(input_ids=ids[:, 6:], past_key_values=first.past_key_values, use_cache=True)
    assert said == [(11, "causal", 6)] * 2


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [None, "right", "left"])
@pytest.mark.parametrize("name", ["bart", "t5", "umt5", "whisper", "bert-decoder-cross"])
def test_cross_attention_is_full_but_for_the_padding_of_its_keys(name, backend, padded):
    inputs = inputs_for(name, padded=padded)
    calls = calls_of(name, tiny(name, backend), inputs)
    cross = [call for call in calls if call.queries != call.keys]
    assert len(cross) == 2
    source = padding_of(name, inputs)("source")
    for call in cross:
        assert describe(call.spec) == "full"
        assert (call.spec.offset, call.spec.distance_bias) == (0, None)
        if padded is None or source is None:
            assert call.spec.key_valid is None
        else:
            assert torch.equal(call.spec.key_valid, source)
    assert all(describe(c.spec).startswith("causal") for c in calls if c.stream == "decoder")


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [None, "right", "left"])
@pytest.mark.parametrize("name", ["t5", "umt5"])
def test_a_position_bias_becomes_the_table_that_says_all_its_entries(name, backend, padded):
    inputs = inputs_for(name, padded=padded, lengths=(40, 30))
    for call in calls_of(name, tiny(name, backend), inputs):
        bias = call.arguments["position_bias"]
        if call.queries != call.keys:
            assert not bias.any()
            continue
        table = call.spec.distance_bias
        reach = table.shape[1] // 2
        assert reach <= 13  # the buckets saturate at a distance of 12
        i, j = torch.arange(bias.shape[2])[:, None], torch.arange(bias.shape[3])
        said = table[:, (j - i).clamp(-reach, reach) + reach]
        counts = visible(replace(call.spec, key_valid=None), 0, bias.shape[2], bias.shape[3])
        assert torch.equal(torch.where(counts, said, 0), torch.where(counts, bias[0], 0))


def test_one_entry_of_a_position_bias_that_differs_is_named(monkeypatch):
    monkeypatch.setattr(masks, "_BLOCK", 4 * 40 * 3)  # three rows at a time
    model, inputs = tiny("t5"), inputs_for("t5", lengths=(40, 40))
    hidden = None

    def hear(module, seen):
        nonlocal hidden
        if module != "encoder.block.0.layer.0.SelfAttention":
            return
        bias = seen.arguments["position_bias"].clone()
        bias[0, 2, 37, 11] += 1e-6
        changed = replace(seen, arguments={**seen.arguments, "position_bias": bias})
        with pytest.raises(ModelError, match=r"SelfAttention: .*sample 0, head 2, query 37, key 11: it adds"):
            derive(changed, module)
        hidden = torch.ones(2, 40, dtype=torch.bool).index_fill(1, torch.tensor([11]), value=False)
        keep = replace(seen, arguments={**changed.arguments, "attention_mask": hidden[:, None, None]})
        assert describe(derive(keep, module, hidden)) == "full bias"

    with observing(model, hear), torch.no_grad():
        model(**inputs)
    assert hidden is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("side", ["right", "left"])
def test_an_additive_mask_may_hold_a_bias_of_the_distance(dtype, side):
    """ALiBi in the mask itself, added to what hides keys (which then is no longer the most negative number)."""
    _, mask = batch([6, 9], 9, side)
    slopes = torch.tensor([16.0, 8.0])
    i, j = torch.arange(9)[:, None], torch.arange(9)
    seen = (j <= i) & mask.bool()[:, None, None]
    hides = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    given = hides + (slopes[:, None, None] * (j - i)).to(dtype)
    seen = observed(given, n=(9, 9))
    seen.arguments["query"], seen.arguments["key"] = (seen.arguments[n].to(dtype) for n in ("query", "key"))
    spec = derive(seen, "m", mask.bool())
    assert describe(spec) == "causal bias"
    reach = spec.distance_bias.shape[1] // 2
    want = slopes[:, None] * torch.arange(-reach, 1)
    assert torch.equal(spec.distance_bias[:, : reach + 1].double(), want.double())
    given[1, 1, 7, 6] += 0.125
    with pytest.raises(ModelError, match=r"sample 1, head 1, query 7, key 6: it adds -7\.875, and -8"):
        derive(seen, "m", mask.bool())


def test_a_bias_is_proven_once_per_tensor_and_again_after_a_change(monkeypatch):
    bias = torch.arange(-5.0, 6.0).unfold(0, 6, 1).flip(0)[None, None].clone()
    rules, proofs = Rules(), []

    def counting(*arguments):
        proofs.append(arguments)
        return distance_table(*arguments)

    monkeypatch.setattr("probe.taps.rules.derive.distance_table", counting)
    specs = [derive(observed(position_bias=bias), "m", rules=rules) for _ in range(2)]
    assert len(proofs) == 1
    assert torch.equal(specs[0].distance_bias, specs[1].distance_bias)
    assert torch.equal(specs[0].distance_bias, torch.arange(-5.0, 6.0).expand(2, -1))
    bias[0, 0, 3, 1] = 7
    with pytest.raises(ModelError, match="query 3, key 1"):
        derive(observed(position_bias=bias), "m", rules=rules)


@pytest.mark.parametrize("block", [1, 7 * 12, 1 << 20])
@pytest.mark.parametrize(
    ("n_queries", "n_keys", "offset"), [(1, 1, 0), (7, 7, 0), (1, 12, 11), (5, 12, 7), (3, 12, 2)]
)
def test_the_table_of_any_function_of_the_distance_is_found(monkeypatch, block, n_queries, n_keys, offset):
    monkeypatch.setattr(masks, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    function = torch.randn(2, 40, generator=generator)
    i, j = torch.arange(n_queries)[:, None] + offset, torch.arange(n_keys)
    bias = function[None, :, j - i + 20]
    for spec in (ScoreSpec(1.0, offset=offset), ScoreSpec(1.0, offset=offset, causal=True)):
        shape = (1, 2, n_queries, n_keys)
        read = masks.adder(bias, n_queries, n_keys)
        table = distance_table([read, read], spec, shape, torch.float32, torch.device("cpu"))
        reach = table.shape[1] // 2
        said = table[:, (j - i).clamp(-reach, reach) + reach]
        counts = visible(spec, 0, n_queries, n_keys)
        assert torch.equal(torch.where(counts, said, 0), torch.where(counts, 2 * bias[0], 0))
    if n_queries > 1:
        bias[0, 1, n_queries - 1, 1] = torch.nan
        with pytest.raises(BiasMismatch, match=f"head 1, query {n_queries - 1}, key 1"):
            distance_table([read], ScoreSpec(1.0, offset=offset), shape, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [None, "right", "left"])
@pytest.mark.parametrize("name", ["paligemma-prefix", "gemma3-image-blocks"])
def test_groups_are_read_off_the_mask(name, backend, padded):
    inputs = inputs_for(name, padded=padded)
    calls = [c for c in calls_of(name, tiny(name, backend), inputs) if c.stream == "text"]
    image = inputs["input_ids"] == 59
    valid, kinds = inputs["attention_mask"].bool(), inputs["token_type_ids"]
    inside = (kinds == 0) & valid if name.startswith("pali") else image
    for call in calls:
        groups = call.spec.groups
        assert torch.equal(groups[valid] >= 0, inside[valid])
        for sample in range(2):
            runs = inside[sample].int().diff(prepend=torch.zeros(1, dtype=torch.int32)).clamp(min=0).cumsum(0)
            of_run = {
                int(r): groups[sample][inside[sample] & (runs == r)].unique().tolist() for r in runs.unique()
            }
            numbers = [n for numbers in of_run.values() for n in numbers]
            assert all(len(n) <= 1 for n in of_run.values())
            assert len(set(numbers)) == len(numbers)
    expected = (
        ["causal window 4 groups", "causal groups"] if name.startswith("gemma3") else ["causal groups"] * 2
    )
    assert [describe(c.spec) for c in calls] == expected


@pytest.mark.parametrize("entry", [(0, 0, 3, 8), (1, 0, 12, 2), (0, 0, 2, 19)])
def test_an_entry_that_breaks_a_group_is_found(entry):
    model, inputs = tiny("paligemma-prefix"), inputs_for("paligemma-prefix")

    def hear(module, seen):
        if "language_model" in module:
            mask = seen.arguments["attention_mask"].clone()
            mask[entry] = ~mask[entry]
            changed = replace(seen, arguments={**seen.arguments, "attention_mask": mask})
            with pytest.raises(ModelError, match=r"tried \(.*causal groups"):
                derive(changed, module)
            told.append(module)

    told = []
    with observing(model, hear), torch.no_grad():
        model(**inputs)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("name", "rule"),
    [("llama", ["causal documents"] * 2), ("mistral-window", ["causal window 4 documents"] * 2),
     ("gemma3-mixed-windows", ["causal window 4 documents", "causal documents"])],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_positions_that_begin_again_are_documents(name, rule, backend):
    ids, _ = batch([12], 12)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5]])
    calls = calls_of(
        name, tiny(name, backend), {"input_ids": ids, "position_ids": positions, "use_cache": False}
    )
    assert [describe(call.spec) for call in calls] == rule
    for call in calls:
        assert torch.equal(call.spec.documents.diff(dim=1) > 0, positions[:, 1:] == 0)


def test_flash_attention_takes_packed_texts_from_lengths_or_positions():
    wanted = torch.tensor([[0, 0, 1, 1, 1, 1]])
    by_length = derive(observed(**packed_lengths([0, 2, 6])), "m")
    positions = torch.tensor([[0, 1, 0, 1, 2, 3]])
    by_position = derive(observed(function=flash(), batch=1, position_ids=positions), "m")
    for spec in (by_length, by_position):
        assert describe(spec) == "causal documents"
        assert torch.equal(spec.documents, wanted)
    one = observed(function=flash(), batch=1, position_ids=torch.arange(6)[None])
    assert describe(derive(one, "m")) == "causal"
    assert describe(derive(observed(**packed_lengths([0, 2, 6], function=one.eager)), "m")) == "full"


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_pieces_are_documents(backend):
    calls = calls_of(
        "qwen2.5-vl-windows", tiny("qwen2.5-vl-windows", backend), inputs_for("qwen2.5-vl-windows")
    )
    windows, images = (c for c in calls if c.stream == "vision")
    assert (windows.lengths, images.lengths) == ((16, 8, 16, 8), (24, 24))
    assert describe(images.spec) == "full documents"
    assert images.spec.documents.tolist() == [[0] * 24 + [1] * 24]
    seen = observed(batch=1)
    with pytest.raises(ModelError, match="m: pieces of 5 positions for 6 queries and 6 keys"):
        derive(seen, "m", lengths=(2, 3))
    with pytest.raises(ModelError, match="with a mask"):
        derive(observed(torch.ones(1, 1, 6, 6, dtype=torch.bool), batch=1), "m", lengths=(2, 4))


def test_sdpa_without_a_mask_aligns_the_first_query_with_the_first_key():
    spec = derive(observed(function=sdpa(), n=(3, 6)), "m")
    assert (describe(spec), spec.offset) == ("causal", 0)
    with pytest.raises(ModelError, match="6 queries to 4 keys leaves queries without a key"):
        derive(observed(function=sdpa(), n=(6, 4)), "m", cross=True)
    full = derive(observed(function=sdpa(), n=(6, 4), causal=False), "m", cross=True)
    assert (describe(full), full.offset) == ("full", 0)


def test_padding_after_all_queries_needs_no_mask():
    right = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    assert describe(derive(observed(function=sdpa()), "m", right)) == "causal"
    for seen in (observed(function=sdpa(), causal=False), observed()):
        with pytest.raises(ModelError, match="attends to padding"):
            derive(seen, "m", right)


def test_causality_by_keyword_and_lazy_masks_still_hold(monkeypatch):
    calls = calls_of("clip", tiny("clip"), inputs_for("clip"))
    assert [describe(c.spec) for c in calls if c.stream == "text"] == ["causal"] * 2
    monkeypatch.setattr("probe.taps.longmask.switch.DENSE_LIMIT", 1)
    ids, mask = batch([13, 9], 13, "left")
    found, model = [], tiny("mistral-window")
    with torch.no_grad(), HFTap(model, found.append, valid=mask.bool()):
        model(input_ids=ids, attention_mask=mask)
    assert {type(c.mask).__name__ for c in found} == {"LazyMask"}
    assert [describe(c.spec) for c in found] == ["causal window 4"] * 2
