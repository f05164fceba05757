"""Sinks against closed forms, planted sinks, and a slow count over whole maps."""

import numpy as np
import pytest
from explainer_cases import causal, language_model, record, uniform

from probe import explainers as ex
from probe.errors import InputError, RecordError


def uniform_record(size, layers=1, heads=1):
    visible = causal(size)[None, None].repeat(layers, axis=1)
    return record(uniform(visible)[:, :, None].repeat(heads, axis=2), visible)


def random_maps(rng, samples, layers, heads, visible):
    logits = rng.normal(size=(samples, layers, heads, *visible.shape[-2:])) * 3
    weights = np.exp(logits) * visible[:, :, None]
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


def slow(maps, visible, factor=5.0, epsilon=0.3, min_queries=8, corrected=True):
    """Counts by loops over whole maps of one sample."""
    layers, heads, _, keys = maps.shape
    out = {
        name: np.zeros((layers, heads)) for name in ("first_token", "sink_rate", "later_sinks", "first_ratio")
    }
    for layer in range(layers):
        see = visible[layer]
        valid = [k for k in range(keys) if see[:, k].any()]
        for head in range(heads):
            for k in valid:
                rows = np.flatnonzero(see[:, k])
                share = maps[layer, head, rows, k].mean()
                expected = np.mean([1 / see[i].sum() for i in rows])
                ratio = share / expected if corrected else share * len(valid)
                if k == valid[0]:
                    out["first_token"][layer, head] = share
                    out["sink_rate"][layer, head] = share > epsilon
                    out["first_ratio"][layer, head] = ratio
                elif len(rows) >= min_queries:
                    out["later_sinks"][layer, head] += ratio > factor
    return out


@pytest.mark.parametrize("size", [1, 2, 64, 200])
def test_uniform_causal_map_gives_the_first_token_har_t_over_t(size):
    found = ex.sinks(uniform_record(size))
    np.testing.assert_allclose(found["first_token"], np.sum(1 / np.arange(1, size + 1)) / size, rtol=1e-6)
    np.testing.assert_allclose(found["first_ratio"], 1, rtol=1e-6)


@pytest.mark.parametrize("size", [11, 64, 82, 83, 84, 200, 512])
def test_literal_rule_flags_the_first_token_of_a_uniform_map_from_83_tokens_on(size):
    found = ex.sinks(uniform_record(size), min_queries=1)
    assert found["first_flagged_literal"].item() == (size >= 83)
    assert found["first_flagged_corrected"].item() == 0
    assert found["later_sinks"].item() == 0


def test_literal_rule_finds_four_columns_in_a_uniform_map_of_512():
    found = ex.sinks(uniform_record(512), rule="literal", min_queries=1)
    assert found["later_sinks"].item() + found["first_flagged_literal"].item() == 4  # specs, analyzers-1 §1.7
    assert "first_ratio" not in found


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("kind", ["causal", "window", "full"])
def test_equals_a_count_over_whole_maps(kind, corrected):
    rng = np.random.default_rng(0)
    place = np.arange(40)
    near = np.abs(place[:, None] - place[None]) < 15
    one = {"causal": causal(40), "window": causal(40) & near, "full": np.ones((40, 40), bool)}[kind]
    visible = np.broadcast_to(one, (3, 2, 40, 40))
    maps = random_maps(rng, 3, 2, 4, visible)
    found = ex.sinks(
        record(maps, visible), rule="corrected" if corrected else "literal", factor=1.6, epsilon=0.05
    )
    expected = [slow(maps[s], visible[s], 1.6, 0.05, 8, corrected) for s in range(3)]
    names = ("first_token", "sink_rate", "later_sinks", *(("first_ratio",) if corrected else ()))
    for name in names:
        np.testing.assert_allclose(
            found[name], np.mean([e[name] for e in expected], axis=0), rtol=1e-5, err_msg=name
        )
    assert found["later_sinks"].max() > 0


@pytest.mark.parametrize("rule", ["corrected", "literal"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_sample_counts_as_it_does_alone(side, rule):
    rng = np.random.default_rng(1)
    short = np.broadcast_to(causal(24), (1, 2, 24, 24))
    maps = random_maps(rng, 1, 2, 3, short)
    inside = slice(6, 30) if side == "left" else slice(0, 24)
    visible, padded = np.zeros((1, 2, 30, 30), bool), np.zeros((1, 2, 3, 30, 30))
    visible[..., inside, inside], padded[..., inside, inside] = short, maps
    alone, found = (
        ex.sinks(record(m, v), factor=1.5, rule=rule) for m, v in ((maps, short), (padded, visible))
    )
    assert alone["later_sinks"].max() > 0
    for name in alone.data_vars:
        np.testing.assert_array_equal(alone[name], found[name], err_msg=name)


def planted(size=40, at=10, share=0.9):
    """Queries from `at` on give `share` to token `at`, the rest evenly; one head, beside one uniform head."""
    visible = causal(size)
    even = uniform(visible)
    maps = even.copy()
    maps[at:] *= 1 - share
    maps[at:, at] += share
    return np.stack([even, maps])[None, None], np.broadcast_to(visible, (1, 1, size, size))


def test_a_planted_later_sink_is_found_in_its_head_and_named():
    maps, visible = planted()
    texts = [[f"w{i}" for i in range(40)]]
    found = ex.sinks(record(maps, visible, texts))
    np.testing.assert_array_equal(found["later_sinks"], [[0, 1]])
    assert found["sink_text"].values.tolist() == ["w10"]
    assert found["sink_count"].item() == 1
    assert found["sink_frequency"].item() == 0.5  # one occurrence, two heads


def test_tokens_of_one_text_are_counted_together():
    maps, visible = planted()
    texts = [["the" if i % 10 == 0 else "x" for i in range(40)]]
    found = ex.sinks(record(maps, visible, texts))
    assert found["sink_text"].values.tolist() == ["the"]
    assert (
        found["sink_frequency"].item() == 1 / 6
    )  # tokens 10, 20 and 30 in two heads; the first token is no later sink


def test_tokens_that_few_queries_see_are_left_out():
    maps, visible = planted(size=40, at=36, share=1.0)
    assert ex.sinks(record(maps, visible))["later_sinks"].max() == 0
    assert ex.sinks(record(maps, visible), min_queries=4)["later_sinks"].values.tolist() == [[0, 1]]


def test_a_record_without_texts_says_so():
    found = ex.sinks(uniform_record(20))
    assert "sink_text" not in found
    assert "no token texts" in found.attrs["note"]


def test_a_record_without_received_says_what_to_capture():
    trace = uniform_record(8)
    trace["text"] = trace["text"].to_dataset().drop_vars("received")
    with pytest.raises(RecordError, match="--stats received"):
        ex.sinks(trace)


def test_a_number_missing_at_a_valid_token_is_refused():
    trace = uniform_record(8)
    trace["text/received"][0, 0, 0, 3] = np.nan
    with pytest.raises(RecordError, match="no finite number"):
        ex.sinks(trace)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"factor": 0.5}, "factor = 0.5, expected 1 to 1000"), ({"rule": "odd"}, "one of corrected, literal"),
     ({"min_queries": 2.5}, "int"), ({"epsilon": True}, "float"), ({"tower": ""}, "not empty")],
)  # fmt: skip
def test_values_outside_their_domain_are_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        ex.sinks(uniform_record(8), **given)
    assert "\n" not in str(caught.value)


def test_a_captured_record_gives_what_its_eager_maps_give():
    import torch
    from explainer_cases import byte_level

    import probe

    loaded, texts = language_model(), ["the capital of france is paris", "the plot is thin"]
    found = ex.sinks(probe.capture(loaded, texts, stats=("received",)), factor=1.2, min_queries=1)
    expected = []
    implementation = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation("eager")
    try:
        for text in texts:
            with torch.no_grad():
                out = loaded.model(**byte_level()(text, return_tensors="pt"), output_attentions=True)
            maps = torch.cat(out.attentions).numpy()
            expected.append(
                slow(maps, np.broadcast_to(causal(maps.shape[-1]), (2, *maps.shape[-2:])), 1.2, 0.3, 1)
            )
    finally:
        loaded.model.set_attn_implementation(implementation)
    for name in ("first_token", "later_sinks", "first_ratio"):
        np.testing.assert_allclose(
            found[name], np.mean([e[name] for e in expected], axis=0), rtol=1e-4, err_msg=name
        )


def test_a_result_names_the_record_that_it_was_read_from(tmp_path):
    import probe

    path = tmp_path / "r.zarr"
    kept = probe.capture(language_model(), "the capital of france is", stats=("received",), store=path)
    for trace in (kept, probe.open_record(path)):
        assert ex.sinks(trace).attrs["trace"] == str(path)
        assert ex.sinks(trace).attrs["model"] == "tiny"
    assert ex.sinks(uniform_record(4)).attrs["trace"] == "in memory"
