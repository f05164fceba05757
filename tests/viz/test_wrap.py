"""Setting tokens in lines: nothing is lost, nothing overlaps, words stay whole."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.viz.passages import choose
from probe.viz.wrap import BREAK, cells, lay_out

PIECES = st.lists(st.text(alphabet=" ab,é日\n\t\u0301", max_size=12), max_size=30)


@given(PIECES, st.integers(2, 20))
def test_no_box_overlaps_or_leaves_its_line(pieces, columns):
    taken = set()
    for box in lay_out(pieces, columns):
        assert box.column + box.width <= columns or len(box.text) == 1
        for cell in range(box.column, box.column + box.width):
            assert (box.line, cell) not in taken
            taken.add((box.line, cell))


@given(PIECES, st.integers(2, 20))
def test_every_letter_is_shown_once_and_in_order(pieces, columns):
    shown = "".join(box.text for box in lay_out(pieces, columns))
    drop = str.maketrans("", "", " ·→\t\n" + BREAK)
    assert shown.translate(drop) == "".join(pieces).translate(drop)


def test_words_stay_whole_and_blanks_lie_between_boxes():
    boxes = lay_out(["The", " act", "ing", " is", " good"], 10)
    assert [(b.text, b.line, b.column) for b in boxes] == [
        ("The", 0, 0),
        ("act", 0, 4),
        ("ing", 0, 7),
        ("is", 1, 0),
        ("good", 1, 3),
    ]


def test_line_breaks_are_shown_and_kept():
    boxes = lay_out(["one", "\n", "two"], 20)
    assert [(b.text, b.line) for b in boxes] == [("one", 0), (BREAK, 0), ("two", 1)]


def test_a_token_longer_than_a_line_goes_on():
    boxes = lay_out(["abcdefghij"], 4)
    assert [b.text for b in boxes] == ["abcd", "efgh", "ij"]
    assert {b.token for b in boxes} == {0}


def test_wide_signs_take_two_cells_and_marks_none():
    assert cells("日本") == 4
    assert cells("e\u0301") == 1


def test_a_line_of_one_cell_is_refused():
    with pytest.raises(ValueError, match="columns must be at least 2, got 1"):
        lay_out(["a"], 1)


@given(st.lists(st.floats(-5, 5) | st.just(float("nan")), max_size=200), st.integers(1, 60))
def test_passages_fit_the_budget_and_hold_the_strongest(scores, budget):
    spans = choose(scores, budget, context=4)
    assert sum(b - a for a, b in spans) <= max(budget, 0)
    assert all(a < b for a, b in spans)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(spans))
    if scores:
        strengths = [abs(s) if s == s else 0.0 for s in scores]
        top = strengths.index(max(strengths))
        assert any(a <= top < b for a, b in spans)


def test_a_text_that_fits_is_shown_whole():
    assert choose([1.0, 2.0, 3.0], 3) == [(0, 3)]
    assert choose([], 3) == []


def test_a_word_of_several_tokens_is_not_torn_at_the_edge():
    boxes = lay_out(["The", " act", "ing"], 9)
    assert [(b.text, b.line) for b in boxes] == [("The", 0), ("act", 1), ("ing", 1)]


@pytest.mark.parametrize("budget", [1, 2, 8, 9, 10, 20, 27, 99])
def test_passages_use_the_budget_and_never_more(budget):
    scores = [0.0] * 100
    for place in (10, 50, 90):
        scores[place] = 1.0 + place
    spans = choose(scores, budget, context=4)
    shown = sum(b - a for a, b in spans)
    assert budget - 1 <= shown <= budget
    assert any(a <= 90 < b for a, b in spans)
