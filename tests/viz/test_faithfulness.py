"""The deletion and insertion figure as data."""

import numpy as np
import pytest

from probe import InputError, viz


def test_both_panels_hold_curve_random_mean_and_band(strip_with_curves):
    figure = viz.draw_faithfulness(strip_with_curves)
    assert [trace.name for trace in figure.data[:3]] == [
        "random order, ± 1 standard deviation",
        "random order, mean",
        "order of this explanation",
    ]
    band, mean, own = figure.data[:3]
    steps = strip_with_curves.sizes["step"]
    np.testing.assert_allclose(own.y, strip_with_curves["deletion"])
    np.testing.assert_allclose(mean.y, strip_with_curves["deletion_random"])
    spread = strip_with_curves["deletion_random_sd"]
    np.testing.assert_allclose(band.y[:steps], np.clip(mean.y + spread, 0, 1))
    np.testing.assert_allclose(band.y[steps:], np.clip(mean.y - spread, 0, 1)[::-1])
    np.testing.assert_allclose(figure.data[5].y, strip_with_curves["insertion"])


def test_the_title_is_the_verdict_and_the_areas_stand_in_the_panels(strip_with_curves):
    figure = viz.draw_faithfulness(strip_with_curves)
    assert strip_with_curves.attrs["faithfulness_verdict"] in figure.layout.title.text
    own, random = strip_with_curves.attrs["deletion_auc"], strip_with_curves.attrs["deletion_auc_random"]
    assert f"area {own:.2f}, random {random:.2f} (lower = faithful)" in figure.layout.annotations[0].text


def test_each_line_is_named_once(strip_with_curves):
    figure = viz.draw_faithfulness(strip_with_curves)
    assert sum(bool(trace.showlegend) for trace in figure.data) == 3


def test_without_curves_it_says_what_is_missing(strip):
    with pytest.raises(InputError, match="fraction, deletion, insertion"):
        viz.draw_faithfulness(strip)
