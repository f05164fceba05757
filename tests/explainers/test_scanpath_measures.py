"""Measures of scanpaths against values computed by hand, and against a slow restatement."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from probe.errors import InputError
from probe.explainers import attention_against_people
from probe.explainers._scanpath.floors import local_walk, marginal_paths, random_paths
from probe.explainers._scanpath.measures import (
    behaviour,
    behavioural_delta,
    density,
    edit_distance,
    multimatch,
    scanmatch,
    search_efficiency,
    sequence_score,
)
from probe.explainers._scanpath.result import agreement_by_step, path_dataset
from probe.gaze.boxes import propose
from probe.gaze.scene import Trial, grid

PLACES = grid(2, 3).places


def test_sequence_scores_by_hand():
    assert sequence_score("ABC", "ABC") == 1
    assert sequence_score("ABC", "DEF") == 0
    assert sequence_score("ABC", "AXBXC") == sequence_score("AXBXC", "ABC") == 3 / 5
    assert sequence_score("A", "A") == 1
    with pytest.raises(InputError, match="without fixations"):
        sequence_score("", "A")


def slow_edit(a, b):
    if not (a and b):
        return len(a) + len(b)
    return min(slow_edit(a[1:], b) + 1, slow_edit(a, b[1:]) + 1, slow_edit(a[1:], b[1:]) + (a[0] != b[0]))


def slow_common(a, b):
    if not (a and b):
        return 0
    return (
        slow_common(a[1:], b[1:]) + 1 if a[0] == b[0] else max(slow_common(a[1:], b), slow_common(a, b[1:]))
    )


def test_edit_distance_and_sequence_score_equal_their_recursive_definitions():
    draw = np.random.default_rng(0)
    for _ in range(40):
        a, b = (draw.integers(0, 3, draw.integers(1, 7)).tolist() for _ in range(2))
        assert edit_distance(a, b) == slow_edit(a, b)
        assert sequence_score(a, b) == slow_common(a, b) / max(len(a), len(b))


def test_edit_distance_by_hand():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("kitten", "sitting", normalised=True) == 3 / 7
    assert edit_distance("", "abc") == 3
    assert edit_distance("", "abc", normalised=True) == 1
    with pytest.raises(InputError, match="empty"):
        edit_distance("", "", normalised=True)


def test_scanmatch_by_hand():
    places = np.array([[0, 0], [0, 0.25], [0, 1.0]])
    assert scanmatch([0, 1], [0, 1], places, threshold=0.5) == 1
    assert scanmatch([0], [1], places, threshold=0.5) == 0.5
    assert scanmatch([0], [2], places, threshold=0.5) == 0  # two gaps at 0 beat a substitution at −1
    assert scanmatch([0, 2], [1, 2, 2], places, threshold=0.5) == pytest.approx((0.5 + 1) / 3)
    assert scanmatch([0], [2], places, threshold=0.5, gap=-2) == -1
    assert scanmatch([0], [1], places) == pytest.approx(0)  # no step: a quarter of the largest distance
    with pytest.raises(InputError, match="threshold"):
        scanmatch([0], [1], places, threshold=0.0)


def test_multimatch_is_1_for_the_same_path_and_undefined_for_short_ones():
    pytest.importorskip("multimatch_gaze", reason="the package multimatch-gaze is not installed")
    assert list(multimatch([0, 1, 5, 3], [0, 1, 5, 3], PLACES).values()) == pytest.approx([1, 1, 1, 1])
    moved = multimatch(
        [0, 1, 2], [3, 4, 5], PLACES
    )  # one row below: half the height of a square of diagonal √2
    assert moved["vector"] == moved["length"] == moved["direction"] == 1
    assert moved["position"] == pytest.approx(1 - 0.5 / math.sqrt(2))
    assert all(map(math.isnan, multimatch([0, 1], [0, 1, 2], PLACES).values()))


def test_behaviour_of_the_specification():
    assert behaviour([3, 3, 5, 3, 7], 7) == {
        "hit": 1, "length": 5, "search": 3 / 5, "refixation": 1 / 5, "revisit": 1 / 5
    }  # fmt: skip
    one = behaviour([4], None)
    assert (one["length"], one["search"]) == (1, 1)
    assert math.isnan(one["hit"])


def test_delta_of_people_with_themselves_is_0_and_by_hand():
    people = [((3, 3, 5, 3, 7), 7), ((1, 2), 9)]
    assert behavioural_delta(people, people) == 0
    # hit 1 against ½, length 2 against 2, search 1 against 1; no refixation or revisit of people: left out
    assert behavioural_delta([((1, 2), 2)], [((1, 2), 2), ((1, 2), 3)]) == pytest.approx((1 + 0 + 0) / 3)
    assert behavioural_delta([((1, 2), None)], [((1,), None)]) == pytest.approx(
        (1 + 0) / 2
    )  # free viewing: no hit
    with pytest.raises(InputError, match="empty"):
        behavioural_delta([], people)


def test_search_efficiency_by_hand():
    np.testing.assert_array_equal(
        search_efficiency([[4], [1, 4], [2, 3, 1]], [4, 4, 4], 3), [1 / 3, 2 / 3, 2 / 3]
    )
    with pytest.raises(InputError, match="one each"):
        search_efficiency([[1]], [], 3)


def test_density_lies_where_the_fixations_are():
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    found = density([[0, 0, 1]], boxes, (8, 8), 0)
    assert found.sum() == pytest.approx(1)
    assert found[:4, :4].sum() == pytest.approx(2 / 3)
    assert found[4:, :4].sum() == 0


def test_agreement_by_step_by_hand():
    stops = np.array([[1, 2, -1], [1, 3, 4], [5, 3, -1]])
    np.testing.assert_allclose(agreement_by_step(stops), [1 / 3, 1 / 3, np.nan])


def test_the_path_that_was_chosen_does_not_agree_with_itself():
    objects = propose(Image.new("RGB", (40, 40)), "grid", 4)
    paths = [("typical", "model", [0, 1]), ("draw 1", "model", [0, 1]), ("draw 2", "model", [2, 3])]
    found = path_dataset(objects, paths, None, None, 1.0)
    np.testing.assert_array_equal(found["agreement"], [0, 0])
    assert np.isnan(path_dataset(objects, paths[:2], None, None, 1.0)["agreement"]).all()


def test_floors_have_the_lengths_asked_for_and_know_what_they_may():
    scenes = [grid(4, 4, target=5)] * 60
    people = [Trial(scenes[0], (0, 1, 1, 2)), Trial(scenes[0], (8, 9))]
    lengths = [6] * 60
    assert {len(p) for p in random_paths(scenes, lengths)} == {6}
    assert {s for p in random_paths(scenes, lengths) for s in p} == set(range(16))
    assert {s for p in marginal_paths(scenes, lengths, people) for s in p} == {0, 1, 2, 8, 9}
    walk = local_walk(scenes, lengths, people)
    assert all(p[-1] == 5 for p in walk)
    steps = [abs(a // 4 - b // 4) + abs(a % 4 - b % 4) for p in walk for a, b in itertools.pairwise(p[:-1])]
    assert set(steps) == {0, 1}
    with pytest.raises(InputError, match="at least two fixations"):
        local_walk(scenes, lengths, [Trial(scenes[0], (3,))])
    with pytest.raises(InputError, match="same number of objects"):
        marginal_paths([grid(2, 2)], [1], people)


def test_a_head_that_looks_where_people_look_stands_out():
    draw = np.random.default_rng(1)
    fixations = np.clip(draw.normal(0.25, 0.05, (60, 2)), 0, 0.99)
    y, x = np.mgrid[:8, :8] / 8 + 1 / 16
    there = np.exp(-((y - 0.25) ** 2 + (x - 0.25) ** 2) / 0.02)
    maps = np.stack([[there, there.max() - there], [np.ones((8, 8)), there.T[::-1]]])
    found = attention_against_people(maps, [*fixations, (2.0, 0.5)])
    assert isinstance(found, xr.Dataset)
    assert found.attrs["fixations"] == 60
    value = found["correlation"].values
    assert value[0, 0] > 0.9
    assert value[0, 1] == pytest.approx(-value[0, 0])
    assert value[1, 0] == 0
    assert found["auc"].values[0, 0] > 0.9 > 0.5 == found["auc"].values[1, 0]
    with pytest.raises(InputError, match="no fixation lies inside"):
        attention_against_people(maps, [(1.5, 0.2)])
    with pytest.raises(InputError, match="expected finite"):
        attention_against_people(maps[0], fixations)
