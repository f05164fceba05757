"""Estimates from sampled query blocks: unbiased, with an honest error, and nothing but the sampled blocks computed."""

import math

import pytest
import torch
from attention_oracle import attention, statistics, tolerance, worst
from score_cases import RULES, make

from probe.kernels import sampled
from probe.kernels.column_pass import column_mass, pooled_map
from probe.kernels.row_pass import row_stats
from probe.kernels.sampled import draw, for_queries, sampled_columns
from probe.kernels.score import ScoreSpec

N, BLOCK, GRID = 512, 2, (5, 4)


def case(causal, n=N):
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 1, n, 8, generator=generator) for _ in range(2))
    return q, k, ScoreSpec(scale=0.2, causal=causal)


def block_masses(q, k, spec, block):
    """[blocks, Nk]: what every key receives from every block, from the whole map in float64."""
    a, _ = attention(q, k, spec)
    return torch.stack([part.sum(0) for part in a[0, 0].split(block)])


@pytest.fixture
def from_a_table(monkeypatch):
    """Blocks are read off a table instead of computed, so that hundreds of seeds take no time."""

    def use(masses):
        monkeypatch.setattr(sampled, "_of_block", lambda *_: {"received": masses[_[5]][None, None].float()})

    return use


@pytest.mark.parametrize("causal", [True, False])
def test_the_mean_over_many_seeds_is_the_truth(causal, from_a_table):
    q, k, spec = case(causal)
    masses = block_masses(q, k, spec, BLOCK)
    from_a_table(masses)
    truth, seeds = masses.sum(0), 400
    found = [sampled_columns(q, k, spec, 0.4, seed, block=BLOCK) for seed in range(seeds)]
    estimates = torch.stack([x.received[0, 0] for x in found]).double()
    errors = torch.stack([x.standard_error[0, 0] for x in found]).double()
    spread = estimates.std(0)
    # the largest of 512 standard normal numbers stays below 4.5 but in one of three hundred draws
    assert (
        float(((estimates.mean(0) - truth) / (spread / math.sqrt(seeds)).clamp(min=1e-9)).abs().max()) < 4.5
    )
    # the last keys of a causal map are seen by few blocks, the first take most of their mass from one: their error is right on
    # the mean over draws, but of a single draw it says less
    enough = torch.arange(N) < N // 2 if causal else torch.ones(N, dtype=torch.bool)
    ratio = errors.square().mean(0) / spread.square()
    assert abs(float(ratio[enough].mean()) - 1) < 0.05
    assert float((ratio[enough] - 1).abs().mean()) < 0.12
    covered = ((estimates - truth).abs() <= 2 * errors).double().mean(0)
    assert 0.92 <= float(covered[enough].mean()) <= 0.97
    assert float(covered[enough][N // 16 :].min()) > 0.85


@pytest.mark.parametrize("causal", [True, False])
def test_each_estimate_is_the_formula_from_its_blocks(causal):
    q, k, spec = case(causal, 100)
    masses = block_masses(q, k, spec, 9)
    got = sampled_columns(q, k, spec, 0.8, 11, block=9)
    assert len(got.blocks) == round(0.8 * 12) == 10
    total, variance = 0, 0
    for stratum, sample in draw(12, 10, 11):
        y, size, n = masses[sample], len(stratum), len(sample)
        total += size * y.mean(0)
        variance += size**2 * (1 - n / size) * y.var(0, correction=1) / n
    assert worst(got.received[0, 0], total) < 1e-5
    assert worst(got.standard_error[0, 0], variance.sqrt()) < 1e-5


@pytest.mark.parametrize(
    ("total", "drawn"), [(2, 2), (12, 10), (100, 7), (100, 9), (17, 16), (31, 30), (1024, 103)]
)
def test_the_draw(total, drawn):
    strata = draw(total, drawn, 5)
    assert [b for stratum, _ in strata for b in stratum] == list(range(total))
    assert sum(len(sample) for _, sample in strata) == drawn
    for stratum, sample in strata:
        assert 2 <= len(sample) <= len(stratum)
        assert sorted(set(sample)) == sample
        assert set(sample) <= set(stratum)
    assert draw(total, drawn, 5) == strata


def test_every_block_is_drawn_as_often():
    counts = torch.zeros(31)
    for seed in range(3000):
        for _, sample in draw(31, 10, seed):
            counts[sample] += 1
    strata = draw(31, 10, 0)
    for stratum, sample in strata:
        share = len(sample) / len(stratum)
        allowed = 4.5 * math.sqrt(3000 * share * (1 - share))
        assert float((counts[list(stratum)] - 3000 * share).abs().max()) < allowed


@pytest.mark.parametrize("grid", [None, GRID])
@pytest.mark.parametrize("rule", RULES)
def test_fraction_1_is_the_exact_answer(rule, grid):
    q, k, spec = make(rule, 2, 4, 2, 63, 16)
    got = sampled_columns(q, k, spec, 1, 0, grid, block=20)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    truth = column_mass(q, k, spec, lse)
    assert torch.equal(got.received.nan_to_num(-5), truth.nan_to_num(-5))
    assert torch.equal(got.standard_error.nan_to_num(-5), truth.nan_to_num(-5).clamp(max=0))
    assert got.blocks == (0, 1, 2, 3)
    if grid is None:
        assert got.pooled is got.pooled_error is None
    else:
        assert torch.equal(got.pooled, pooled_map(q, k, spec, lse, grid))
        assert (got.pooled_error == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_all_blocks_one_by_one_are_the_whole(rule, monkeypatch):
    """The way of the sample itself, with every block in it: slices of queries and of grid cells lose nothing."""
    q, k, spec = make(rule, 2, 4, 2, 63, 16)
    got = sampled_columns(q, k, spec, 0.999, 0, GRID, block=10)
    assert len(got.blocks) == 7
    assert float(got.standard_error.nan_to_num(0).max()) == float(got.pooled_error.max()) == 0
    truth, plain = (statistics(q, k, spec, dtype=t)["received"] for t in (torch.float64, torch.float32))
    assert worst(got.received, truth) <= tolerance(plain, truth)
    whole = pooled_map(
        q.double(), k.double(), spec, row_stats(q.double(), k.double(), spec, ("lse",))["lse"], GRID
    )
    assert worst(got.pooled, whole) <= 4e-6 * max(1, float(whole.max()))


def test_triton_interpreted():
    q, k, spec = make("left-padded", 2, 2, 1, 63, 16)
    a = sampled_columns(q, k, spec, 0.7, 4, (3, 2), block=16, implementation="reference")
    b = sampled_columns(q, k, spec, 0.7, 4, (3, 2), block=16, implementation="triton")
    assert a.blocks == b.blocks
    for name in ("received", "standard_error", "pooled", "pooled_error"):
        assert worst(getattr(b, name), getattr(a, name)) < 1e-4, name


def test_only_sampled_blocks_are_computed(monkeypatch):
    q, k, spec = case(True, 100)
    computed = []
    plain = sampled.row_stats

    def watched(q_part, *rest):
        computed.append(q_part.shape[2])
        return plain(q_part, *rest)

    monkeypatch.setattr(sampled, "row_stats", watched)
    got = sampled_columns(q, k, spec, 0.3, 1, block=10)
    assert computed == [10, 10, 10]
    poisoned = torch.full_like(q, torch.nan)
    for b in got.blocks:
        poisoned[:, :, b * 10 : b * 10 + 10] = q[:, :, b * 10 : b * 10 + 10]
    assert torch.equal(sampled_columns(poisoned, k, spec, 0.3, 1, block=10).received, got.received)


def test_seeds():
    q, k, spec = case(False)
    one, same, other = (sampled_columns(q, k, spec, 0.3, seed, block=BLOCK) for seed in (7, 7, 8))
    assert one.blocks == same.blocks != other.blocks
    assert torch.equal(one.received, same.received)
    assert not torch.equal(one.received, other.received)
    before = torch.get_rng_state()
    draw(10, 4, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_queries_keep_their_places():
    valid = torch.ones(1, 9, dtype=torch.bool)
    spec = for_queries(ScoreSpec(1.0, causal=True, offset=3, query_valid=valid), 2, 6)
    assert spec.offset == 5
    assert spec.query_valid.shape == (1, 4)


def test_refusals():
    q, k, spec = case(True, 100)
    for fraction, arguments, message in (
        (0.0, {}, "fraction: got 0.0, expected more than 0 and at most 1"),
        (1.5, {}, "fraction: got 1.5"),
        (0.1, {"block": 10}, "which is 1 of 10 blocks of 10 queries, expected at least two"),
        (0.5, {"block": 0}, "block: got 0"),
        (0.5, {"block": 10, "grid": (0, 3)}, "grid: got"),
    ):
        with pytest.raises(ValueError, match=message):
            sampled_columns(q, k, spec, fraction, 0, **arguments)
    with pytest.raises(ValueError, match="expected 0 ≤ start < stop"):
        for_queries(spec, 5, 5)
