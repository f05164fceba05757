"""Token strips in words: planted maps, known pitfalls, every quote and figure looked up again."""

import numpy as np
import pytest
from explainer_cases import classifier, language_model, strip
from explainer_words import check
from hypothesis import given, settings
from hypothesis import strategies as st

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._verbalize.search import standing_runs

PIECES = ["We", " hope", " the", " plot", " is", " good", ",", " but", " it", " was", " long", "."]


def claims(result):
    return dict(
        zip(ex.verbalization(result)["claim"].values.tolist(), ex.verbalize(result).splitlines(), strict=True)
    )


def planted(run, mass, total=12):
    """Scores with a share `mass` of all support in a run, the rest even."""
    scores = np.full(total, (1 - mass) / (total - len(run)))
    scores[run] = mass / len(run)
    return scores


def test_a_planted_run_is_named_first_with_its_coverage():
    result = strip(PIECES, planted([3, 4, 5], 0.6))
    lines = ex.verbalize(result).splitlines()
    assert lines[1] == "The phrase “plot is good” (3 words) carries 60% of all that speaks for “positive”."
    found = ex.verbalization(result)
    assert found["value"].values[1] == pytest.approx(0.6)
    assert found["tokens"].values[1] == "3,4,5"
    check(result, ex.verbalize(result))


@pytest.mark.parametrize("run", [[0, 1], [10, 11], [9, 10, 11]])
def test_runs_at_both_ends_are_found_whole(run):
    """The reference code of the paper leaves out the last token of a run and the last place of a text."""
    found = claims(strip([*PIECES[:-1], " so"], planted(run, 0.7)))
    quote = "".join([*PIECES[:-1], " so"][i] for i in run).strip()
    assert found["phrase"].startswith(f"The phrase “{quote}” ({len(run)} words) carries 70%")


def test_two_runs_are_named_by_coverage():
    scores = np.full(12, 0.02 / 6)
    scores[[8, 9, 10]], scores[[1, 2, 3]] = 0.5 / 0.82 / 3, 0.3 / 0.82 / 3
    result = strip(PIECES, scores)
    lines = [line for line in ex.verbalize(result).splitlines() if line.startswith("The phrase")]
    assert [line.split("”")[0] for line in lines] == ["The phrase “it was long", "The phrase “hope the plot"]
    check(result, ex.verbalize(result))


def test_a_single_spike_is_a_word_and_no_phrase():
    found = claims(strip(PIECES, planted([5], 0.9)))
    assert "phrase" not in found
    assert (
        found["top_word"]
        == "What speaks most strongly for “positive” is “good” (+0.90, 90% of the total attribution)."
    )
    assert "concentrated" in found["concentration"]


@pytest.mark.parametrize("value", [1.0, -2.0])
def test_a_uniform_map_makes_no_claim_of_importance(value):
    result = strip(PIECES, np.full(12, value))
    found = claims(result)
    assert found["flat"].startswith("The map does not single out any word")
    assert not {"top_word", "next_words", "phrase", "against", "position"} & set(found)
    check(result, ex.verbalize(result))


def test_a_map_of_zeros_says_so():
    found = claims(strip(PIECES, np.zeros(12)))
    assert found["flat"] == "All scores are 0: the map does not single out any word."
    assert len(found) == 2


def test_all_negative_scores_speak_for_nothing():
    result = strip(PIECES, -planted([5], 0.6))
    found = claims(result)
    assert found["no_support"] == "No word speaks for “positive”."
    assert found["against"].startswith("Against it speaks above all “good” (−0.60, 60%)")
    assert "phrase" not in found
    check(result, ex.verbalize(result))


def test_all_positive_scores_have_nothing_against():
    found = claims(strip(PIECES, planted([5], 0.6)))
    assert found["nothing_against"] == "No word speaks against “positive”."


def test_more_against_than_for_is_said():
    scores = planted([5], 0.6)
    scores[10] = -2
    result = strip(PIECES, scores)
    assert claims(result)["balance"] == "In sum, more speaks against “positive” (67%) than for it (33%)."
    check(result, ex.verbalize(result))


def test_little_against_is_not_named():
    scores = planted([5], 0.6)
    scores[10] = -0.01
    assert claims(strip(PIECES, scores))["against"] == "Little speaks against it: 1% of the total."


@pytest.mark.parametrize("factor", [1e-6, 0.3, 7.0, 1e6])
def test_a_positive_factor_changes_no_share_and_no_order(factor):
    scores = np.random.default_rng(0).normal(size=12)
    one, other = ex.verbalization(strip(PIECES, scores)), ex.verbalization(strip(PIECES, factor * scores))
    assert one["claim"].values.tolist() == other["claim"].values.tolist()
    assert one["tokens"].values.tolist() == other["tokens"].values.tolist()
    shares = ~np.isin(one["claim"].values, ["top_word"])
    np.testing.assert_allclose(one["value"].values[shares], other["value"].values[shares], rtol=1e-9)


def test_pieces_of_a_word_are_added_up():
    pieces = ["[CLS]", "The", " wonder", "ful", " film", "'s", " end", "-", "ing", "!", "[SEP]"]
    roles = ["special", *["text"] * 9, "special"]
    result = strip(pieces, [0, 0.1, 1.0, 2.0, 0.1, 0.4, 0.2, 0.2, 0.2, 0.1, 0], roles)
    found = ex.verbalization(result)
    top = found["claim"].values.tolist().index("top_word")
    assert "“wonderful” (+3.00" in found["text"].values[top]
    assert found["tokens"].values[top] == "2,3"
    assert "“end-ing” (+0.60" in claims(result)["next_words"]
    check(result, ex.verbalize(result))


def test_bytes_of_one_character_are_one_word():
    result = strip([" so", " 🙂", "", "", " good"], [0.1, 1.0, 0.5, 0.5, 0.1])
    assert "“🙂” (+2.00" in claims(result)["top_word"]


def test_line_breaks_are_shown():
    result = strip(["so", "\n\n", "good"], [0.1, 3.0, 0.2])
    assert "“⏎⏎” (+3.00" in claims(result)["top_word"]


def test_writing_without_blanks_is_read_token_by_token():
    result = strip(["日本", "語", "は", "いい"], [0.1, 0.1, 0.1, 2.0])
    assert "“いい” (+2.00" in claims(result)["top_word"]


def test_unsigned_scores_never_speak_for_or_against():
    result = strip(PIECES, planted([3, 4, 5], 0.6), signed=False, unit="1")
    text = ex.verbalize(result)
    assert "have no sign" in text
    assert "speaks" not in text
    assert "“plot is good” (3 words) carries 60% of the total" in text
    check(result, text)


def test_a_sign_at_the_end_of_a_phrase_is_left_off():
    scores = planted([5, 6, 7], 0.9)
    found = claims(strip(PIECES, scores))
    assert found["phrase"].startswith("The phrase “good, but” (2 words)")
    scores = planted([4, 5, 6], 0.9)
    assert claims(strip(PIECES, scores))["phrase"].startswith("The phrase “is good” (2 words) carries 60%")


def test_a_run_over_a_full_stop_is_a_passage():
    pieces = [*PIECES[:-1], " so", ".", " We", " hope", " it", " is", " real"]
    result = strip(pieces, planted([10, 11, 12, 13], 0.8, len(pieces)))
    assert claims(result)["passage"].startswith("The passage “long so. We” (3 words) carries 80%")


def test_where_the_attribution_stands():
    late = strip(PIECES, planted([9, 10, 11], 0.8))
    assert claims(late)["position"] == "The last third of the text holds 82% of the attribution."
    apart = strip(PIECES, planted([0, 4, 7, 11], 0.9))
    assert claims(apart)["position"] == "The attribution is spread over the text: its first half holds 50%."


def test_special_tokens_with_much_attribution_are_mentioned():
    roles = ["special", *["text"] * 12, "special"]
    result = strip(["<s>", *PIECES, "</s>"], [-3.0, *planted([5], 0.6), 0.0], roles)
    assert claims(result)["special"].startswith("Special tokens, “<s>” above all, hold 75%")
    check(result, ex.verbalize(result))


def test_another_target_than_the_prediction_is_said_first():
    attrs = {
        "target": " London",
        "target_probability": 0.0004,
        "prediction": " Paris",
        "prediction_probability": 0.62,
    }
    lines = ex.verbalize(strip(PIECES, planted([5], 0.6), task="text-generation", **attrs)).splitlines()
    assert lines[0] == "The most probable next token is “Paris” (probability 0.62)."
    assert lines[1] == "Explained is another next token, “London” (probability under 0.01)."


def test_an_only_word_stands_out_against_nothing():
    result = strip(["good"], [2.0])
    assert claims(result)["flat"] == "“good” is the only word, so nothing stands out against anything."
    check(result, ex.verbalize(result))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (strip([], []), "no text token"),
        (strip(["[CLS]", "[SEP]"], [0.0, 1.0], ["special", "special"]), "no text token"),
        (strip(["a", "b"], [np.nan, 1.0]), "not finite"),
        (strip(["a"], [1.0], kind="song"), "a result of kind 'song' has no words yet"),
        (strip(["a"], [1.0]).drop_vars("role"), "not a complete result"),
        ("good", "expected a result"),
    ],
)
def test_what_cannot_be_put_into_words_is_refused(result, message):
    with pytest.raises(InputError, match=message):
        ex.verbalize(result)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.floats(-5, 5, width=16)), min_size=1, max_size=16),
    st.booleans(),
)
def test_every_quote_and_figure_is_in_the_map(tokens, signed):
    scores = np.array([score for _, score in tokens])
    result = strip([piece for piece, _ in tokens], scores if signed else np.abs(scores), signed=signed)
    check(result, ex.verbalize(result))


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "gradient_x_input", "occlusion", "attention_received"]
)
def test_every_quote_and_figure_of_real_results_is_in_the_map(method):
    for build, text in (
        (classifier, "The film was wonderful, but the plot is dull and thin!"),
        (language_model, "the plot is"),
    ):
        result = ex.saliency(build(), text, method=method)
        check(result, ex.verbalize(result))
        assert ex.verbalize(result).splitlines()[-1] == result.attrs["faithfulness_verdict"]


def test_the_checker_sees_a_wrong_figure_and_a_wrong_word():
    result = strip(PIECES, planted([5], 0.9))
    text = ex.verbalize(result)
    for wrong in (text.replace("90%", "80%"), text.replace("“good”", "“plot”"), f"{text}\nThe plot is good."):
        with pytest.raises(AssertionError):
            check(result, wrong)


def test_words_of_words_are_the_same():
    found = ex.verbalization(strip(PIECES, planted([5], 0.9)))
    assert ex.verbalize(found) == "\n".join(found["text"].values)
    assert found.attrs["kind"] == "text"
    assert found.attrs["of"] == "saliency"


def test_which_of_several_equal_words_is_said():
    result = strip(["to", " be", " or", " not", " to", " be"], [0.1, 0.1, 0.1, 0.1, 3.0, 0.1])
    assert "for “positive” is the second “to” (+3.00" in ex.verbalize(result)
    check(result, ex.verbalize(result))


def test_runs_come_by_coverage_not_by_how_far_they_stand_out():
    scores = np.full(12, 0.12 / 7)
    scores[1], scores[5:9] = 0.4, 0.12
    found = standing_runs(scores)
    assert [(run.first, run.last) for run in found] == [(5, 8), (1, 1)]
    np.testing.assert_allclose([run.coverage for run in found], [0.48, 0.4])


@pytest.mark.parametrize(("spike", "pair"), [(0.6, 0.12), (0.4, 0.14)])
def test_a_run_that_carries_little_or_less_than_one_word_is_no_phrase(spike, pair):
    scores = np.full(12, (1 - spike - 2 * pair) / 9)
    scores[2], scores[[8, 9]] = spike, pair
    assert len(standing_runs(scores)) == 2
    assert "phrase" not in claims(strip(PIECES, scores))
