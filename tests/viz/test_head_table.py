"""The head figure as data."""

import numpy as np
import pytest

from probe import InputError, viz


def test_values_travel_as_arrays_with_layers_on_y(head_table):
    heat, bars = viz.draw(head_table).data
    assert isinstance(heat.z, np.ndarray)
    np.testing.assert_array_equal(heat.z, head_table["sink_rate"].values)
    assert heat.z.dtype == np.float32
    np.testing.assert_allclose(bars.x, np.nanmean(head_table["sink_rate"].values, axis=1), rtol=1e-6)
    assert bars.orientation == "h"


def test_the_first_layer_is_on_top(head_table):
    low, high = viz.draw(head_table).layout.yaxis.range
    assert low > high


def test_colours_start_at_zero_unless_values_are_negative(head_table):
    heat = viz.draw(head_table).data[0]
    assert (heat.zmin, heat.zmax) == (0.0, pytest.approx(0.93))
    head_table["sink_rate"] = head_table["sink_rate"] - 0.5
    heat = viz.draw(head_table).data[0]
    assert heat.zmin == -heat.zmax


def test_the_title_names_the_highest_head_and_missing_values(head_table):
    title = viz.draw(head_table).layout.title
    assert title.text == "<b>Attention on the first token</b>"
    assert "highest in layer 3, head 2: 0.93; mean of all 23 heads" in title.subtitle.text
    assert "1 without a value (grey)" in title.subtitle.text


def test_hover_shows_the_further_variables(head_table):
    heat = viz.draw(head_table).data[0]
    assert "top token %{customdata[2]}" in heat.hovertemplate
    assert "entropy %{customdata[3]}" in heat.hovertemplate
    assert list(heat.customdata[3][2]) == ["2", "3", "&lt;s&gt;", "1.25"]


def test_layers_keep_their_own_numbers(head_table):
    chosen = head_table.isel(layer=[1, 4])
    figure = viz.draw(chosen)
    assert list(figure.layout.yaxis.ticktext) == ["1", "4"]
    assert "layer 1," in figure.layout.title.subtitle.text or "layer 4," in figure.layout.title.subtitle.text


def test_dimensions_in_the_other_order_give_the_same_figure(head_table):
    turned = head_table.transpose("head", "layer")
    np.testing.assert_array_equal(viz.draw(turned).data[0].z, viz.draw(head_table).data[0].z)


def test_wrong_dimensions_are_refused(head_table):
    with pytest.raises(InputError, match=r"needs the dimensions \(layer, head\), got \('layer',\)"):
        viz.draw(head_table.assign(sink_rate=head_table["sink_rate"].mean("head")))


def test_a_layer_without_any_value_has_no_bar(head_table):
    values = head_table["sink_rate"].values.copy()
    values[0] = np.nan
    bars = viz.draw(head_table.assign(sink_rate=(("layer", "head"), values))).data[1]
    assert np.isnan(bars.x[0])


def test_unknown_kinds_are_refused_by_name(head_table):
    head_table.attrs["kind"] = "pie"
    with pytest.raises(InputError, match=r"kind 'pie'; kinds with a figure: .*head_table, .*token_strip"):
        viz.draw(head_table)
