"""A·x and the mass on sets of keys, in the sweep of the row statistics, under every rule."""

import pytest
import torch
from attention_oracle import attention, tolerance, worst
from score_cases import RULES, SHAPES, make

from probe.kernels.column_pass import column_stats
from probe.kernels.row_pass import apply, row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import map_statistics

IMPLEMENTATIONS = ["reference", pytest.param("triton", id="interpreter")]


def products(q, k, spec, x, dtype=torch.float64):
    """[B, H, Nq, C] from the whole map, NaN at padded queries."""
    a = attention(q, k, spec, dtype)[0]
    x = x.cpu().to(dtype).repeat_interleave(q.shape[1] // x.shape[1], 1)
    out = a @ x
    if spec.query_valid is not None:
        out = out.masked_fill(~spec.query_valid.cpu()[:, None, :, None], torch.nan)
    return out


def assert_product(got, q, k, spec, x):
    truth, plain = products(q, k, spec, x), products(q, k, spec, x, torch.float32)
    error, allowed = worst(got, truth), tolerance(plain, truth)
    assert error <= allowed, f"error {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, implementation):
    q, k, spec = make(rule, *SHAPES["63"])
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 2, 63, 20, generator=generator)
    sets = torch.rand(2, 4, 63, 5, generator=generator) < 0.3
    got = row_stats(q, k, spec, ("entropy",), implementation, x=x, key_sets=sets)
    assert set(got) == {"entropy", "applied", "set_mass"}
    assert_product(got["applied"], q, k, spec, x)
    assert_product(got["set_mass"], q, k, spec, sets.float())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_vectors_for_all_heads_for_key_heads_and_for_every_head(heads, implementation):
    q, k, spec = make("sink", 2, 4, 2, 70, 16)
    x = torch.randn(2, heads, 70, 3, generator=torch.Generator().manual_seed(4))
    assert_product(apply(q, k, spec, x, implementation), q, k, spec, x)
    sets = x > 0
    mass = row_stats(q, k, spec, (), implementation, key_sets=sets)["set_mass"]
    assert_product(mass, q, k, spec, sets.float())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sets_that_divide_the_keys_share_the_whole_mass(implementation):
    q, k, spec = make("causal", 1, 2, 1, 90, 16)
    which = torch.arange(90) % 32
    sets = (which[:, None] == torch.arange(32)).expand(1, 1, 90, 32)
    mass = row_stats(q, k, spec, ("key_mass",), implementation, key_sets=sets)["set_mass"]
    assert torch.allclose(mass.sum(-1), torch.ones(1, 2, 90), atol=2e-6)
    first = mass[0, :, 0]
    assert torch.equal(first[:, 1:], torch.zeros(2, 31))
    assert torch.equal(first[:, 0], torch.ones(2))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_of_equal_keys_the_first_has_the_maximum(implementation, causal):
    """Keys enough for several tiles, which come in no order of their own."""
    q, k = torch.randn(1, 2, 200, 16, generator=torch.Generator().manual_seed(2)), torch.ones(1, 1, 200, 16)
    k[:, :, :3] = 0
    spec = ScoreSpec(scale=0.25, causal=causal)
    got = row_stats(q, k, spec, ("max_key",), implementation)["max_key"]
    positive = q.sum(-1) > 0
    first = torch.where(torch.arange(200) < 3, 0, 3) if causal else torch.tensor(3)
    assert torch.equal(got, torch.where(positive, first, 0))


@pytest.mark.parametrize("far", [10.0, 300.0, 1e4])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_key_far_above_all_before_it(implementation, far):
    """The largest score stands neither in the first block of keys nor near the diagonal: no level guessed early may hurt."""
    n = 300
    generator = torch.Generator().manual_seed(6)
    q, k = torch.ones(1, 1, n, 16), 0.1 * torch.randn(1, 1, n, 16, generator=generator)
    k[:, :, 100] += far / 16
    spec = ScoreSpec(scale=1.0, causal=True)
    from attention_oracle import statistics

    names = ("lse", "entropy", "key_mass", "distance", "second_moment")
    got = row_stats(q, k, spec, names, implementation)
    truth, plain = statistics(q, k, spec), statistics(q, k, spec, dtype=torch.float32)
    for name in names:
        assert worst(got[name], truth[name]) <= tolerance(plain[name], truth[name]), name


def test_the_vectors_must_fit():
    q, k, spec = make("causal", 2, 4, 2, 10, 16)
    for x, message in (
        (
            torch.zeros(2, 3, 10, 5),
            r"x: got shape \(2, 3, 10, 5\), expected \[2, 1 or 2 or 4, 10, 1 to 256\]",
        ),
        (torch.zeros(2, 2, 9, 5), r"x: got shape \(2, 2, 9, 5\)"),
        (torch.zeros(2, 2, 10, 5).half(), r"x: got dtype torch.float16, expected torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(q, k, spec, x)
    with pytest.raises(ValueError, match=r"key_sets: got shape \(2, 2, 10, 33\), expected .* 1 to 32\]"):
        row_stats(q, k, spec, (), key_sets=torch.zeros(2, 2, 10, 33).bool())
    with pytest.raises(ValueError, match=r"key_sets: got dtype torch.float32, expected torch.bool"):
        row_stats(q, k, spec, (), key_sets=torch.zeros(2, 2, 10, 3))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("names", [(), ("received",), ("entropy",), ("max_key", "received")])
def test_all_at_once_is_what_each_pass_gives(names, implementation):
    q, k, spec = make("sink", 2, 4, 2, 70, 16)
    x = torch.randn(2, 2, 70, 3)
    y = torch.randn(2, 4, 70, 3)
    more = {"x": x, "key_sets": x > 0, "y": y, "grid": (7, 5)}
    got = map_statistics(q, k, spec, names, implementation, **more)
    assert set(got) == {*names, "applied", "set_mass", "transposed", "pooled"}
    rows = [name for name in names if name != "received"]
    alone = row_stats(q, k, spec, ("lse", *rows), implementation, x=x, key_sets=x > 0)
    alone |= column_stats(q, k, spec, alone["lse"], y=y, grid=(7, 5), implementation=implementation)
    assert all(torch.equal(got[name], alone[name]) for name in got)
    few = map_statistics(q, k, spec, ("received",), implementation, key_sets=x > 0)
    assert set(few) == {"received", "set_mass"}
    assert torch.allclose(few["set_mass"], alone["set_mass"], atol=1e-6)
    with pytest.raises(ValueError, match=r"names: got \[\], expected at least one of lse"):
        map_statistics(q, k, spec, (), implementation)
