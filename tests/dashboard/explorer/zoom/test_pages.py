"""The pages Image and MIL as functions: what they say of a record that lacks something, and what a lasso chooses."""

import numpy as np
import pytest
import xarray as xr
from mil_records import mil_record

from probe.dashboard.explorer.pages import image, mil


@pytest.mark.parametrize(
    "selected", [None, {}, {"points": [3]}, {"points": [{"curveNumber": 1, "pointNumber": 4}]}, []]
)
def test_what_is_no_lasso_chooses_nothing(selected):
    assert mil.points_of(selected) == []


def test_a_lasso_chooses_each_instance_once_on_either_side():
    points = [{"curveNumber": c, "pointNumber": n} for c, n in ((0, 5), (2, 5), (2, 1), (0, True), (0, -1))]
    assert mil.points_of({"points": points}) == [1, 5]


def test_the_share_of_a_choice_is_its_attention():
    both = xr.Dataset(
        {"point_attention": ("point", np.array([4.0, 1.0, 0.5, 0.5])), "x": ("patch", np.zeros(6))}
    )
    assert mil.chosen_words(both, [0, 1, 9]).startswith(
        "2 chosen patches hold 83.3% of the attention (an even share: 33.3%)"
    )


def test_a_slide_is_found_beside_its_record_alone(tmp_path):
    inside = tmp_path / "runs"
    inside.mkdir()
    (inside / "a.png").touch()
    (tmp_path / "b.png").touch()
    (inside / "c.png").symlink_to(tmp_path / "b.png")
    assert mil.slide_of(inside, "a") == inside / "a.png"
    for name in ("../b", "b", "c", "/etc/passwd", ""):
        assert mil.slide_of(inside, name) is None


def test_what_a_record_lacks_is_told():
    assert "no features and no coords" in mil._needs(mil_record([np.full((1, 4), 0.25)]))
    assert "holds no bags" in mil._needs(xr.DataTree())
    assert "Nothing in this record lies in a picture" in image._needs(xr.DataTree())


def test_overlays_go_by_kind():
    kinds = {"sr": "image_overlay", "walk": "path", "heads": "head_table"}
    tree = xr.DataTree.from_dict({f"/results/{n}": xr.Dataset(attrs={"kind": k}) for n, k in kinds.items()})
    assert set(image.overlays(tree)) == {"sr", "walk"}
