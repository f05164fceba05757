"""Weights of single pairs against the map written out: every rule, chunked gathers, refusals."""

import pytest
import torch
from attention_oracle import attention
from score_cases import RULES, make

from probe.kernels import pairs
from probe.kernels.pairs import pair_weights
from probe.kernels.row_pass import row_stats


@pytest.mark.parametrize("rule", list(RULES))
def test_equals_the_map_written_out_under_every_rule(rule, monkeypatch):
    monkeypatch.setattr(pairs, "GATHERED", 4 * 16 * 700)  # several gathers
    q, k, spec = make(rule, 2, 4, 2, 63, 16, torch.float64)
    lse = row_stats(q, k, spec, ("lse",), "reference")["lse"]
    rows, keys = (x.flatten() for x in torch.meshgrid(torch.arange(63), torch.arange(63), indexing="ij"))
    for sample in (0, 1):
        truth = attention(q, k, spec)[0][sample].flatten(1)
        if spec.query_valid is not None:
            truth[:, (~spec.query_valid[sample])[rows]] = torch.nan
        found = pair_weights(q, k, spec, lse, rows, keys, sample)
        torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-13, equal_nan=True)


def test_float32_errs_no_more_than_twice_plain_torch():
    q, k, spec = make("gemma", 2, 4, 2, 100, 24)
    truth, plain = (
        attention(q, k, spec, dtype)[0][0, :, 40:60, 30] for dtype in (torch.float64, torch.float32)
    )
    lse = row_stats(q, k, spec, ("lse",), "reference")["lse"]
    found = pair_weights(q, k, spec, lse, torch.arange(40, 60), torch.full((20,), 30))
    eps = torch.finfo(torch.float32).eps
    assert (found - truth).abs().max() <= max(2 * (plain - truth).abs().max(), 8 * eps * truth.max())


def test_no_pair_gives_nothing_and_wrong_numbers_are_refused():
    q, k, spec = make("causal", 1, 2, 1, 10, 8)
    lse = row_stats(q, k, spec, ("lse",), "reference")["lse"]
    none = torch.empty(0, dtype=torch.int64)
    assert pair_weights(q, k, spec, lse, none, none).shape == (2, 0)
    one = torch.tensor([3])
    for rows, keys, said in (
        (one, one + 7, "keys: got numbers from 10"),
        (one - 4, one, "rows: got numbers from -1"),
    ):
        with pytest.raises(ValueError, match=said):
            pair_weights(q, k, spec, lse, rows, keys)
    with pytest.raises(ValueError, match="two lists of one length"):
        pair_weights(q, k, spec, lse, one, torch.arange(2))
    with pytest.raises(ValueError, match="lse: got shape"):
        pair_weights(q, k, spec, lse[:, :1], one, one)
