"""`probe explain scene.png --ask "…"`: our own vision-language model answers offline, and says what was kept and why."""

import json

import numpy as np
import pytest
from PIL import Image

from probe.zoo.scenes import make_scene


@pytest.fixture
def scene(tmp_path):
    Image.fromarray(make_scene(np.random.default_rng(3), 0.3).picture).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_answer_region_and_reason(probe, scene, tmp_path):
    ended = probe("explain", scene, "--ask", "what colour is the circle?", "--html", tmp_path / "page.html")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith(
        "Asked “what colour is the circle?” again about the part that was kept, the model says “"
    )
    assert lines[1].startswith("About the whole picture it said ")
    assert lines[2].startswith("Kept: ")
    assert lines[3].startswith("Why there: the attention under the question, divided by")
    assert "vqa, carve, layers" in ended.out
    assert "Asked about again" in (tmp_path / "page.html").read_text("utf-8")


def test_json(probe, scene):
    found = json.loads(probe("explain", scene, "--ask", "what colour is the circle?", "--json").out)
    assert found["target"]["text"] == found["prediction"]["text"]
    assert found["areas"]


def test_words_of_an_answer_and_an_expression(probe, scene):
    ended = probe("run", "image_attention", scene, "--ask", "what colour is the circle?")
    assert "The heads that look at the picture most: layer " in ended.out
    ended = probe("run", "refam", scene, "--expression", "the red circle")
    assert ended.out.startswith("“the red circle” points at the ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a text", "--ask", "why?"], "--ask goes with a picture"),
        (["PICTURE", "--ask", "why?", "--seed", "3"], "--seed does not go with --ask"),
        (["PICTURE", "--ask", "why?", "--model", "sentiment"], "answers no questions about pictures"),
        (["PICTURE", "--ask", ""], "ask = ''"),
    ],
)
def test_one_clear_line(probe, scene, arguments, said):
    ended = probe("explain", *(scene if a == "PICTURE" else a for a in arguments))
    assert ended.code != 0
    assert said in ended.err
    assert "Traceback" not in ended.err
