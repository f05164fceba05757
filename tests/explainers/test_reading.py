"""What a uniform map gives, from counts alone, against whole matrices."""

import numpy as np
import pytest
from explainer_cases import causal, uniform
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import InputError, RecordError
from probe.explainers.reading import received_share, tower_of, uniform_share


def from_matrix(visible):
    """E_k by the definition, from the whole matrix."""
    share = uniform(visible)
    return np.array([share[visible[:, k], k].mean() for k in range(visible.shape[1])])


def window(size, reach):
    place = np.arange(size)
    return causal(size) & (place[:, None] - place[None] < reach)


def patterns(size):
    place = np.arange(size)
    prefix = causal(size) | (place[None] < size // 2)
    block = causal(size) | ((place[:, None] // 4 == 1) & (place[None] // 4 == 1))
    chunk = causal(size) & (place[:, None] // 5 == place[None] // 5)
    both = np.abs(place[:, None] - place[None]) < 4
    return {
        "full": np.ones((size, size), bool),
        "causal": causal(size),
        "prefix": prefix,
        "image block": block,
        "decoding": causal(size)[size // 2 :],
        "causal window": window(size, 4),
        "window of one": window(size, 1),
        "chunks": chunk,
        "symmetric window": both,
    }


@pytest.mark.parametrize("size", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("name", list(patterns(16)))
def test_equals_the_whole_matrix(name, size):
    visible = patterns(size)[name]
    if not visible.any(axis=0).all():
        pytest.skip("a key that no query sees has no share")
    found = uniform_share(visible.sum(1), visible.sum(0))
    np.testing.assert_allclose(found, from_matrix(visible), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.randoms())
def test_nested_sets_in_any_order_are_exact(sizes, random):
    order = list(range(12))
    random.shuffle(order)
    visible = np.zeros((len(sizes), 12), bool)
    for row, size in enumerate(sizes):
        visible[row, order[:size]] = True
    visible = visible[:, visible.any(axis=0)]
    found = uniform_share(visible.sum(1), visible.sum(0))
    np.testing.assert_allclose(found, from_matrix(visible), rtol=1e-12)


def test_uniform_causal_is_the_harmonic_number_over_the_length():
    size = 100
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, size + 1))])
    visible = causal(size)
    expected = (harmonic[size] - harmonic[:size]) / (size - np.arange(size))
    np.testing.assert_allclose(uniform_share(visible.sum(1), visible.sum(0)), expected, rtol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["causal", "causal window", "full", "symmetric window"])
def test_padding_changes_nothing(name, side):
    visible = patterns(16)[name]
    padded = np.zeros((20, 20), bool)
    inside = slice(4, 20) if side == "left" else slice(0, 16)
    padded[inside, inside] = visible
    found = uniform_share(padded.sum(1), padded.sum(0))
    np.testing.assert_array_equal(found[inside], uniform_share(visible.sum(1), visible.sum(0)))
    assert np.isnan(np.delete(found, np.arange(20)[inside])).all()


def test_a_pattern_that_counts_do_not_fix_is_refused():
    place = np.arange(12)
    strided = causal(12) & ((place[:, None] - place[None]) % 3 == 0)
    with pytest.raises(RecordError, match="does not follow from the record's counts"):
        uniform_share(strided.sum(1), strided.sum(0))


def test_counts_that_contradict_each_other_are_refused():
    with pytest.raises(RecordError, match=r"by queries \(6\) and by keys \(7\)"):
        uniform_share(np.array([1, 2, 3]), np.array([3, 2, 2]))


def test_share_of_absent_keys_is_absent():
    found = received_share(np.array([[2.0, np.nan, 0.0], [1.0, np.nan, 0.0]]), np.array([4, 0, 0]))
    np.testing.assert_array_equal(found[:, 0], [0.5, 0.25])
    assert np.isnan(found[:, 1:]).all(), "padding, and a key that no query sees"


def test_no_record_is_told_apart():
    with pytest.raises(InputError, match="expected a record"):
        tower_of("r.zarr", "text", "received")
