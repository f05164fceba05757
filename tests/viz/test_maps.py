"""Figures of maps and flows as data: values where they belong, decades, grouped columns, refusals."""

import numpy as np
import pytest
import xarray as xr

from probe import viz
from probe.errors import InputError


def a_map(values, **attrs):
    values = np.asarray(values, dtype=float)
    rows, columns = values.shape
    return xr.Dataset(
        {"ratio": (("row", "column"), values), "beside": ("row", np.arange(rows, dtype=float))},
        coords={"row": np.arange(rows) + 3, "column": np.arange(columns),
                "text": ("column", [f"<{i}>" for i in range(columns)])},
        attrs={"kind": "map2d", "value": "ratio", "title": "Sinks", "unit": "1", "row_title": "layer",
               "column_title": "token", "margin": "beside"} | attrs,
    )  # fmt: skip


def a_flow():
    return xr.Dataset(
        {
            "carried": ("link", [0.5, 0.25, 0.75]),
            "source": ("link", [0, 1, 2]),
            "target": ("link", [2, 2, 5]),
            "node_layer": ("node", [0, 0, 1, 1, 2, 2]),
            "node_token": ("node", [0, 1, 0, 1, 0, 1]),
            "node_text": ("node", ["a", "<b>", "a", "<b>", "a", "<b>"]),
        },
        attrs={
            "kind": "flow",
            "value": "carried",
            "title": "Flow",
            "unit": "1",
            "target": "b",
            "story": "from a to b",
        },
    )


def test_a_map_shows_every_value_and_the_curve_beside_it():
    values = np.arange(6.0).reshape(2, 3)
    figure = viz.draw(a_map(values))
    heat, curve = figure.data
    np.testing.assert_array_equal(heat.z, values)
    assert heat.customdata[1][2][0] == "&lt;2&gt;"
    assert heat.customdata[1][2][1] == "4"
    assert list(curve.x) == [0, 1]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # first row at the top
    assert "highest at layer 4, “&lt;2&gt;”: 5" in figure.layout.title.subtitle.text


def test_without_a_margin_there_is_no_curve():
    assert len(viz.draw(a_map(np.ones((2, 2)), margin="")).data) == 1


def test_decades_are_drawn_by_their_logarithm_and_read_as_they_are():
    heat = viz.draw(a_map([[1.0, 100.0], [0.0, 10.0]], log=True)).data[0]
    np.testing.assert_allclose(heat.z[0], [0, 2])
    assert np.isnan(heat.z[1][0])
    assert heat.customdata[0][1][2] == 100.0
    assert "100" in heat.colorbar.ticktext


def test_negative_values_get_the_diverging_scale_around_zero():
    heat = viz.draw(a_map([[-1.0, 3.0]])).data[0]
    assert (heat.zmin, heat.zmax) == (-3, 3)


def test_many_columns_are_grouped_by_their_largest_and_the_title_says_so():
    values = np.zeros((1, 4500))
    values[0, 4001] = 7
    figure = viz.draw(a_map(values))
    heat = figure.data[0]
    assert heat.z.shape == (1, 1500)
    assert heat.z[0][4001 // 3] == 7
    assert "groups of 3" in figure.layout.title.subtitle.text


def test_what_is_no_map_is_refused():
    with pytest.raises(InputError, match="no finite value"):
        viz.draw(a_map([[np.nan]]))
    with pytest.raises(InputError, match=r"over .row, column."):
        viz.draw(a_map([[1.0]], value="beside"))


def test_a_flow_shows_its_links_between_the_layers():
    figure = viz.draw(a_flow())
    sankey = figure.data[0]
    names = list(sankey.node.customdata)
    ends = {
        (names[s], names[t]): v
        for s, t, v in zip(sankey.link.source, sankey.link.target, sankey.link.value, strict=True)
    }
    assert ends[("after 0 layers, “a”", "after 1 layers, “a”")] == 0.5
    assert ends[("after 1 layers, “a”", "after 2 layers, “&lt;b&gt;”")] == 0.75
    assert list(sankey.node.x) == pytest.approx([0.02, 0.02, 0.5, 0.98])
    assert "from a to b" in figure.layout.title.subtitle.text
    with pytest.raises(InputError, match="nothing to draw"):
        viz.draw(a_flow().assign(carried=("link", [0.0, 0.0, np.nan])))


def test_marks_of_heads_stand_in_their_cells(tmp_path):
    table = xr.Dataset(
        {"score": (("layer", "head"), [[0.9, 0.1]]), "mark": (("layer", "head"), [["ind", ""]])},
        coords={"layer": [0], "head": [0, 1]},
        attrs={"kind": "head_table", "value": "score", "mark": "mark", "title": "Heads", "unit": "1"},
    )
    heat = viz.draw(table).data[0]
    assert heat.text.tolist() == [["ind", ""]]
    page = viz.report([table, a_map(np.ones((2, 2))), a_flow()], tmp_path / "r.html")
    assert "Sankey" in page.read_text() or "sankey" in page.read_text()
