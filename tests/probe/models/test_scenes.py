"""Generated scenes tell the truth, and the small vision-language model of our own is an ordinary LLaVA that reads them."""

from pathlib import Path

import numpy as np
import pytest

import probe
from probe.zoo.scenes import HELD_OUT, SHAPES, describe, make_scene, questions
from probe.zoo.scenes.questions import KINDS, NUMBERS
from probe.zoo.scenes.shapes import COLOURS, draw_shape

FOLDER = Path(probe.__file__).parent / "zoo" / "vqa"


def some(count=60, **more):
    rng = np.random.default_rng(5)
    return [(make_scene(rng, n / count, **more), rng) for n in range(count)]


def test_masks_lie_on_their_things_and_apart_from_each_other():
    for scene, _ in some():
        assert scene.picture.shape[:2] == scene.masks.shape
        assert 1 <= len(scene.things) <= 5
        for number, thing in enumerate(scene.things):
            mask = scene.mask(number)
            rows, columns = np.nonzero(mask)
            reach = np.hypot(rows - thing.row, columns - thing.column).max()
            assert 0.5 * thing.radius < reach < 1.35 * thing.radius
            inside = scene.picture[mask].astype(float)
            near = np.abs(inside - COLOURS[thing.colour]).max(1) < 60
            assert near.mean() > 0.5, (thing, near.mean())  # the rest is its digit


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_as_high_as_wide_and_has_the_area_it_should(shape):
    rows, columns = draw_shape(shape, 50, 50, 40, 0.0, (101, 101))
    high, wide = np.ptp(rows), np.ptp(columns)
    assert 0.75 < high / wide < 1.3
    share = len(set(zip(rows.tolist(), columns.tolist(), strict=True))) / (np.pi * 40**2)
    expected = {"circle": 1, "square": 0.94, "triangle": 0.56, "star": 0.49, "cross": 0.75, "ring": 0.73}[
        shape
    ]
    assert share == pytest.approx(expected, abs=0.06)


def test_training_never_shows_the_pairs_that_are_held_out():
    for scene, _ in some():
        assert not {(t.colour, t.shape) for t in scene.things} & HELD_OUT
    for scene, _ in some(held_out=True):
        assert (scene.things[0].colour, scene.things[0].shape) in HELD_OUT


def test_the_same_seed_gives_the_same_scene_and_clutter_adds_edges():
    from probe import explainers as ex

    one, two = (make_scene(np.random.default_rng(3), 0.5) for _ in range(2))
    assert (one.picture == two.picture).all()
    edges = [
        np.mean([ex.texture_complexity(make_scene(np.random.default_rng(n), c).picture) for n in range(4)])
        for c in (0, 0.5, 1)
    ]
    assert edges == sorted(edges)
    assert edges[2] > 1.5 * edges[0]


def test_answers_follow_from_the_truth():
    seen = set()
    for scene, rng in some(150):
        for question in questions(scene, rng, tuple(KINDS)):
            seen.add(question.kind)
            about = None if question.about is None else scene.things[question.about]
            if question.kind == "colour":
                assert question.answer == about.colour
                assert about.shape in question.text
                assert sum(t.shape == about.shape for t in scene.things) == 1
            elif question.kind == "shape":
                assert question.answer == about.shape
                assert sum(t.colour == about.colour for t in scene.things) == 1
            elif question.kind == "digit":
                assert question.answer == str(about.digit)
            elif question.kind == "exists":
                named = [(c, s) for c in COLOURS for s in SHAPES if f"{c} {s}" in question.text]
                assert (question.answer == "yes") == (named[0] in {(t.colour, t.shape) for t in scene.things})
            elif question.kind == "count" and "things" in question.text:
                assert NUMBERS.index(question.answer) == len(scene.things)
            elif question.kind == "beside":
                assert question.answer == f"a {about.colour} {about.shape}"
            elif question.kind == "description":
                assert question.answer == describe(scene)
    assert seen == set(KINDS)


def test_packed_questions_of_a_scene_are_told_in_order():
    from probe.zoo.vqa import data, networks

    made = data.build(data.Plan(6, 0, 72, 12))
    tokenizer = networks.new_processor(networks.Shape(side=72, patch=12)).tokenizer
    for s in range(6):
        there = made.segment[s] >= 0
        assert (made.segment[s][~there] == -1).all()
        for n in range(made.segment[s].max() + 1):
            own = made.segment[s] == n
            assert made.position[s][own].tolist() == list(range(own.sum()))
            told = tokenizer.decode(made.tokens[s][own & made.answer[s]].tolist())
            assert told.endswith("<eos>")
        assert made.truth[s].max(1).tolist() <= [6, 8, 11]


@pytest.fixture(scope="module")
def ours():
    return probe.load("vqa", device="cpu")


def test_it_is_an_ordinary_llava(ours):
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    assert isinstance(ours.model, LlavaForConditionalGeneration)
    assert isinstance(ours.processor, LlavaProcessor)
    assert (ours.task, ours.source) == ("image-text-to-text", "zoo")
    assert sum(p.numel() for p in ours.model.parameters()) < 6e6
    assert sum(f.stat().st_size for f in FOLDER.iterdir() if f.is_file()) < 12e6


def test_it_answers_better_than_chance_and_looks_at_the_picture(ours):
    from probe import explainers as ex
    from probe.zoo.vqa.measure import accuracy

    found = accuracy(ours.model, ours.processor, 0.0, 25, seed=9)
    assert found["colour"] > 0.45  # 1/8 by chance
    assert found["shape"] > 0.4  # 1/6 by chance
    scene = make_scene(np.random.default_rng(2), 0.0)
    result = ex.carve(ours, scene.picture, ask="what colour is the square?", steps="first")
    assert result.attrs["contrast"]
    assert result.attrs["answer_before"] in COLOURS
    assert 0.2 < float(result["question_mass"].mean()) < 1
