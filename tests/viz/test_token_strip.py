"""The text figure as data: boxes, colours, words of the title and of the hover."""

import json

import numpy as np
import pytest

from probe import InputError, viz
from probe.viz import theme
from probe.viz.strip import headline, percent, read_strip, word_around


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_each_text_token_is_a_box_with_the_colour_of_its_score(strip):
    tokens = traces(viz.draw(strip))["tokens"]
    assert list(tokens.text)[:4] == ["The", "plot", "is", "thin"]
    scores = strip["score"].values[1:14]
    expected = [theme.token_colour(float(s), 0.55, signed=True) for s in scores]
    assert list(tokens.marker.color) == expected
    assert np.all(np.asarray(tokens.y) == 0)


def test_the_colour_scale_is_symmetric_about_zero(make_strip):
    figure = viz.draw(make_strip(["a", " b", " c"], [-0.2, 0.0, 1.0]))
    low, middle, high = traces(figure)["tokens"].marker.color
    assert middle == theme.NEUTRAL
    assert high == theme.DIVERGING[-1][1]
    assert low == theme.interpolate(theme.DIVERGING, 0.4)
    colours = list(traces(figure)["colours"].marker.color)
    assert colours[0] == theme.DIVERGING[0][1]
    assert colours[5] == theme.NEUTRAL
    assert colours[-1] == theme.DIVERGING[-1][1]


def test_the_legend_says_what_the_colours_mean(strip):
    words = " ".join(traces(viz.draw(strip))["legend"].text)
    assert "speaks against “positive” −0.55" in words
    assert "+0.55 speaks for “positive”" in words


def test_scores_without_sign_use_one_hue_from_zero(make_strip):
    figure = viz.draw(make_strip(["a", " b"], [0.0, 3.0], signed=False, method="attention_received"))
    assert list(traces(figure)["tokens"].marker.color) == [theme.NEUTRAL, theme.TOKEN_SEQUENTIAL[-1][1]]
    assert "attention received" in " ".join(traces(figure)["legend"].text)


def test_special_tokens_are_shown_without_colour_and_their_share_is_told(strip):
    figure = viz.draw(strip)
    plain = traces(figure)["not coloured"]
    assert list(plain.text) == ["[CLS]", "[SEP]"]
    assert plain.marker.color == "rgba(0,0,0,0)"
    assert "special tokens (grey) hold 2.7% of the whole input" in figure.layout.title.subtitle.text


def test_a_strong_special_token_does_not_flatten_the_words(make_strip):
    read = read_strip(make_strip(["<s>", "a", " b"], [90.0, 1.0, -2.0], ["special", "text", "text"]))
    assert read.limit == 2.0
    assert read.special_share == pytest.approx(90 / 93)


def test_padding_is_left_out(make_strip):
    read = read_strip(make_strip(["a", "[PAD]"], [1.0, 5.0], ["text", "pad"]))
    assert [t.text for t in read.tokens] == ["a"]
    assert read.tokens[0].share == 1.0


def test_the_title_tells_prediction_and_probability(strip):
    assert viz.draw(strip).layout.title.text == "<b>sentiment says “positive” (97%)</b>"


def test_the_title_says_when_another_answer_is_explained(strip):
    strip.attrs |= {
        "target": "negative",
        "target_probability": 0.2,
        "prediction": "positive",
        "prediction_probability": 0.8,
    }
    assert headline(read_strip(strip)) == "sentiment says “positive” (80%); explained here: “negative” (20%)"


def test_a_next_token_keeps_its_blank_and_line_break(make_strip):
    strip = make_strip(
        ["a"], [1.0], target="\nParis", target_probability=0.4, model="smollm2", task="text-generation"
    )
    assert headline(read_strip(strip)) == "smollm2 continues with “↵Paris” (40%)"


def test_hover_tells_score_share_and_place(strip):
    tokens = traces(viz.draw(strip))["tokens"]
    assert list(tokens.customdata[3]) == [
        "thin".join((" ", "")),
        "−0.41",
        "22%",
        "5 of 15",
        ", characters 12–16",
    ]


def test_markup_in_tokens_is_shown_not_obeyed(make_strip):
    figure = viz.draw(make_strip(["<b>", " &lt;", "</b>"], [1.0, 0.5, -1.0], target="<i>x</i>"))
    tokens = traces(figure)["tokens"]
    assert list(tokens.text) == ["&lt;b&gt;", "&amp;lt;", "&lt;/b&gt;"]
    assert tokens.customdata[0][0] == "&lt;b&gt;"
    assert "<i>" not in json.dumps(figure.layout.title.to_plotly_json())


def test_long_texts_wrap(make_strip):
    figure = viz.draw(make_strip([" word"] * 300, np.linspace(-1, 1, 300)))
    lines = np.asarray(traces(figure)["tokens"].y)
    assert lines.max() > 10
    assert np.asarray(traces(figure)["tokens"].base).max() <= 96
    assert figure.layout.height > 12 * 30


def test_very_long_texts_show_the_strongest_passages_and_say_so(make_strip):
    scores = np.full(20_000, 0.001)
    scores[12_345] = 7.0
    pieces = [f" w{i}" for i in range(20_000)]
    figure = viz.draw(make_strip(pieces, scores))
    assert "w12345" in traces(figure)["tokens"].text
    assert "the strongest passages, 1,500 of 20,000 tokens" in figure.layout.title.subtitle.text
    assert any("tokens…" in text for text in traces(figure)["not coloured"].text)


def test_nothing_finite_is_refused(make_strip):
    with pytest.raises(InputError, match="none of the 2 text tokens has a finite 'score'"):
        viz.draw(make_strip(["a", "b"], [np.nan, np.nan]))


def test_a_missing_variable_is_named(strip):
    strip.attrs["value"] = "relevance"
    with pytest.raises(InputError, match=r"'relevance' with dimension \(token\), got nothing"):
        viz.draw(strip)


def test_all_zero_scores_are_drawn_neutral(make_strip):
    figure = viz.draw(make_strip(["a", " b"], [0.0, 0.0]))
    assert list(traces(figure)["tokens"].marker.color) == [theme.NEUTRAL] * 2


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (0.5, "50%"),
        (0.0999, "10%"),
        (0.064, "6.4%"),
        (0.0004, "<0.1%"),
        (0.99996, ">99.9%"),
        (0.0, "0%"),
        (0.992, "99.2%"),
        (1.0, "100%"),
    ],
)
def test_percentages_never_round_to_a_false_bound(part, text):
    assert percent(part) == text


def test_the_word_around_a_piece(strip):
    read = read_strip(strip)
    assert word_around(read, read.tokens[11]) == ("", "ight")
    assert word_around(read, read.tokens[12]) == ("del", "")
    assert word_around(read, read.tokens[13]) == ("", "")
    assert word_around(read, read.tokens[4]) == ("", "")
