"""Spans, counts and rectangles of visibility, against the mask written entry by entry."""

import pytest
import torch
from attention_oracle import mask
from score_cases import RULES, make

from probe.kernels.visible import key_span, visible_block, visible_counts

N = 61


def spec_and_mask(rule, n=N, n_queries=None, offset=0):
    from dataclasses import replace

    _, _, spec = make(rule, 3, 2, 2, n, 16)
    if n_queries is not None:
        valid = None if spec.query_valid is None else spec.query_valid[:, offset : offset + n_queries]
        spec = replace(spec, offset=offset, query_valid=valid)
    return spec, mask(spec, 3, n_queries or n, n)


@pytest.mark.parametrize(("n_queries", "offset"), [(N, 0), (5, 56), (17, 20)])
@pytest.mark.parametrize("rule", RULES)
def test_counts(rule, n_queries, offset):
    spec, truth = spec_and_mask(rule, N, n_queries, offset)
    if spec.query_valid is not None:
        truth = truth & spec.query_valid[:, :, None]
    keys_seen, seen_by = visible_counts(spec, 3, n_queries, N)
    assert keys_seen.dtype == seen_by.dtype == torch.int32
    assert torch.equal(keys_seen, truth.sum(2).int())
    assert torch.equal(seen_by, truth.sum(1).int())


@pytest.mark.parametrize("rule", RULES)
def test_rectangles_are_cut_from_the_mask(rule):
    spec, truth = spec_and_mask(rule)
    for rows, keys in ((range(3, 20), range(0, N)), (range(40, N), range(11, 50))):
        for b in range(3):
            got = visible_block(spec, b, rows, keys, "cpu")
            assert torch.equal(got, truth[b, rows.start : rows.stop, keys.start : keys.stop])


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_seen_outside_the_span(rule):
    spec, truth = spec_and_mask(rule)
    for rows in (range(0, 1), range(5, 30), range(50, N)):
        for b in range(3):
            low, high = key_span(spec, b, rows, N)
            outside = torch.ones(N, dtype=torch.bool)
            outside[low:high] = False
            assert not truth[b, rows.start : rows.stop][:, outside].any()
