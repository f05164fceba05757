"""ACT on maps that are known: the closed forms of the method, and what must not change."""

import math

import pytest
import torch
from act_cases import calibrated, planted, uniform
from act_twin import shrink

from probe.kernels.score import ScoreSpec

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


def random_map(n, seed=0, causal=True, heads=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    q, k = (2 * torch.randn(1, heads, n, 8, generator=generator, dtype=dtype) for _ in range(2))
    return q, k, ScoreSpec(scale=8**-0.5, causal=causal)


def sinks_of(columns, head=0):
    return columns.sinks[0, head].nonzero()[:, 0].tolist()


@BOTH
def test_the_planted_map(implementation):
    n, w, beta = 30, 0.7, 0.4
    plain, got, columns = calibrated(*planted(n, w), beta=beta, implementation=implementation)
    assert sinks_of(columns) == [3]
    for i in range(n):
        row = plain[0, 0, i].clone()
        if i >= 3:
            row[: i + 1] *= 1 + (1 - beta) * w / (1 - w)
            row[3] = beta * w
        assert torch.allclose(got[0, 0, i], row, atol=1e-6), i


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("a", [0.5, 1.5, 5.0])
def test_rows_keep_their_sum_their_zeros_and_the_ratios_of_the_others(a, beta, implementation):
    plain, got, columns = calibrated(
        *random_map(33), heads=(0, 1), alpha=a, beta=beta, implementation=implementation
    )
    assert (got >= 0).all()
    assert float((got.sum(-1) - 1).abs().max()) <= 5e-7
    assert torch.equal(got.triu(1), torch.zeros_like(got))
    assert torch.equal(got[..., 0, :], torch.eye(33)[0].expand(1, 2, 33))
    others = ~columns.sinks[0][:, None] & (plain[0] > 1e-6)
    gain = torch.where(others, got[0] / plain[0], torch.nan)
    first = gain.nan_to_num(0).amax(-1, keepdim=True)
    assert torch.allclose(gain.nan_to_num(0), torch.where(others, first, 0), rtol=3e-5)


def test_a_row_whose_single_sink_stays_its_maximum_does_not_lose_entropy():
    plain, got, columns = calibrated(*planted(40, 0.7, dtype=torch.float64), beta=0.6)
    assert sinks_of(columns) == [3]

    def entropy(rows):
        return -torch.special.xlogy(rows, rows).sum(-1)

    stays = got[0, 0].argmax(-1) == 3
    assert stays.sum() > 30
    assert (entropy(got)[0, 0] >= entropy(plain)[0, 0] - 1e-12)[stays].all()


def test_calibrating_a_permuted_full_map_permutes_the_calibrated_map():
    q, k, spec = random_map(25, causal=False, dtype=torch.float64)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    options = {"heads": (0, 1), "protect_first": False, "alpha": 1.5}
    _, got, columns = calibrated(q, k, spec, **options)
    assert columns.sinks.any()
    _, moved, _ = calibrated(q[:, :, order], k[:, :, order], spec, **options)
    assert torch.allclose(moved, got[:, :, order][..., order], atol=1e-14)


def test_a_second_calibration_finds_other_sinks_but_on_the_same_set_it_is_beta_squared():
    q, k, spec = random_map(30, dtype=torch.float64)
    _, once, columns = calibrated(q, k, spec, alpha=1.5)
    _, squared, same = calibrated(q, k, spec, alpha=1.5, beta=0.16)
    chosen = set(sinks_of(columns))
    assert chosen == set(sinks_of(same))
    again = shrink(once[0, 0], once[0, 0] > 0, chosen, 0, beta=0.4)
    assert torch.allclose(again, squared[0, 0], atol=1e-14)
    alpha = once[0, 0].sum(0) / torch.arange(30, 0, -1)
    assert {k for k in range(1, 30) if alpha[k] > 1.5 / 30} != chosen


@pytest.mark.parametrize("a", [5.0, 3.0, 7.0])
@pytest.mark.parametrize("n", [8, 10, 11, 12, 82, 83, 512, 615, 616])
def test_a_uniform_causal_map(n, a):
    """The literal rule calls token 0 a sink from T = 83 on (a = 5; 11 at a = 3, 616 at a = 7), the corrected one nothing."""
    _, _, literal = calibrated(*uniform(n), alpha=a, protect_first=False, beta=1.0)
    assert (0 in sinks_of(literal)) == (n >= {5.0: 83, 3.0: 11, 7.0: 616}[a])
    _, _, corrected = calibrated(*uniform(n), alpha=a, protect_first=False, threshold="corrected", beta=1.0)
    assert sinks_of(corrected) == []
    if (n, a) == (512, 5.0):
        assert len(sinks_of(literal)) == 4
    harmonic = [sum(1 / i for i in range(k + 1, n + 1)) / (n - k) for k in range(n)]
    alpha = literal.received / literal.seen_by[:, None]
    assert torch.allclose(alpha[0, 0], torch.tensor(harmonic, dtype=torch.float64), atol=1e-12)


def test_the_reference_scripts_absolute_threshold_finds_eight_sinks_in_a_uniform_map_of_twelve():
    _, _, columns = calibrated(*uniform(12), threshold="absolute", alpha=0.1, protect_first=False)
    assert len(sinks_of(columns)) == 8


def test_the_corrected_rule_finds_a_planted_sink_in_a_long_map():
    _, _, columns = calibrated(*planted(250, 0.3, 40), threshold="corrected")
    assert sinks_of(columns) == [40]


def test_the_first_token_is_protected_by_its_position_not_as_the_first_flagged():
    """Token 0 gets next to nothing: the published code would spare the first real sink instead."""
    q, k, spec = planted(30, 0.7)
    k[0, 0, 0, 1], q[0, 0, :, 1] = -20, 1
    _, _, columns = calibrated(q, k, spec)
    assert 3 in sinks_of(columns)
    q, k, spec = planted(30, 0.7, token=0)
    assert sinks_of(calibrated(q, k, spec)[2]) == []
    assert sinks_of(calibrated(q, k, spec, protect_first=False)[2]) == [0]


def test_tokens_that_few_queries_see_can_be_left_out():
    q, k, spec = random_map(40)
    k[0, 0, 33] += 3 * q[0, 0, 33:].sum(0)  # seen by 7 queries
    k[0, 0, 32] += 3 * q[0, 0, 32:].sum(0)  # seen by 8
    _, _, every = calibrated(q, k, spec, alpha=2)
    _, _, fewer = calibrated(q, k, spec, alpha=2, min_queries=8)
    assert {32, 33} <= set(sinks_of(every))
    assert [s for s in sinks_of(every) if s <= 32] == sinks_of(fewer)


@BOTH
def test_the_first_token_is_paid_like_others_unless_it_may_not_be(implementation):
    """Rows give 0.3 to token 0, 0.5 to the sink, the rest evenly: 0.6 of the freed weight goes to the first token."""
    n = 40
    q, k = torch.zeros(1, 1, n, 4), torch.zeros(1, 1, n, 4)
    rest = torch.arange(n).clamp(min=3).float() - 2 + 1
    q[0, 0, :, 0], k[0, 0, 3, 0] = torch.log(0.5 / (0.2 / (rest))), 1
    q[0, 0, :, 1], k[0, 0, 0, 1] = torch.log(0.3 / (0.2 / (rest))), 1
    spec = ScoreSpec(scale=1.0, causal=True)
    plain, got, columns = calibrated(q, k, spec, implementation=implementation)
    assert sinks_of(columns) == [3]
    freed, to_first, count = columns.rows[0][0, 0]
    assert torch.allclose(freed[4:], 0.6 * plain[0, 0, 4:, 3], atol=1e-6)
    expected = plain[0, 0, :, 0] / (1 - plain[0, 0, :, 3])
    assert torch.allclose(to_first[4:] / freed[4:], expected[4:], atol=1e-5)
    assert torch.allclose(got[0, 0, 4:, 0] - plain[0, 0, 4:, 0], to_first[4:], atol=1e-6)
    assert (count == 1).all()
    assert torch.equal(freed[:3], torch.zeros(3))
    _, kept, columns = calibrated(q, k, spec, targets="no_first", implementation=implementation)
    assert torch.allclose(kept[0, 0, :, 0], plain[0, 0, :, 0], atol=1e-6)
    assert torch.equal(columns.rows[0][0, 0, 1], torch.zeros(n))
    assert float((kept.sum(-1) - 1).abs().max()) <= 5e-7


@pytest.mark.parametrize("options", [{"beta": 1.0, "alpha": 1.0}, {"alpha": 1e6}])
def test_without_sinks_or_with_beta_one_not_a_bit_changes(options):
    plain, got, _ = calibrated(*random_map(33), heads=(0, 1), **options)
    assert torch.equal(got, plain)


def test_rows_before_the_first_sink_keep_their_bits():
    plain, got, _ = calibrated(*planted(30, 0.7))
    assert torch.equal(got[0, 0, :3], plain[0, 0, :3])
    assert not torch.equal(got[0, 0, 4:], plain[0, 0, 4:])


@pytest.mark.parametrize("height", [3.0, 30.0])
def test_sinks_that_hold_nearly_all_the_weight(height):
    """S is 1 to float32: the receivers are paid all the same, in proportion."""
    n = 30
    q, k = torch.ones(1, 1, n, 4), torch.zeros(1, 1, n, 4)
    k[0, 0, 4] = height
    _, got, columns = calibrated(q, k, ScoreSpec(scale=1.0), protect_first=False, beta=0.4)
    assert sinks_of(columns) == [4]
    mass = math.exp(4 * height) / (math.exp(4 * height) + n - 1)
    row = torch.full((n,), (1 - 0.4 * mass) / (n - 1))
    row[4] = 0.4 * mass
    assert torch.allclose(got[0, 0], row.expand(n, n), atol=1e-6)
