"""ACT inside real forward passes and generations of tiny models, against explicit maps in float64."""

import threading

import pytest
import torch
from act_cases import all_valid, generated
from act_twin import Twin
from explainer_cases import language_model
from tiny_models import batch, inputs_for, tiny

from probe import InputError
from probe import explainers as ex

HEADS = {0: [0, 3], 1: [1, 2]}
A = 1.5
#: gpt2 has no operation that is done in float32 whatever the model's precision, but for the softmax of eager attention.
EXACT = "gpt2"


def error(a, b, valid=None):
    return float((a.double() - b.double())[slice(None) if valid is None else valid].abs().max())


def sinks_by_head(report):
    at = zip(report["calibrated_layer"].values, report["calibrated_head"].values, strict=True)
    return {
        (int(layer), b, int(head)): {int(k) for k in report["sink"][number, b].values.nonzero()[0]}
        for number, (layer, head) in enumerate(at)
        for b in range(report.sizes["sample"])
    }


def twin_sinks(twin):
    return {(layer, b, head): found for layer, of in twin.sinks.items() for (b, head), found in of.items()}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("threshold", ["relative", "corrected"])
@pytest.mark.parametrize("targets", ["all", "no_first"])
def test_a_forward_pass_is_that_of_explicit_maps(side, threshold, targets):
    model, inputs = tiny(EXACT).double(), inputs_for(EXACT, padded=side, lengths=(19, 12))
    if side == "left":
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    valid = all_valid(inputs)
    twin = Twin(model, HEADS, valid, a=A, beta=0.4, threshold=threshold, targets=targets, min_queries=2)
    with twin.steered() as slow:
        want = slow(**inputs).logits
    with (
        torch.no_grad(),
        ex.act(model, HEADS, alpha=A, threshold=threshold, targets=targets, min_queries=2) as steering,
    ):
        got = model(**inputs).logits
    report = steering.report()
    assert min(twin.margins) > 1e-9
    assert sinks_by_head(report) == twin_sinks(twin)
    assert sum(map(len, twin_sinks(twin).values())) > 4
    assert error(got, want, valid) < 1e-12
    with torch.no_grad():
        assert error(model(**inputs).logits, want, valid) > 0.1


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-window"])
def test_in_float32_it_is_as_exact_as_explicit_maps_in_float32(name):
    model, inputs = tiny(name), inputs_for(name, padded="right", lengths=(40, 31))
    valid, logits = all_valid(inputs), {}
    for dtype in (torch.float64, torch.float32):
        twin = Twin(model, HEADS, valid, dtype=dtype, a=A, beta=0.4)
        with twin.steered() as slow:
            logits[dtype] = slow(**inputs).logits
    with torch.no_grad(), ex.act(model, HEADS, alpha=A):
        got = model(**inputs).logits
    own = error(logits[torch.float32], logits[torch.float64], valid)
    assert error(got, logits[torch.float64], valid) <= 2 * own


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
@pytest.mark.parametrize("decoding", ["running", "frozen"])
@pytest.mark.parametrize("name", [EXACT, "llama", "mistral-window", "gpt-oss-sinks-window", "llama4-chunks"])
def test_generation_is_that_of_explicit_maps(name, decoding, cache):
    if name != EXACT and cache == "none" and decoding == "frozen":
        pytest.skip("without a cache each pass is a prompt of its own: the same as running")
    model = tiny(name, "eager" if "sinks" in name else "sdpa").double()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    inputs, steps = inputs_for(name, padded="left", lengths=(14, 9)), 6
    options = {"static": {"cache_implementation": "static"}, "none": {"use_cache": False}}.get(cache, {})
    twin = Twin(model, HEADS, all_valid(inputs, steps), a=A, beta=0.4, decoding=decoding)
    with twin.steered() as slow:
        tokens, want = generated(slow, inputs, steps, **(options if cache == "none" else {}))
    with ex.act(model, HEADS, alpha=A, decoding=decoding) as steering:
        same, got = generated(model, inputs, steps, **options)
    assert torch.equal(same, tokens)
    floor = 64 * float(want.abs().max()) * (torch.finfo(torch.float32).eps if name != EXACT else 1e-15)
    assert error(got, want) <= floor
    plain = generated(model, inputs, steps, **options)[1]
    assert error(plain, want) > 0.1
    report = steering.report()
    if cache != "none" and name in (EXACT, "llama"):
        assert sinks_by_head(report) == twin_sinks(twin)
    assert report.sizes["query"] == inputs["input_ids"].shape[1] + steps - 1


@pytest.mark.parametrize("name", [EXACT, "llama", "gemma3-mixed-windows"])
def test_decoding_with_frozen_sinks_is_one_pass_whose_prompt_decides(name):
    model = tiny(name).double()
    ids, mask = batch([20, 15], 20, "left")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    prompt, options = 12, {"alpha": A, "decoding": "frozen"}
    with torch.no_grad(), ex.act(model, HEADS, prompt=None, **options) as steering:
        steering.prompt = [prompt, prompt - 5]
        whole = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    at_once = steering.report()
    with torch.no_grad(), ex.act(model, HEADS, **options) as steering:
        first = model(
            input_ids=ids[:, :prompt],
            attention_mask=mask[:, :prompt],
            position_ids=positions[:, :prompt],
            use_cache=True,
        )
        parts, cache = [first.logits], first.past_key_values
        for n in range(prompt, 20):
            step = model(
                input_ids=ids[:, n : n + 1], attention_mask=mask[:, : n + 1], position_ids=positions[:, n : n + 1],
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            parts.append(step.logits)
    in_steps = steering.report()
    valid = mask.bool()
    bound = 1e-12 if name == EXACT else 64 * float(whole.abs().max()) * torch.finfo(torch.float32).eps
    assert error(torch.cat(parts, 1), whole, valid) <= bound
    sinks = at_once["sink"].values
    assert sinks.any()
    assert not sinks[..., prompt:].any()
    assert (in_steps["sink"].values == sinks[..., : in_steps.sizes["key"]]).all()
    for row in ("row_freed", "row_to_first", "row_sinks"):
        assert abs(at_once[row] - in_steps[row]).max() < 1e-5
        assert (at_once[row].isnull() == in_steps[row].isnull()).all()


def test_running_sinks_are_those_of_a_prefill_over_all_tokens_so_far():
    """Of one layer, whose queries and keys no earlier change moves: each new row is the last row of ACT on its prefix."""
    model, heads = tiny("llama").double(), {0: [0, 1, 3]}
    ids = batch([24], 24)[0]
    for chunk in (1, 3):
        with torch.no_grad(), ex.act(model, heads, alpha=A) as steering:
            out = model(input_ids=ids[:, :9], use_cache=True)
            for n in range(9, 24, chunk):
                out = model(
                    input_ids=ids[:, n : n + chunk], past_key_values=out.past_key_values, use_cache=True
                )
        report = steering.report()
        with torch.no_grad(), ex.act(model, heads, alpha=A) as steering:
            model(input_ids=ids)
        prefill = steering.report()
        assert (report["sink"].values == prefill["sink"].values).all()
        last = {
            name: report[name][..., -chunk:] - prefill[name][..., -chunk:]
            for name in ("row_freed", "row_sinks")
        }
        assert all(abs(x).max() < 1e-6 for x in last.values())
        assert not (report["row_sinks"].values == prefill["row_sinks"].values).all()


@pytest.mark.parametrize("decoding", ["running", "frozen"])
def test_beam_search_takes_what_belongs_to_each_beam(decoding):
    """The returned hypothesis, fed token by token without beams, has the score that beam search gave it."""
    model = tiny("llama").double()
    ids, mask = batch([9, 6], 9, "left")
    options = {
        "num_beams": 3,
        "max_new_tokens": 7,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    with ex.act(model, HEADS, alpha=A, decoding=decoding):
        output = model.generate(
            input_ids=ids, attention_mask=mask, **options, return_dict_in_generate=True, output_scores=True
        )
    assert (output.beam_indices.diff(dim=1) != 0).any(), "no beam was ever left"
    for sample in range(2):
        sequence, valid = output.sequences[sample : sample + 1], mask[sample : sample + 1]
        total = 0.0
        with torch.no_grad(), ex.act(model, HEADS, alpha=A, decoding=decoding):
            positions = (valid.cumsum(-1) - 1).clamp(min=0)
            out = model(
                input_ids=sequence[:, :9], attention_mask=valid, position_ids=positions, use_cache=True
            )
            for n in range(9, 16):
                total += float(out.logits[0, -1].log_softmax(-1)[sequence[0, n]])
                valid = torch.nn.functional.pad(valid, (0, 1), value=1)
                out = model(
                    input_ids=sequence[:, n : n + 1], attention_mask=valid, position_ids=valid.sum(-1, keepdim=True) - 1,
                    past_key_values=out.past_key_values, use_cache=True,
                )  # fmt: skip
        assert abs(total / 7 - float(output.sequences_scores[sample])) < 2e-6


@pytest.mark.parametrize(
    "options", [{"do_sample": True, "num_return_sequences": 3}, {"prefill_chunk_size": 4}]
)
def test_other_ways_of_generating_run(options):
    model, inputs = tiny("llama"), inputs_for("llama")
    given = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0, **options}
    outputs = []
    for beta in (0.4, 0.4, 1.0):
        torch.manual_seed(0)
        with ex.act(model, HEADS, alpha=A, beta=beta) as steering:
            outputs.append(model.generate(**inputs, **given))
        assert steering.report()["sinks"].max() > 0
    torch.manual_seed(0)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], model.generate(**inputs, **given))


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_beta_one_is_bit_identical(backend):
    model, inputs = tiny("llama", backend), inputs_for("llama", padded="left", lengths=(15, 9))
    every = {0: range(4), 1: range(4)}
    tokens, plain = generated(model, inputs)
    for options in ({"beta": 1.0, "alpha": 1.0}, {"alpha": 1e6}):
        with ex.act(model, every, **options) as steering:
            same, got = generated(model, inputs)
        assert torch.equal(same, tokens)
        assert torch.equal(got, plain)
        report = steering.report()
        assert float(report["freed"].max()) == 0
        assert float(report["unchanged"].min()) == 1
        assert (report["sinks"].max() > 0) == ("beta" in options)


def test_other_heads_keep_their_bits_and_other_layers_before_too():
    model, inputs = tiny("llama"), inputs_for("llama", lengths=(30, 30))
    seen = []
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, given: seen.append(given[0].unflatten(2, (4, -1)))
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(**inputs)
        with ex.act(model, [(1, 2)], alpha=A):
            model(**inputs)
    for handle in handles:
        handle.remove()
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1][:, :, [0, 1, 3]], seen[3][:, :, [0, 1, 3]])
    moved = (seen[1] != seen[3])[:, :, 2].any(-1)
    assert moved.any()
    assert not moved.all()


def test_a_generation_in_another_thread_is_steered_too():
    model, inputs, found = tiny("llama"), inputs_for("llama"), []
    with ex.act(model, HEADS, alpha=A):
        here = generated(model, inputs)[1]
        thread = threading.Thread(target=lambda: found.append(generated(model, inputs)[1]))
        thread.start()
        thread.join()
    assert torch.equal(found[0], here)
    assert not torch.equal(generated(model, inputs)[1], here)


def test_two_caches_that_take_turns_are_two_sequences():
    model = tiny("llama").double()
    first, second = batch([9], 9)[0], batch([12], 12, seed=1)[0]
    more = batch([4], 4, seed=2)[0]

    def steps(*prompts):
        """The logits of each prompt's further tokens, all prompts step by step together."""
        outs = [model(input_ids=ids, use_cache=True) for ids in prompts]
        logits = [[] for _ in prompts]
        for n in range(4):
            for at, out in enumerate(outs):
                outs[at] = model(
                    input_ids=more[:, n : n + 1], past_key_values=out.past_key_values, use_cache=True
                )
                logits[at].append(outs[at].logits)
        return [torch.cat(x, 1) for x in logits]

    with torch.no_grad(), ex.act(model, HEADS, alpha=A):
        alone = [steps(first)[0], steps(second)[0]]
        together = steps(first, second)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_loaded_model_and_pairs_will_do_and_the_report_has_words():
    loaded = language_model()
    model, inputs = loaded.model, inputs_for("llama", lengths=(30, 30))
    pairs = ex.act(loaded, [(1, 2), (0, 3), (0, 0), (1, 1), (0, 0)], alpha=A)
    assert pairs.heads == {0: (0, 3), 1: (1, 2)}
    with torch.no_grad(), pairs as steering:
        model(**inputs)
    report = steering.report()
    assert (report.attrs["explainer"], report.attrs["model"]) == ("act", "tiny")
    assert report["sinks"].dims == ("layer", "head")
    assert report["sinks"].isnull().values.tolist() == [
        [False, True, True, False],
        [True, False, False, True],
    ]
    words = ex.verbalization(report)
    said = dict(zip(words["claim"].values, words["value"].values, strict=True))
    assert set(said) == {"sinks", "freed", "to_first", "unchanged"}
    assert said["sinks"] == float(report["sinks"].mean())
    assert "each sink kept 40% of its weight" in ex.verbalize(report).lower()
    with torch.no_grad(), ex.act(model, HEADS, alpha=1e6) as steering:
        model(**inputs)
    assert "nothing changed" in ex.verbalize(steering.report())


def test_no_heads_change_nothing():
    model, inputs = tiny("llama"), inputs_for("llama")
    with torch.no_grad():
        plain = model(**inputs).logits
        with ex.act(model, {}) as steering:
            assert torch.equal(model(**inputs).logits, plain)
    with pytest.raises(InputError, match="no attention came"):
        steering.report()
