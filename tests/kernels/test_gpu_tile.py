"""Rectangles of the map on a CUDA device against float64."""

import pytest
import torch
from attention_oracle import EPS32, attention, scores, tolerance, worst
from score_cases import RULES, make

from probe.kernels.score import ScoreSpec
from probe.kernels.tile import tile

pytestmark = pytest.mark.gpu


def whole(q, k, spec, lse, what, dtype):
    """The whole map from its definition: scores, or their exponentials relative to the stored log-sum-exp."""
    s = scores(q, k, spec, dtype)
    lse = lse.cpu().to(dtype)[..., None]
    return s if what == "score" else torch.where(lse == -torch.inf, 0, (s - lse).exp())


def assert_rectangle(q, k, spec, rows, keys, heads=None):
    host = spec.to("cpu")
    lse = attention(q, k, host)[1].float().to(q.device)
    cut = list(range(q.shape[1])) if heads is None else heads
    for what in ("prob", "score"):
        truth, plain = (whole(q, k, host, lse, what, dtype) for dtype in (torch.float64, torch.float32))
        truth, plain = (x[:, cut][:, :, list(rows)][..., list(keys)] for x in (truth, plain))
        if host.query_valid is not None:
            padded = ~host.query_valid[:, None, list(rows), None]
            truth, plain = truth.masked_fill(padded, torch.nan), plain.masked_fill(padded, torch.nan)
        got = tile(q, k, spec, lse, rows, keys, what, heads, "triton")
        error, allowed = worst(got, truth), tolerance(plain, truth)
        if what == "prob":
            # four roundings of the exponent, as `tolerance` allows for any value: a weight a = exp(s - lse) moves by a·|s|·eps
            exponents = whole(q, k, host, lse, "score", torch.float64)[:, cut][:, :, list(rows)][
                ..., list(keys)
            ]
            allowed = max(allowed, 8 * EPS32 * float((truth * exponents.abs()).nan_to_num().max()))
        assert error <= allowed, f"{what}: error {error:.2e}, allowed {allowed:.2e}"
        again = tile(q, k, spec, lse, rows, keys, what, heads, "triton")
        assert torch.equal(got.nan_to_num(nan=-5.0), again.nan_to_num(nan=-5.0)), f"{what}: not deterministic"


@pytest.mark.parametrize("n", [63, 100, 1000])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, n):
    q, k, spec = make(rule, 2, 4, 2, n, 64, torch.bfloat16, "cuda")
    assert_rectangle(q, k, spec, range(n // 5, n), range(n // 3, n, 2))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"]
)
def test_every_dtype(dtype):
    for rule in ("causal", "gemma", "sink-window-padded"):
        q, k, spec = make(rule, 2, 4, 2, 100, 64, dtype, "cuda")
        assert_rectangle(q, k, spec, range(100), range(100))


@pytest.mark.parametrize("size", [16, 24, 80, 96, 128, 160, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_every_head_size(size, dtype):
    q, k, spec = make("causal", 1, 4, 1, 300, size, dtype, "cuda")
    assert_rectangle(q, k, spec, range(10, 300, 3), range(300), [3, 1])


@pytest.mark.parametrize("rule", ["causal", "left-padded"])
def test_4097(rule):
    q, k, spec = make(rule, 2, 4, 2, 4097, 128, torch.bfloat16, "cuda")
    assert_rectangle(q, k, spec, range(4000, 4097), range(0, 4097, 7), [2])


def test_one_token():
    q, k, spec = make("causal", 1, 4, 2, 1, 64, torch.bfloat16, "cuda")
    assert_rectangle(q, k, spec, range(1), range(1))


def test_memory_and_place_in_a_map_of_128k():
    """One head of a 128k map: the memory of the rectangle and little else."""
    n, heads = 131_072, 2
    q = torch.zeros(1, heads, n, 128, dtype=torch.bfloat16, device="cuda")
    k = torch.randn(1, 1, n, 128, dtype=torch.bfloat16, device="cuda")
    q[:, 1, n - 1024 :] = torch.randn(1024, 128, dtype=torch.bfloat16, device="cuda")
    spec = ScoreSpec(scale=128**-0.5, causal=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = tile(q, k, spec, None, range(n - 1024, n), range(n - 1024, n), "score", [1])
    assert torch.cuda.max_memory_allocated() - before <= 2 * got.nbytes
    expected = q[0, 1, n - 1024 :].double() @ k[0, 0, n - 1024 :].double().T * spec.scale
    hidden = torch.ones(1024, 1024, device="cuda").triu(1).bool()
    assert worst(got[0, 0], expected.masked_fill(hidden, -torch.inf).cpu()) < 2e-5
