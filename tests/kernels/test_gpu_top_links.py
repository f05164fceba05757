"""The strongest keys on a CUDA device: every rule, all dtypes, awkward lengths, ties; and slices of the keys, merged."""

from itertools import pairwise

import pytest
import torch
from attention_oracle import EPS32, links, statistics, tolerance, worst
from link_checks import assert_links, whole_numbers
from score_cases import RULES, make

from probe.kernels.merge import for_keys, merge_keys
from probe.kernels.row_pass import row_stats
from probe.kernels.top_links import top_links

pytestmark = pytest.mark.gpu
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def assert_right(q, k, spec, count=8, lse=None):
    got = top_links(q, k, spec, lse, count, "triton")
    assert_links(got, q, k, spec.to("cpu"), count)
    again = top_links(q, k, spec, lse, count, "triton")
    assert torch.equal(got.keys, again.keys), "not deterministic"
    assert torch.equal(got.probs.nan_to_num(-5), again.probs.nan_to_num(-5)), "not deterministic"


@pytest.mark.parametrize("n", [63, 100, 1000])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, n):
    assert_right(*make(rule, 2, 4, 2, n, 64, torch.bfloat16, "cuda"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 63, 1000])
@pytest.mark.parametrize("rule", ["causal", "gemma"])
def test_dtypes(rule, n, dtype):
    assert_right(*make(rule, 1 if n == 1 else 2, 4, 2, n, 64, DTYPES[dtype], "cuda"))


@pytest.mark.parametrize("size", [16, 80, 128, 160, 256])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_head_sizes(size, dtype):
    assert_right(*make("causal", 1, 4, 1, 300, size, DTYPES[dtype], "cuda"))


@pytest.mark.parametrize("count", [1, 8, 20, 64])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_numbers_of_links_and_a_given_lse(count, dtype):
    q, k, spec = make("causal", 2, 4, 2, 1000, 64, DTYPES[dtype], "cuda")
    assert_right(q, k, spec, count)
    assert_right(q, k, spec, count, row_stats(q, k, spec, ("lse",))["lse"])


@pytest.mark.parametrize("rule", ["causal", "full", "left-padded"])
def test_4097(rule):
    assert_right(*make(rule, 1, 2, 1, 4097, 64, torch.bfloat16, "cuda"))


@pytest.mark.parametrize("causal", [True, False])
def test_ties_go_to_the_smaller_key(causal):
    q, k, spec = whole_numbers(1500, 1, causal)
    keys, _, _ = links(q, k, spec, 8)
    got = top_links(q.bfloat16().cuda(), k.bfloat16().cuda(), spec, links=8, implementation="triton")
    assert torch.equal(got.keys.cpu(), keys)


@pytest.mark.parametrize("rule", ["causal", "documents-window-groups", "sink-window-padded"])
def test_pages_of_the_keys(rule):
    q, k, spec = make(rule, 2, 4, 2, 500, 64, torch.bfloat16, "cuda")
    cuts, names = [0, 70, 333, 500], ("lse", "entropy", "max_prob", "max_key", "distance")
    parts = []
    for a, b in pairwise(cuts):
        page = q, k[:, :, a:b], for_keys(spec, a, b)
        parts.append(
            {**row_stats(*page, names, "triton"), "top_links": top_links(*page, implementation="triton")}
        )
    got = merge_keys(parts, spec.sink, cuts[:-1])
    host = spec.to("cpu")
    truth, plain = (statistics(q, k, host, dtype=t) for t in (torch.float64, torch.float32))
    for name in ("lse", "entropy", "max_prob", "distance"):
        size = max(1.0, float(truth[name].nan_to_num(0, posinf=0, neginf=0).abs().max()))
        allowed = tolerance(plain[name], truth[name]) + 8 * EPS32 * 10 * size
        assert worst(got[name], truth[name]) <= allowed, name
    assert worst(got["top_links"].probs, links(q, k, host, 8)[1]) <= 1e-5
