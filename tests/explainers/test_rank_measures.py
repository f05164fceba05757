"""Measures of rank against closed forms, their order on any spectrum, and the traps of precision."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probe import explainers as ex
from probe.errors import InputError

N = 64
SOFT = ("stable_rank", "nuclear_ratio", "participation", "effective_rank", "numerical_rank")


def test_identity_has_full_rank_by_every_measure():
    found = ex.rank_measures(np.eye(N), energy=1.0)
    assert found == pytest.approx(dict.fromkeys(found, 64))


def test_an_even_map_has_rank_one_by_every_measure():
    found = ex.rank_measures(np.full((N, N), 1 / N))
    assert found == pytest.approx(dict.fromkeys(found, 1), abs=1e-6)


@pytest.mark.parametrize("blocks", [2, 4, 16])
def test_even_blocks_count_as_many(blocks):
    found = ex.rank_measures(np.kron(np.eye(blocks), np.full((N // blocks,) * 2, blocks / N)))
    assert [found[name] for name in SOFT] == pytest.approx([blocks] * 5)


def test_all_rows_on_the_first_token():
    one_hot = np.zeros((N, N))
    one_hot[:, 0] = 1
    assert np.linalg.norm(one_hot, 2) == pytest.approx(math.sqrt(N))
    assert ex.rank_measures(one_hot)["numerical_rank"] == 1


def test_a_mix_of_itself_and_a_sink_has_the_known_spectrum():
    w, r = 0.7, math.sqrt(N - 1)
    mix = (1 - w) * np.eye(N)
    mix[:, 0] += w
    gram = np.array([[1 + w * w * (N - 1), (1 - w) * w * r], [(1 - w) * w * r, (1 - w) ** 2]])
    outer = np.sqrt(np.linalg.eigvalsh(gram))
    assert outer == pytest.approx([0.0531, 5.6531], abs=1e-4)
    found = ex.rank_measures(mix)
    assert found["effective_rank"] == pytest.approx(41.083, abs=5e-4)
    assert found["stable_rank"] == pytest.approx(1.175, abs=5e-4)
    s = np.array([outer[1], *[1 - w] * (N - 2), outer[0]])
    assert found["nuclear_ratio"] == pytest.approx(s.sum() / s[0])
    assert found["participation"] == pytest.approx(s.sum() ** 2 / (s**2).sum())


def test_an_even_causal_map():
    even = np.tri(N) / np.arange(1, N + 1)[:, None]
    found = ex.rank_measures(even)
    assert found["effective_rank"] == pytest.approx(21.0641, abs=5e-4)
    assert found["stable_rank"] == pytest.approx(1.8581, abs=5e-4)
    assert found["numerical_rank"] == N
    assert np.linalg.slogdet(even)[1] == pytest.approx(-math.lgamma(N + 1))


def slow(s, energy):
    """Every measure from its formula, value by value."""
    total, squares, top = sum(s), sum(x * x for x in s), max(s)
    entropy = -sum(x / total * math.log(x / total) for x in s if x > 0)
    return {
        "stable_rank": squares / top**2,
        "nuclear_ratio": total / top,
        "participation": total**2 / squares,
        "effective_rank": math.exp(entropy),
        "above_1_percent": sum(x > 0.01 * top for x in s),
    }


def fewest_that_hold(share, s):
    """How many of the largest values hold the share of Σ s², in rational numbers."""
    squares = [Fraction(x) ** 2 for x in sorted(s, reverse=True)]
    held = itertools.accumulate(squares)
    return next(k for k, part in enumerate(held, 1) if part >= share * sum(squares))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
@example([1e3, 1e-3], 1.0)  # the small one holds 1e-12 of the energy, and without it not all is held
def test_any_spectrum_gives_what_the_formulas_say_in_the_order_that_always_holds(s, energy):
    found = ex.rank_measures(np.diag(s), energy=energy)
    for name, value in slow(s, energy).items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    rounding = Fraction(
        8 * len(s) * np.finfo(float).eps
    )  # of a float64 sum of so many squares, and of the share
    at_least, at_most = (
        fewest_that_hold(Fraction(energy) * (1 - sign * rounding), s) for sign in (1, -1 if energy < 1 else 0)
    )
    assert at_least <= found["energy_rank"] <= at_most
    ordered = [found[name] for name in SOFT[:4]] + [len(s)]
    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(ordered))


def test_the_tolerance_follows_the_type_that_the_data_went_through():
    """Elementwise product of ranks 3 and 4, true bound 12: float32 rounding fills the rest, whatever the later type."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(40, r)) @ rng.normal(size=(r, 40)) for r in (3, 4)]
    assert ex.rank_measures(parts[0] * parts[1])["numerical_rank"] == 12
    rounded = (parts[0].astype(np.float32) * parts[1].astype(np.float32)).astype(np.float64)
    assert ex.rank_measures(rounded)["numerical_rank"] == 40
    assert ex.rank_measures(rounded, data_dtype="float32")["numerical_rank"] == 12


def test_bfloat16_data_with_a_float32_tolerance_counts_its_rounding():
    import torch

    generator = torch.Generator().manual_seed(0)
    q = [torch.linalg.qr(torch.randn(256, 40, generator=generator, dtype=torch.float64)).Q for _ in range(2)]
    matrix = (q[0] * torch.logspace(0, -5, 40, dtype=torch.float64)) @ q[1].T
    half = matrix.bfloat16()
    assert ex.rank_measures(matrix)["numerical_rank"] == 40
    assert ex.rank_measures(half.float())["numerical_rank"] > 100
    assert ex.rank_measures(half)["numerical_rank"] <= 40
    assert ex.rank_measures(half.double(), data_dtype="bfloat16") == ex.rank_measures(half)


def test_tall_and_wide_matrices_and_scales_do_not_matter():
    tall = np.random.default_rng(1).normal(size=(500, 7))
    found = ex.rank_measures(tall)
    assert ex.rank_measures(tall.T) == pytest.approx(found)
    assert ex.rank_measures(1e-200 * tall) == pytest.approx(found)
    assert set(ex.rank_measures(np.zeros((3, 4))).values()) == {0.0}


@pytest.mark.parametrize(
    ("matrix", "options", "said"),
    [
        (np.ones(3), {}, "two dimensions"),
        (np.full((2, 2), np.nan), {}, "finite numbers"),
        (np.eye(2), {"data_dtype": "int8"}, "data_dtype: got 'int8'"),
        (np.eye(2), {"energy": 0.0}, "energy: got 0"),
    ],
)
def test_what_has_no_rank_is_refused(matrix, options, said):
    with pytest.raises(InputError, match=said):
        ex.rank_measures(matrix, **options)
