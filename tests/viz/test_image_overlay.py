"""The figure of maps over a picture, as data: panels, scales, outlines in their place; and the report around it."""

import base64
import io

import numpy as np
import pytest
from picture_cases import overlay
from PIL import Image

from probe import InputError, viz


@pytest.fixture
def result():
    numbers = np.zeros((20, 30), int)
    numbers[4:9, 10:16] = 1
    maps = np.stack([np.where(numbers, 2.0, -1.0), np.where(numbers, 0.8, 0.1), np.where(numbers, 1.0, 0.0)])
    return overlay(maps, numbers)


def kinds(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


def test_a_panel_for_the_picture_and_one_for_each_map(result):
    figure = viz.draw(result)
    titles = [a.text for a in figure.layout.annotations]
    assert titles[:4] == ["The picture as the network sees it", "map 0", "map 1", "map 2"]
    heats = kinds(figure, "heatmap")
    assert len(heats) == 3
    for heat, map_ in zip(heats, result["relevance"].values, strict=True):
        assert np.array_equal(np.asarray(heat.z), map_)
    assert heats[0].zmin == -heats[0].zmax == -2.0, "a signed map is centred at 0"
    assert (heats[1].zmin, heats[1].zmax) == (0.0, pytest.approx(0.8))
    assert heats[1].colorscale[0][1].endswith(",0)"), "where an unsigned map is 0 the picture shows"
    assert len(kinds(figure, "image")) == 3, "the picture, and in grey behind each unsigned map"
    data = kinds(figure, "image")[0].source.partition("base64,")[2]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(shown, result["picture"].values)


def test_areas_are_outlined_in_their_place(result):
    figure = viz.draw(result)
    lines = kinds(figure, "scatter")
    assert len(lines) == 6, "dark and bright, on the picture and the two unsigned maps"
    for line in lines:
        x, y = np.asarray(line.x, float), np.asarray(line.y, float)
        assert (np.nanmin(x), np.nanmax(x), np.nanmin(y), np.nanmax(y)) == (9.5, 15.5, 3.5, 8.5)
        assert "area 1: 100% of the evidence on 5% of the picture" in line.text
    numbers = [a for a in figure.layout.annotations if a.text == "<b>1</b>"]
    assert len(numbers) == 1
    assert result["area_of"].values[int(numbers[0].y), int(numbers[0].x)] == 1


def test_an_area_at_the_border_is_closed():
    numbers = np.zeros((10, 10), int)
    numbers[:, :4] = 1
    line = kinds(viz.draw(overlay(np.ones((1, 10, 10)), numbers)), "scatter")[0]
    x = np.asarray(line.x, float)
    assert (np.nanmin(x), np.nanmax(x)) == (-0.5, 3.5)
    assert x[0] == x[-2], "closed, then a gap"


def test_a_map_that_is_not_sound_is_marked(result):
    plain = viz.draw(result).layout.title.subtitle.text
    assert "not add up" not in plain
    result.attrs["sound"] = False
    assert "the relevance does not add up to the score" in viz.draw(result).layout.title.subtitle.text


def test_one_hot_pixel_does_not_grey_the_rest():
    map_ = np.random.default_rng(0).normal(size=(1, 50, 50))
    map_[0, 3, 3] = 1000.0
    assert kinds(viz.draw(overlay(map_)), "heatmap")[0].zmax < 10


def test_refusals(result):
    for broken, message in (
        (result.drop_vars("picture"), "needs the variable 'picture'"),
        (result.assign(relevance=result["relevance"].rename(row="y")), "needs \\(map, row, column\\)"),
        (result.assign(relevance=result["relevance"] * np.nan), "no finite value"),
    ):
        with pytest.raises(InputError, match=message):
            viz.draw(broken)


def test_the_report_says_what_the_network_sees(result, tmp_path):
    result.attrs |= {"prediction": "a <b>disc</b>", "note": "Not sound as shares."}
    page = viz.report(result, tmp_path / "r.html", texts="One sentence.").read_text(encoding="utf-8")
    assert "by hand sees</span> <q>a &lt;b&gt;disc&lt;/b&gt;</q>" in page
    assert "<b>90%</b> probability" in page
    assert "Explained below is another class: <q>disc</q>" in page
    assert "columns 10–15, rows 4–8" in page
    assert "Not sound as shares." in page
    assert "http-equiv" in page
