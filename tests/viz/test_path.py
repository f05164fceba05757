"""The figure of paths: what is numbered, what is boxed, what moves, and what agreement is drawn."""

import numpy as np
import pytest
import xarray as xr

from probe.errors import InputError
from probe.viz import draw


def paths(stops, makers, target=-1, picture=True):
    stops = np.asarray(stops)
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1], [0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1]])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    at = np.where(stops[..., None] >= 0, middle[np.maximum(stops, 0)], np.nan)
    found = xr.Dataset(
        {
            "stop": (("path", "step"), stops),
            "row": (("path", "step"), at[..., 0]),
            "column": (("path", "step"), at[..., 1]),
            "agreement": ("step", np.linspace(0.5, 0.1, stops.shape[1])),
            "people": ("step", np.full(stops.shape[1], np.nan)),
            "box": (("object", "side"), boxes),
        },
        coords={
            "name": ("path", [f"path <{n}>" for n in range(len(stops))]),
            "made_by": ("path", makers),
            "object_name": ("object", ["cup", "<b>", "sky", "sea"]),
            "step": np.arange(1, stops.shape[1] + 1),
        },
        attrs={"kind": "path", "title": "Scanpath", "target": "cup (number 0)", "target_object": target, "aspect": 0.5,
               "method": "typical", "model": "oat", "input": "p", "value": "stop"},
    )  # fmt: skip
    if picture:
        found["picture"] = (("pixel_row", "pixel_column", "colour"), np.full((5, 10, 3), 90, np.uint8))
    return found


def test_fixations_are_numbered_at_their_objects_and_those_on_one_object_share_a_dot():
    figure = draw(paths([[3, 0, 0, 3, 1], [2, -1, -1, -1, -1]], ["model", "person"]))
    (dots,) = [t for t in figure.data if t.mode == "markers+text"]
    assert [t.replace("<b>", "").replace("</b>", "") for t in dots.text] == ["1,4", "2,3", "5"]
    np.testing.assert_allclose(dots.x, [0.75, 0.25, 0.75])
    np.testing.assert_allclose(
        dots.y, [0.375, 0.125, 0.125]
    )  # rows in widths of the picture, which is half as high
    assert "&lt;b&gt;" in dots.hovertext[2]
    thin = [t for t in figure.data if t.mode == "lines+markers" and t.opacity == 0.75]
    assert [len(t.x) for t in thin] == [5, 1]
    assert len({t.line.color for t in thin}) == 2


def test_each_step_has_a_frame_that_shows_so_many_fixations():
    figure = draw(paths([[3, 0, 1]], ["model"]))
    assert [len(frame.data[2].x) for frame in figure.frames] == [1, 2, 3]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["1", "2", "3"]
    assert {tuple(figure.data[i].mode for i in frame.traces) for frame in figure.frames} == {
        ("lines", "lines", "markers+text")
    }


def test_the_target_is_boxed_in_both_panels_and_free_viewing_has_none():
    wide = [
        t for t in draw(paths([[3]], ["model"], target=0)).data if t.mode == "lines" and t.line.width == 4
    ]
    assert [list(t.x) for t in wide] == [[0, 0.5, 0.5, 0, 0]] * 2
    assert not [t for t in draw(paths([[3]], ["model"])).data if t.mode == "lines" and t.line.width == 4]


def test_without_a_picture_the_objects_stand_alone():
    figure = draw(paths([[3, 1]], ["model"], picture=False))
    assert not figure.layout.images
    assert len(draw(paths([[3, 1]], ["model"])).layout.images) == 2


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="no path has a fixation"):
        draw(paths([[-1, -1]], ["model"]))
    with pytest.raises(InputError, match="needs the variable 'box'"):
        draw(paths([[1]], ["model"]).drop_vars("box"))
