"""The searches for runs: SMV's golden texts and coverages, planted maps, and the faults that the default mends."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from explainer_cases import strip
from hypothesis import given, settings
from hypothesis import strategies as st

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._verbalize.search import coverage_in, find, maximal_segments, published, standing_runs

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "smv-ratings"
SEARCHES = ("segments", "windows", "published")
FOUR = (23, 43, 67, 70)  # the fifth, 51, dropped a run at its start


@pytest.fixture(scope="module")
def maps():
    if not (DATA / "saliency_maps_8.json").is_file():
        pytest.skip("the recovered SMV maps are not here (../shared/data/smv-ratings)")
    return {
        m["instance_id"]: m for m in json.loads((DATA / "saliency_maps_8.json").read_text(encoding="utf-8"))
    }


def as_strip(one):
    pieces = [token if i == 0 else f" {token}" for i, token in enumerate(one["tokens"])]
    return strip(pieces, one["attributions"])


@pytest.mark.parametrize("item", FOUR)
def test_published_reproduces_the_study_texts_word_for_word(maps, item):
    found = ex.verbalization(as_strip(maps[item]), search="published")
    assert " ".join(found["text"].values) == maps[item]["study_text"].replace(" ##", " ##")
    assert found["coverage"].values.sum() == pytest.approx(maps[item]["study_coverage"], abs=5e-6)


@pytest.mark.parametrize("item", [*FOUR, 51])
def test_inclusive_coverage_reproduces_all_five_study_coverages(maps, item):
    one, total = maps[item], 0.0
    scores = np.array(one["attributions"])
    for quote in re.findall(r"» (.*?) «", one["study_text"]):
        words = quote.split()
        starts = [i for i in range(len(one["tokens"])) if one["tokens"][i : i + len(words)] == words]
        best = max(coverage_in(scores)(i, i + len(words) - 1) for i in starts)
        total += best
    assert total == pytest.approx(one["study_coverage"], abs=5e-6)


def test_total_order_and_snippets_of_the_tool(maps):
    for one in maps.values():
        said, scores = one["tool_output_2022"], np.array(one["attributions"])
        order = np.argsort(-scores, kind="stable")
        for place, (token, share) in enumerate(re.findall(r"token '(.*?)' with ([\d.]+)%", said)):
            assert one["tokens"][order[place]] == token
            assert 100 * coverage_in(scores)(order[place], order[place]) == pytest.approx(
                float(share), abs=0.00501
            )
    scores = np.array(maps[70]["attributions"])
    start = maps[70]["tokens"].index("love") - 1
    assert [round(100 * coverage_in(scores)(start, start + n), 2) for n in (2, 4)] == [53.51, 57.03]


def test_the_ratings_give_the_published_table(maps):
    """Mean per annotator and round, then over annotators; a blank counts as wrong."""
    import csv
    from collections import defaultdict

    cells = defaultdict(lambda: defaultdict(list))
    with (DATA / "ratings.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            right = float(row["simulated_label"] == row["model_label"])
            cells[row["dataset"], row["explanation"]][row["round"], row["annotator"]].append(right)
    table = {
        key: round(100 * np.mean([np.mean(v) for v in people.values()]), 2) for key, people in cells.items()
    }
    names = {name.casefold().replace(" ", ""): value for (_, name), value in table.items()}
    assert len(names) == 4
    imdb = {name: value for (data, name), value in table.items() if data == "IMDb"}
    assert (imdb["HM"], imdb["ER"], imdb["SMV"], imdb["GPT"]) == (90.75, 85.94, 87.50, 94.06)
    news = {name: value for (data, name), value in table.items() if data != "IMDb"}
    assert (news["HM"], news["SMV"], news["GPT"]) == (79.83, 79.50, 77.60)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_planted_run_is_found_with_its_coverage(search):
    scores = np.full(20, 0.4 / 17)
    scores[8:11] = 0.2
    run = find(scores, search)[0]
    assert (run.first, run.last) == ((8, 10) if search != "published" else (run.first, run.last))
    assert run.first <= 8
    assert run.last >= 10
    if search != "published":
        assert run.coverage == pytest.approx(0.6)


@pytest.mark.parametrize("search", ["segments", "windows"])
@pytest.mark.parametrize("run", [(0, 1), (17, 19)])
def test_runs_at_the_ends_are_found(search, run):
    scores = np.full(20, 0.01)
    scores[run[0] : run[1] + 1] = 0.3
    found = find(scores, search)[0]
    assert (found.first, found.last) == run


@pytest.mark.parametrize("search", ["segments", "windows"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_texts_shorter_than_a_window_give_results(search, size):
    assert find(np.arange(1.0, size + 1), search)[0].last == size - 1


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("scores", [[-1.0, -2.0], [0.0, 0.0], [-0.5]])
def test_without_support_nothing_is_found(search, scores):
    assert find(np.array(scores), search) == []


@pytest.mark.parametrize("search", SEARCHES)
@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.integers(-20, 20), min_size=1, max_size=30), factor=st.sampled_from([0.25, 8.0]))
def test_a_positive_factor_changes_no_run(search, scores, factor):
    one, other = (find(f * np.array(scores, dtype=float), search) for f in (1.0, factor))
    assert [(r.first, r.last) for r in one] == [(r.first, r.last) for r in other]


def kadane(values):
    """The slow way: the best segment again and again, each time without what earlier ones hold."""
    values, found = np.array(values, dtype=float), []
    while True:
        sums = {(a, b): values[a : b + 1].sum() for a in range(len(values)) for b in range(a, len(values))}
        (first, last), gain = max(
            sums.items(), key=lambda item: (item[1], -(item[0][1] - item[0][0]), -item[0][0])
        )
        if gain <= 0:
            return sorted(found)
        found.append((first, last, gain))
        values[first : last + 1] = -np.inf


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=14))
def test_maximal_segments_equal_taking_the_best_one_again_and_again(values):
    found, slow = maximal_segments(np.array(values, dtype=float)), kadane(values)
    assert sorted(gain for *_, gain in found) == sorted(gain for *_, gain in slow)
    assert sum(gain for *_, gain in found) == pytest.approx(sum(gain for *_, gain in slow))


def test_published_drops_zeros_and_points_back_into_the_whole_text():
    scores = np.array([0.0, 0.0, 5.0, 0.0, 4.0, 0.1, -0.1, 0.1])
    (run,) = published(scores)
    assert (run.first, run.last) == (2, 7)
    assert run.coverage == pytest.approx(9.1 / 9.2)


def test_a_hundred_thousand_units_are_searched():
    scores = np.random.default_rng(0).normal(size=100_000)
    scores[50_000:50_003] = 4000.0
    for search in SEARCHES:
        best = find(scores, search)[0]
        assert best.first <= 50_000 <= 50_002 <= best.last
    assert len(standing_runs(scores)) >= 1


def test_unknown_choices_are_refused():
    one = strip(["a", " b"], [1.0, 2.0])
    for wrong in ({"search": "x"}, {"unit": "x"}, {"language": "xx"}):
        with pytest.raises(InputError, match="expected one of"):
            ex.verbalization(one, **wrong)
