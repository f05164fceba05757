"""Both passes on a CUDA device against float64: every rule, lengths that fit no block, all dtypes and head sizes."""

import pytest
import torch
from attention_oracle import attention, statistics, tolerance, worst
from score_cases import RULES, make

from probe.kernels.row_pass import row_stats
from probe.kernels.statistics import MAP_STATISTICS, map_statistics

pytestmark = pytest.mark.gpu
FLOATS = [name for name in MAP_STATISTICS if name != "max_key"]


def assert_exact(q, k, spec):
    got = map_statistics(q, k, spec, MAP_STATISTICS, "triton")
    host = spec.to("cpu")
    truth = statistics(q, k, host)
    plain = statistics(q, k, host, dtype=torch.float32)
    for name in FLOATS:
        error, allowed = worst(got[name], truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    assert torch.equal(got["max_key"].cpu() < 0, truth["max_key"] < 0)
    again = map_statistics(q, k, spec, MAP_STATISTICS, "triton")
    for name in MAP_STATISTICS:
        assert torch.equal(got[name].nan_to_num(nan=-5.0), again[name].nan_to_num(nan=-5.0)), (
            f"{name}: not deterministic"
        )


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"]
)
@pytest.mark.parametrize("n", [1, 63, 100, 1000])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, n, dtype):
    left_padded = ("left-padded", "sink-window-padded", "chunk-left-padded")
    batch = 1 if n == 1 and rule in left_padded else 2
    q, k, spec = make(rule, batch, 4, 2, n, 64, dtype, "cuda")
    assert_exact(q, k, spec)


@pytest.mark.parametrize("size", [16, 24, 80, 96, 128, 160, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_every_head_size(size, dtype):
    for heads, key_heads in ((4, 4), (8, 2), (4, 1)):
        q, k, spec = make("causal", 1, heads, key_heads, 300, size, dtype, "cuda")
        assert_exact(q, k, spec)


@pytest.mark.parametrize("rule", ["causal", "full", "left-padded", "window"])
def test_4097(rule):
    q, k, spec = make(rule, 2, 4, 2, 4097, 128, torch.bfloat16, "cuda")
    assert_exact(q, k, spec)


@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 70), (5, 700), (333, 970)])
def test_decoding(n_queries, n_keys):
    from probe.kernels.score import ScoreSpec

    q, k, _ = make("causal", 2, 4, 2, n_keys, 128, torch.bfloat16, "cuda")
    spec = ScoreSpec(scale=0.1, causal=True, offset=n_keys - n_queries)
    assert_exact(q[:, :, :n_queries], k, spec)


@pytest.mark.parametrize("x_dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize(
    ("rule", "n"), [("causal", 63), ("causal", 1000), ("sink-window-padded", 100), ("gemma", 100)]
)
def test_products_and_sets(rule, n, x_dtype):
    q, k, spec = make(rule, 2, 4, 2, n, 64, torch.bfloat16, "cuda")
    x = torch.randn(2, 2, n, 64, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).to(x_dtype)
    sets = x[..., :5] > 0.5
    got = row_stats(q, k, spec, ("lse", "entropy"), "triton", x=x, key_sets=sets)
    host = spec.to("cpu")
    exact, plain = attention(q, k, host)[0], attention(q, k, host, torch.float32)[0]
    for name, columns in (("applied", x), ("set_mass", sets.float())):
        by_head = columns.cpu().repeat_interleave(2, 1)
        truth = exact @ by_head.double()
        rounded = plain.to(columns.dtype).float() if name == "applied" else plain
        nearby = rounded @ by_head.float()
        if host.query_valid is not None:
            padded = ~host.query_valid[:, None, :, None]
            truth, nearby = truth.masked_fill(padded, torch.nan), nearby.masked_fill(padded, torch.nan)
        error, allowed = worst(got[name], truth), tolerance(nearby, truth)
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    again = row_stats(q, k, spec, ("lse", "entropy"), "triton", x=x, key_sets=sets)
    assert all(torch.equal(got[name].nan_to_num(), again[name].nan_to_num()) for name in got)


@pytest.mark.parametrize("size", [16, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_products_of_every_head_size(size, dtype):
    q, k, spec = make("causal", 1, 4, 2, 300, size, dtype, "cuda")
    got = row_stats(q, k, spec, (), "triton", x=k)["applied"]
    exact, plain = attention(q, k, spec)[0], attention(q, k, spec, torch.float32)[0].to(dtype).float()
    by_head = k.cpu().repeat_interleave(2, 1)
    truth = exact @ by_head.double()
    assert worst(got, truth) <= tolerance(plain @ by_head.float(), truth)


def test_memory_stays_linear_at_32k():
    n = 32_768
    q = torch.randn(1, 8, n, 128, dtype=torch.bfloat16, device="cuda")
    k = torch.randn(1, 2, n, 128, dtype=torch.bfloat16, device="cuda")
    from probe.kernels.score import ScoreSpec

    spec = ScoreSpec(scale=128**-0.5, causal=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    map_statistics(q, k, spec, MAP_STATISTICS, "triton")
    extra = torch.cuda.max_memory_allocated() - before
    assert (
        extra <= 64 * 8 * n
    )  # a few numbers per head and token; one N×N map of a single head in bf16 would be 2 GiB
