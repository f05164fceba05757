"""Rank of maps: matrix-free against all singular values of the map written out; refusals; records and models alike."""

import numpy as np
import pytest
import torch
import xarray as xr
from explainer_cases import classifier, language_model
from layer_cases import layer, maps, record

import probe
from probe import explainers as ex
from probe.errors import InputError, RecordError
from probe.explainers._rank.matrix_free import Operator, estimate
from probe.explainers._rank.operator import operator_of

SOFT = ("effective_rank", "stable_rank", "nuclear_ratio", "participation")


def truth(matrix):
    """The soft measures from the singular values, by their formulas."""
    s = np.linalg.svd(matrix, compute_uv=False)
    p = s[s > 0] / s.sum()
    return {
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        "stable_rank": (s**2).sum() / s[0] ** 2,
        "nuclear_ratio": s.sum() / s[0],
        "participation": s.sum() ** 2 / (s**2).sum(),
    }


RULES = {
    "causal": {},
    "full": {"causal": False},
    "window": {"window": 9},
    "sink": {"sink": torch.tensor([2.0, 0.0, -1.0, 1.0])},
    "padded": {
        "key_valid": torch.arange(60)[None] >= 11,
        "query_valid": torch.arange(60)[None] >= 11,
    },
}


@pytest.mark.parametrize("rule", list(RULES))
def test_exact_measures_equal_those_of_the_map_written_out(rule):
    one = layer(60, **RULES[rule])
    found = ex.rank(record([one]), method="exact")
    for head, matrix in enumerate(maps(one)[0]):
        for name, value in truth(matrix).items():
            assert found[name].values[0, head] == pytest.approx(value, rel=1e-6), (name, head)


@pytest.mark.parametrize("rule", list(RULES))
def test_products_and_energy_of_the_operator_are_those_of_the_map(rule):
    one = layer(60, **RULES[rule])
    operator, matrix = operator_of(one, 0), torch.from_numpy(maps(one)[0])
    x = torch.randn(4, 60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(operator.forward(x), matrix @ x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(operator.backward(x), matrix.mT @ x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(operator.energy, matrix.square().sum((1, 2)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("rule", list(RULES))
def test_matrix_free_estimates_stay_within_their_errors(rule):
    one = layer(60, **RULES[rule])
    found = ex.rank(record([one]), method="free", block=12, probes=12, steps=20)
    for head, matrix in enumerate(maps(one)[0]):
        for name, value in truth(matrix).items():
            off, error = (float(found[n].values[0, head]) for n in (name, f"{name}_error"))
            assert abs(off - value) <= 3 * error + 1e-6 * value, (name, head, off, value, error)
            assert error <= 0.25 * value, (name, head, error, value)
        stable = truth(matrix)["stable_rank"]
        assert found["stable_rank"].values[0, head] == pytest.approx(stable, rel=1e-3)


def dense(matrix):
    a = torch.as_tensor(matrix)
    return Operator(*a.shape, lambda x: a @ x, lambda y: a.T @ y, a.square().sum())


def test_estimates_of_many_spectra_are_calibrated():
    """Errors are one standard error and a bound: three times that is exceeded by next to nobody."""
    rng = np.random.default_rng(0)
    beyond = total = 0
    for number in range(40):
        n = int(rng.integers(30, 90))
        left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
        s = (
            np.arange(1, n + 1.0) ** -rng.uniform(0.1, 2)
            if number % 2
            else np.exp(-rng.uniform(0.02, 0.5) * np.arange(n))
        )
        matrix = (left * s) @ right
        found = estimate(dense(matrix), block=8, probes=8, steps=10, seed=number)
        for name, value in truth(matrix).items():
            total += 1
            beyond += abs(float(found[name]) - value) > 3 * float(found[f"{name}_error"]) + 1e-3 * value
    assert beyond <= 0.05 * total


@pytest.mark.parametrize(
    "matrix", [np.eye(40), np.full((40, 40), 1 / 40), np.eye(40)[:, [0] * 40]], ids=["one", "even", "onehot"]
)
def test_runs_that_are_exhausted_at_once_are_exact(matrix):
    found = estimate(dense(matrix), block=4, probes=4, steps=6)
    for name, value in truth(matrix).items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name


def test_a_block_that_holds_the_whole_rank_leaves_no_error():
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 80))
    found = estimate(dense(matrix), block=10, probes=4, steps=12)
    for name, value in truth(matrix).items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name
    assert float(found["energy_rank"]) <= 6


def test_what_a_truncated_spectrum_cannot_say_is_refused():
    trace = record([layer(20)])
    for measure in ("numerical_rank", "above_1_percent"):
        with pytest.raises(InputError, match=f"measure: got '{measure}'.*needs every singular value"):
            ex.rank(trace, method="free", measure=measure)
    found = ex.rank(trace, method="free", block=2)
    assert "numerical_rank" not in found
    assert np.isnan(found["energy_rank"].values).all()  # two directions do not hold 99 %
    assert (found["block_energy"].values < 0.99).all()


def test_short_maps_are_exact_by_themselves_and_long_ones_free():
    assert ex.rank(record([layer(40)])).attrs["method"] == "exact"
    long = ex.rank(record([layer(600, heads=1, key_heads=1)]), steps=2, block=4, probes=2)
    assert long.attrs["method"] == "free"
    assert "numerical rank is not given" in long.attrs["note"]
    with pytest.raises(InputError, match="expected at most 4096"):
        ex.rank(record([layer(4100, heads=1, key_heads=1, size=2)]), method="exact")


def test_the_numerical_rank_of_a_causal_map_says_nothing_and_depends_on_the_type():
    trace = record([layer(64, spread=0.3)])
    full = ex.rank(trace, measure="numerical_rank")
    assert (full["numerical_rank"].values == 64).all()  # triangular with a positive diagonal
    assert (ex.rank(trace, data_dtype="bfloat16")["numerical_rank"].values < 64).all()


@pytest.mark.parametrize("build", [classifier, language_model])
def test_a_model_and_a_record_of_it_say_the_same(build):
    text = "the plot is thin but the acting is a delight"
    trace = probe.capture(build(), text, stats=("entropy",), keep="qkv")
    alone, read = ex.rank(build(), text), ex.rank(trace)
    for name in alone.data_vars:
        np.testing.assert_allclose(alone[name], read[name], rtol=1e-5, err_msg=str(name))
    assert alone["module"].values.tolist() == read["module"].values.tolist()
    some = probe.capture(build(), text, stats=("entropy",), keep="qkv", heads={1: [0, 3]})
    part = ex.rank(some)
    assert part["head"].values.tolist() == [0, 3]
    np.testing.assert_allclose(
        part["effective_rank"], alone["effective_rank"].sel(layer=[1], head=[0, 3]), rtol=1e-5
    )
    assert ex.rank(build(), text, layers="1")["layer"].values.tolist() == [1]


def test_wrong_sources_layers_and_inputs_are_refused():
    trace = record([layer(8)])
    with pytest.raises(InputError, match="layers: got 7"):
        ex.rank(trace, layers="7")
    with pytest.raises(InputError, match="layers: got 'x'"):
        ex.rank(trace, layers="x")
    with pytest.raises(InputError, match="inputs: got some with a record"):
        ex.rank(trace, "text")
    with pytest.raises(InputError, match="inputs: got none"):
        ex.rank(language_model())
    with pytest.raises(InputError, match=r"expected a record .* or a model, got int"):
        ex.rank(3, "text")
    with pytest.raises(RecordError, match="keep='qkv'"):
        ex.rank(xr.DataTree.from_dict({"/text": trace["text"].to_dataset()}))
    with pytest.raises(InputError, match="no attention in a tower 'vision'"):
        ex.rank(language_model(), "the capital", tower="vision")
