"""Figures of bags as data: what is drawn is what the results say, and the linked page works in a browser."""

import json
import re

import numpy as np
import pytest
from mil_records import mil_record

from probe import explainers as ex
from probe import viz
from probe.errors import InputError


@pytest.fixture(scope="module")
def record():
    """A slide of 6 by 6 patches, the upper left corner of four and one patch alone looked at."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2) * 16.0 + 32
    a = np.full(36, 0.2)
    a[[0, 1, 6, 7]], a[35] = 6, 4
    a /= a.sum()
    return mil_record(
        [np.stack([a, np.roll(a, 1)])],
        features=[rng.normal(size=(36, 4))],
        names=["case <1>"],
        labels=[1],
        coords=[grid],
        patch_size=16.0,
        annotation=[(a > 0.1).astype(int)],
    )


@pytest.fixture(scope="module")
def overlay(record, tmp_path_factory):
    from skimage.io import imsave

    path = tmp_path_factory.mktemp("slide") / "case.png"
    pixels = np.random.default_rng(1).integers(100, 255, (160, 200, 3), dtype=np.uint8)
    imsave(path, pixels, check_contrast=False)
    return ex.slide_overlay(record, picture=str(path), branch=1)


@pytest.fixture(scope="module")
def points(record):
    """Places by hand: the page does not care how they came about."""
    from probe.explainers._mil import embedding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "umap_layout", lambda x, **_: x[:, :2])
        return ex.instance_map(record)


def traces(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


def test_concentration_draws_mean_even_and_recall(record):
    result = ex.concentration(record)
    figure = viz.draw(result)
    mean = next(t for t in figure.data if t.line.width == 3)
    np.testing.assert_allclose(mean.y, result["cumulative"].values[0])
    even = next(t for t in figure.data if t.line.dash == "dot" and t.xaxis == "x")
    np.testing.assert_allclose(even.y, np.minimum(np.arange(1, 101) / 36, 1))
    (bar,) = traces(figure, "bar")
    np.testing.assert_allclose(bar.y, result["recall"].values)
    assert not traces(viz.draw(result.drop_vars(["recall", "pattern_bags", "pattern"])), "bar")


def test_one_colouring_at_a_time_and_no_point_lost(points):
    figure = viz.draw(points)
    buttons = figure.layout.updatemenus[0].buttons
    assert [b.label for b in buttons] == points.attrs["colours"]
    for number, button in enumerate(buttons):
        shown = button.args[0]["visible"]
        assert sum(len(t.x) for t, on in zip(figure.data, shown, strict=True) if on) == 36
        if number == 0:
            assert [bool(t.visible) for t in figure.data] == shown
    first = figure.data[0]
    assert (np.diff(first.marker.color) >= 0).all(), "the most attended are drawn last, on top"
    assert "case &lt;1&gt;" in figure.layout.title.text


def test_both_maps_stand_side_by_side_on_the_same_ground(overlay):
    figure = viz.draw(overlay)
    raw, rank = traces(figure, "heatmap")
    a = overlay["attention"].values.reshape(6, 6)
    np.testing.assert_allclose(raw.z, a, rtol=1e-5)
    np.testing.assert_allclose(rank.z, overlay["percentile"].values.reshape(6, 6), rtol=1e-5)
    assert (raw.x0, raw.y0, raw.dx) == (40, 40, 16)
    assert raw.zmax >= 5, "a slide on which nothing stands out stays pale"
    assert rank.zmax == 100
    assert len(figure.layout.images) == 2
    assert figure.layout.images[0].sizex == 200
    assert figure.layout.yaxis.range == (160, 0)
    outline = traces(figure, "scatter")[0]
    corners = {(x, y) for x, y in zip(outline.x, outline.y, strict=True) if x is not None}
    assert corners == {(32, 32), (64, 32), (64, 64), (32, 64), (112, 112), (128, 112), (128, 128), (112, 128)}


def test_geojson_says_the_same(overlay, tmp_path):
    path = viz.write_geojson(overlay, tmp_path / "a.geojson")
    features = json.loads(path.read_text())["features"]
    areas = [f for f in features if f["properties"]["objectType"] == "annotation"]
    tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
    assert len(tiles) == 36
    assert [f["properties"]["patches"] for f in areas] == [4, 1]
    assert sum(f["properties"]["attention_share"] for f in areas) == pytest.approx(
        float(overlay["region_mass"].sum())
    )
    (ring,) = areas[0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert {tuple(p) for p in ring} == {(32, 32), (64, 32), (64, 64), (32, 64)}
    assert tiles[35]["geometry"]["coordinates"][0][0] == [112, 112]


def test_a_hole_belongs_to_the_region_around_it():
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(-1, 2) * 8.0
    a = np.ones(9)
    a[4] = 0.1
    result = ex.slide_overlay(mil_record([a[None] / a.sum()], coords=[grid]))
    shape = viz.slide_geojson(result)["features"][0]["geometry"]
    ((outer, hole),) = shape["coordinates"]
    assert {tuple(p) for p in outer} == {(0, 0), (24, 0), (24, 24), (0, 24)}
    assert {tuple(p) for p in hole} == {(8, 8), (16, 8), (16, 16), (8, 16)}


def test_png_shows_picture_and_heat(overlay, tmp_path):
    from skimage.io import imread

    pixels = imread(viz.slide_png(overlay, tmp_path / "a.png")).astype(int)
    assert pixels.shape == (160, 200 + 4 + 200, 3)
    ground = overlay["picture"].values.astype(int)
    np.testing.assert_array_equal(pixels[:30, :200], ground[:30])
    assert (pixels[36:60, 36:60, 0] - pixels[36:60, 36:60, 1]).mean() > 50, "red where it looks"


def test_the_page_is_whole_and_refuses_two_bags(points, overlay, tmp_path):
    path = viz.linked(points, overlay, tmp_path / "a.html", texts=["First <words>.", "Second."])
    page = path.read_text(encoding="utf-8")
    assert "First &lt;words&gt;." in page
    assert "What the model looks at in case &lt;1&gt;" in page
    assert not re.search(r"<script[^>]+src=|<link", page)
    data = json.loads(re.search(r'id="linked-data">(.*?)</script>', page, re.S).group(1))
    assert len(data["x"]) == 36
    assert set(data["first"]) >= {0, 1, 2, 6, 7, 8, 35}, "the most attended are chosen at first"
    with pytest.raises(InputError, match="the points are of 'case <1>', the slide is 'other'"):
        viz.linked(points, overlay.assign_attrs(of="other"), tmp_path / "b.html")
    with pytest.raises(InputError, match="expected a result of kind embedding"):
        viz.linked(overlay, overlay, tmp_path / "b.html")


@pytest.mark.slow
def test_choosing_points_lights_up_their_patches(points, overlay, tmp_path, browser):
    path = viz.linked(points, overlay, tmp_path / "a.html")
    page = browser.new_page(viewport={"width": 1340, "height": 1100})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#chosen canvas")
    page.evaluate(
        "document.getElementById('linked').emit('plotly_selected', {points: [{customdata: 35}, {customdata: 0}]})"
    )
    page.wait_for_function("document.querySelectorAll('#chosen canvas').length === 2")
    said = page.text_content("#chosen-words")
    shape = page.evaluate("document.getElementById('linked').layout.shapes[0].path")
    chosen = page.evaluate("Array.from(document.getElementById('linked').data[0].selectedpoints)")
    page.evaluate("document.getElementById('linked').emit('plotly_deselect')")
    page.wait_for_function("document.querySelectorAll('#chosen canvas').length === 0")
    page.close()
    assert errors == []
    share = float(points["attention"].values[[0, 35]].sum()) / 36
    assert said == f"2 chosen patches hold {100 * share:.1f} % of the attention"
    assert shape == "M112,112L128,112L128,128L112,128ZM32,32L48,32L48,48L32,48Z"
    assert chosen == [35, 0]
