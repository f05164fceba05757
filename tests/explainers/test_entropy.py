"""Entropy against closed forms and a slow loop over whole rows."""

import math

import numpy as np
import pytest
from explainer_cases import causal, record, uniform

from probe import explainers as ex
from probe.errors import RecordError


def one_head(rows, visible):
    return record(np.asarray(rows)[None, None, None], np.asarray(visible)[None, None])


@pytest.mark.parametrize("size", [2, 7, 64])
def test_a_uniform_map_has_the_highest_entropy(size):
    found = ex.entropy(one_head(uniform(causal(size)), causal(size)))
    np.testing.assert_allclose(found["entropy"], np.mean(np.log(np.arange(1, size + 1))), rtol=1e-6)
    np.testing.assert_allclose(found["normalized"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["effective_keys"], (size + 1) / 2, rtol=1e-6)


def test_a_one_hot_map_has_none():
    found = ex.entropy(one_head(np.eye(9), causal(9)))
    assert found["entropy"].item() == found["normalized"].item() == 0
    assert found["effective_keys"].item() == 1


@pytest.mark.parametrize("p", [0.5, 0.9, 0.01])
def test_two_keys_give_the_binary_entropy(p):
    found = ex.entropy(one_head([[p, 1 - p], [1 - p, p]], np.ones((2, 2), bool)), unit="bits")
    binary = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    np.testing.assert_allclose(found["entropy"], binary, rtol=1e-5)
    np.testing.assert_allclose(found["normalized"], binary, rtol=1e-5)
    assert found.attrs["unit"] == "bit"


def test_a_block_of_m_of_n_keys():
    rows = np.zeros((8, 8))
    rows[:, :3] = 1 / 3
    found = ex.entropy(one_head(rows, np.ones((8, 8), bool)))
    np.testing.assert_allclose(found["normalized"], math.log(3) / math.log(8), rtol=1e-6)
    np.testing.assert_allclose(found["effective_keys"], 3, rtol=1e-6)


def test_rows_with_one_visible_key_do_not_count_as_focused():
    found = ex.entropy(one_head(uniform(causal(2)), causal(2)))
    assert found["normalized"].item() == pytest.approx(1)  # the first row, 0/0, is left out
    assert found["entropy"].item() == pytest.approx(math.log(2) / 2)


def test_a_head_without_any_choice_has_no_normalised_entropy():
    found = ex.entropy(one_head([[1.0]], [[True]]))
    assert np.isnan(found["normalized"].item())
    assert found["samples"].item() == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_equals_a_loop_over_rows_and_padding_changes_nothing(side):
    rng = np.random.default_rng(0)
    maps = np.exp(rng.normal(size=(2, 3, 4, 12, 12))) * causal(12)
    maps /= maps.sum(-1, keepdims=True)
    alone = ex.entropy(record(maps, np.broadcast_to(causal(12), (2, 3, 12, 12))))
    rows = -(maps * np.log(np.where(maps > 0, maps, 1))).sum(-1)
    np.testing.assert_allclose(alone["entropy"], rows.mean((0, -1)), rtol=1e-5)
    np.testing.assert_allclose(alone["effective_keys"], np.exp(rows).mean((0, -1)), rtol=1e-5)
    np.testing.assert_allclose(
        alone["normalized"], (rows[..., 1:] / np.log(np.arange(2, 13))).mean((0, -1)), rtol=1e-5
    )
    inside = slice(5, 17) if side == "left" else slice(0, 12)
    padded, visible = np.zeros((2, 3, 4, 17, 17)), np.zeros((2, 3, 17, 17), bool)
    padded[..., inside, inside], visible[..., inside, inside] = maps, causal(12)
    found = ex.entropy(record(padded, visible))
    for name in alone.data_vars:
        np.testing.assert_array_equal(alone[name], found[name], err_msg=name)


def test_samples_weigh_the_same_whatever_their_length():
    visible, maps = np.zeros((2, 1, 8, 8), bool), np.zeros((2, 1, 1, 8, 8))
    visible[0, 0, :2, :2], visible[1, 0] = True, True
    maps[0, 0, 0, :2, :2], maps[1, 0, 0] = 0.5, np.eye(8)
    assert ex.entropy(record(maps, visible))["normalized"].item() == pytest.approx(0.5)


def test_a_row_that_sees_no_key_is_left_out():
    maps = np.array([[0.0, 0.0], [0.5, 0.5]])
    found = ex.entropy(one_head(maps, np.array([[False, False], [True, True]])))
    assert found["entropy"].item() == pytest.approx(math.log(2))


def test_missing_numbers_are_refused():
    trace = one_head(uniform(causal(4)), causal(4))
    trace["text/entropy"][0, 0, 0, 2] = np.nan
    with pytest.raises(RecordError, match="no finite number"):
        ex.entropy(trace)
    trace["text"] = trace["text"].to_dataset().drop_vars("entropy")
    with pytest.raises(RecordError, match="--stats entropy"):
        ex.entropy(trace)
