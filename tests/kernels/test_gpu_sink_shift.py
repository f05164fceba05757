"""Attention with shrunken sinks on a CUDA device against ACT's map written out in float64."""

from dataclasses import replace

import pytest
import torch
from score_cases import RULES, make
from sink_cases import assert_shifted, planted, sinks_of, values_of

from probe.kernels.score import ScoreSpec
from probe.kernels.sink_shift import sink_keys, sink_shift

pytestmark = pytest.mark.gpu


def assert_exact(q, k, v, spec, sinks, **more):
    got, again = (sink_shift(q, k, v, spec, sinks, 0.4, implementation="triton", **more) for _ in range(2))
    assert_shifted(got, q, k, v, spec, sinks, 0.4, **more)
    for name, one, other in zip(got._fields, got, again, strict=True):
        assert torch.equal(one.nan_to_num(nan=-5.0), other.nan_to_num(nan=-5.0)), f"{name}: not deterministic"


def sinks_on_device(*shape):
    return sinks_of(*shape).cuda()


@pytest.mark.parametrize("n", [63, 100, 1000])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, n):
    q, k, spec = make(rule, 2, 4, 2, n, 64, torch.bfloat16, "cuda")
    assert_exact(q, k, values_of(k, 64), spec, sinks_on_device(2, 4, n, 0.05))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"]
)
def test_every_dtype_and_other_values(dtype):
    for rule in ("causal", "gemma", "sink-window-padded"):
        q, k, spec = make(rule, 2, 4, 2, 100, 64, dtype, "cuda")
        assert_exact(q, k, values_of(k, 40), spec, sinks_on_device(2, 4, 100))


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.bfloat16, size) for size in (16, 24, 80, 96, 128, 160, 256)]
    + [(torch.float32, size) for size in (24, 128, 256)],
)
def test_every_head_size(dtype, size):
    q, k, spec = make("causal", 1, 4, 1, 300, size, dtype, "cuda")
    assert_exact(q, k, values_of(k, size), spec, sinks_on_device(1, 4, 300))


@pytest.mark.parametrize("rule", ["causal", "left-padded"])
def test_4097(rule):
    q, k, spec = make(rule, 1, 2, 1, 4097, 128, torch.bfloat16, "cuda")
    assert_exact(q, k, values_of(k, 128), spec, sinks_on_device(1, 2, 4097, 0.002))


@pytest.mark.parametrize("rule", ["causal", "sink-window-padded"])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 70), (5, 3000), (333, 970)])
def test_decoding(rule, n_queries, n_keys):
    q, k, spec = make(rule, 2, 4, 2, n_keys, 128, torch.bfloat16, "cuda")
    valid = None if spec.query_valid is None else spec.query_valid[:, -n_queries:]
    spec = replace(spec, offset=n_keys - n_queries, query_valid=valid)
    assert_exact(q[:, :, -n_queries:], k, values_of(k, 128), spec, sinks_on_device(2, 4, n_keys))


def test_one_token():
    q, k, spec = make("causal", 2, 4, 2, 1, 64, torch.bfloat16, "cuda")
    assert_exact(q, k, values_of(k, 64), spec, sinks_on_device(2, 4, 1))


def test_kept_keys_and_rows_from_which_sinks_count():
    q, k, spec = make("causal", 2, 4, 2, 300, 64, torch.bfloat16, "cuda")
    kept = torch.zeros(2, 300, dtype=torch.bool, device="cuda")
    kept[:, 0] = True
    since = torch.randint(0, 300, (2, 4, 300), generator=torch.Generator().manual_seed(3)).cuda()
    assert_exact(q, k, values_of(k, 64), spec, sinks_on_device(2, 4, 300), kept=kept)
    assert_exact(q, k, values_of(k, 64), spec, sinks_on_device(2, 4, 300), kept=kept, since=since)


@pytest.mark.parametrize("mass", [0.9, 0.99, 0.999])
def test_the_error_does_not_grow_with_the_mass_on_the_sinks(mass):
    assert_exact(*planted(mass, 300, device="cuda"))


def test_decoding_with_frozen_sinks_is_the_prefill():
    n, first = 3000, 2990
    q, k, spec = make("causal", 1, 4, 2, n, 128, torch.bfloat16, "cuda")
    v, sinks = values_of(k, 128), sinks_on_device(1, 4, first, 0.01)
    choice = sink_keys(sinks, 0.4)
    whole = sink_shift(q, k, v, spec, sinks, 0.4)
    for step in range(first, n):
        now = slice(step, step + 1)
        got = sink_shift(
            q[:, :, now], k[:, :, : step + 1], v[:, :, : step + 1], replace(spec, offset=step), choice
        )
        assert torch.allclose(got.sink_mass, whole.sink_mass[:, :, now], atol=2e-6)
        assert torch.allclose(got.out.float(), whole.out[:, :, now].float(), atol=2**-7)


def test_memory_stays_linear_at_32k():
    n = 32_768
    q = torch.randn(1, 8, n, 128, dtype=torch.bfloat16, device="cuda")
    k, v = (torch.randn(1, 2, n, 128, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    sinks = sinks_on_device(1, 8, n, 0.001)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sink_shift(q, k, v, ScoreSpec(scale=128**-0.5, causal=True), sinks, 0.4)
    assert torch.cuda.max_memory_allocated() - before <= q.nbytes + 32 * 8 * n
