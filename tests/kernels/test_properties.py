"""What must hold for any attention map, on inputs that Hypothesis draws; both passes and every rule take part."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_cases import RULES, make

from probe.kernels import score_block
from probe.kernels.column_pass import column_mass
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import MAP_STATISTICS, map_statistics
from probe.kernels.visible import visible_counts

cases = given(
    rule=st.sampled_from(sorted(RULES)),
    n=st.integers(2, 70),
    size=st.sampled_from([4, 20, 64]),
    seed=st.integers(0, 999),
)
few = settings(max_examples=60, deadline=None)


def real(x):
    return torch.nan_to_num(x, nan=0.0)


@cases
@few
def test_mass_is_conserved_between_rows_and_columns(rule, n, size, seed):
    q, k, spec = make(rule, 2, 4, 2, n, size, seed=seed)
    got = map_statistics(q, k, spec, ("key_mass", "received"), "reference")
    assert torch.allclose(
        real(got["key_mass"]).sum(-1), real(got["received"]).sum(-1), rtol=2e-6 * math.sqrt(n), atol=1e-5
    )


@cases
@few
def test_entropy_lies_between_0_and_the_log_of_the_keys_seen(rule, n, size, seed):
    q, k, spec = make(rule, 2, 4, 2, n, size, seed=seed)
    entropy = real(row_stats(q, k, spec, ("entropy",))["entropy"])
    seen, _ = visible_counts(spec, 2, n, n)
    # with a sink the weights of the keys sum to S < 1, and -Σ p ln p reaches S·ln(n/S) ≤ ln n + 1/e
    room = 0.0 if spec.sink is None else 1 / math.e
    assert (entropy >= -1e-6).all()
    assert (entropy <= seen.clamp(min=1).float().log()[:, None] + room + 2e-6).all()


@cases
@few
def test_a_constant_added_to_every_score_changes_only_the_lse(rule, n, size, seed):
    q, k, spec = make(rule, 2, 4, 2, n, size, seed=seed)
    if spec.softcap is not None or spec.sink is not None:
        return
    column = torch.full((*q.shape[:3], 1), 3.0 / spec.scale), torch.ones(*k.shape[:3], 1)
    shifted = torch.cat([q, column[0]], -1), torch.cat([k, column[1]], -1)
    plain = map_statistics(q, k, spec, ("lse", "entropy", "received"), "reference")
    moved = map_statistics(*shifted, spec, ("lse", "entropy", "received"), "reference")
    finite = torch.isfinite(plain["lse"])
    assert torch.allclose(moved["lse"][finite], plain["lse"][finite] + 3.0, atol=2e-5)
    for name in ("entropy", "received"):
        assert torch.allclose(real(moved[name]), real(plain[name]), atol=1e-4)


@cases
@few
def test_permuting_the_keys_of_a_full_map_permutes_what_they_receive(rule, n, size, seed):
    q, k, _ = make("full", 2, 4, 2, n, size, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    spec = ScoreSpec(scale=size**-0.5)
    plain = map_statistics(q, k, spec, ("entropy", "received"), "reference")
    permuted = map_statistics(q, k[:, :, order], spec, ("entropy", "received"), "reference")
    assert torch.allclose(permuted["entropy"], plain["entropy"], atol=1e-5)
    assert torch.allclose(permuted["received"], plain["received"][..., order], atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_size_of_chunks_does_not_matter(rule, monkeypatch):
    q, k, spec = make(rule, 2, 4, 2, 90, 32)
    whole = map_statistics(q, k, spec, MAP_STATISTICS, "reference")
    monkeypatch.setitem(score_block.CHUNK_SCORES, "cpu", 1)
    monkeypatch.setattr(score_block, "_FEWEST_ROWS", 7)
    pieces = map_statistics(q, k, spec, MAP_STATISTICS, "reference")
    for name, values in whole.items():
        assert torch.allclose(real(values.double()), real(pieces[name].double()), atol=1e-5, rtol=1e-6), name


@cases
@few
def test_one_sweep_equals_two(rule, n, size, seed):
    q, k, spec = make(rule, 2, 4, 2, n, size, seed=seed)
    together = map_statistics(q, k, spec, ("lse", "received"), "reference")
    apart = column_mass(q, k, spec, together["lse"], implementation="reference")
    assert torch.allclose(real(apart), real(together["received"]), atol=2e-5, rtol=2e-5)
    assert torch.equal(apart.isnan(), together["received"].isnan())
