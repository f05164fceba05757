"""The fast paths for Hopper against float64: that they are taken, and that they are as exact as the general kernels."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import attention, columns, statistics, tolerance, worst

from probe.kernels.column_pass import column_stats
from probe.kernels.launch import hopper_covers
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0), reason="for sm_90"
    ),
]
ROWS = ("lse", "entropy", "effective_keys")
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
SHAPES = [(300, 300), (1000, 1000), (256, 2049)]


def make(n_queries, n_keys, causal, dtype=torch.bfloat16, size=128, heads=(2, 1), spread=1.0):
    generator = torch.Generator().manual_seed(n_queries + n_keys)
    q = (torch.randn(2 if n_keys == 300 else 1, heads[0], n_queries, size, generator=generator) * spread).to(
        "cuda", dtype
    )
    k = torch.randn(len(q), heads[1], n_keys, size, generator=generator).to("cuda", dtype)
    spec = ScoreSpec(scale=size**-0.5, causal=causal, offset=n_keys - n_queries if causal else 0)
    assert hopper_covers(q, k, spec)
    return q, k, spec


def assert_rows(q, k, spec):
    got = row_stats(q, k, spec, ROWS, "triton")
    truth, plain = statistics(q, k, spec), statistics(q, k, spec, dtype=torch.float32)
    for name in ROWS:
        error, allowed = worst(got[name], truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    again = row_stats(q, k, spec, ROWS, "triton")
    assert all(torch.equal(got[name], again[name]) for name in ROWS)


def assert_columns(q, k, spec, grid, reduce="sum"):
    lse = attention(q, k, spec)[1].float().to(q.device)
    asked = {"grid": grid, "reduce": reduce, "weights": None, "y": None}
    got = column_stats(q, k, spec, lse, grid=grid, reduce=reduce, implementation="triton")
    truth = columns(q, k, spec, **asked, lse=lse.double())
    plain = columns(q, k, spec, **asked, dtype=torch.float32, lse=lse, factor=q.dtype)
    for name, values in got.items():
        error, allowed = worst(values, truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    again = column_stats(q, k, spec, lse, grid=grid, reduce=reduce, implementation="triton")
    assert all(torch.equal(got[name].nan_to_num(), again[name].nan_to_num()) for name in got)


@HALF
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_rows_at_every_length(causal, size, dtype):
    for n_queries, n_keys in SHAPES:
        q, k, spec = make(n_queries, n_keys, causal, dtype, size)
        assert_rows(q, k, spec)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("size", [64, 128])
def test_cells_of_whole_pieces(size, causal):
    for n_queries, n_keys, grid in (
        (512, 512, (32, 32)),  # 16 × 16
        (1024, 1024, (32, 16)),  # 32 × 64
        (1024, 1024, (16, 64)),  # 64 × 16
        (1600, 2080, (25, 13)),  # 64 × 160: an odd number of tiles, and keys that end inside a block
        (336, 2080, (7, 10)),  # 48 × 208
        (1024, 2048, (2, 4)),  # 512 × 512
        (1024, 1024, (1, 1)),
    ):
        q, k, spec = make(n_queries, n_keys, causal, size=size)
        assert_columns(q, k, spec, grid, "mean" if grid == (7, 10) else "sum")


def test_cells_that_cut_pieces_go_to_the_general_kernel():
    q, k, spec = make(1000, 1000, True)
    for grid, reduce in (((125, 125), "sum"), ((7, 5), "sum"), ((10, 10), "max")):
        assert_columns(q, k, spec, grid, reduce)


@pytest.mark.parametrize("spread", [30.0, 300.0])
def test_levels_far_below_the_maximum_are_taken_again(spread):
    q, k, spec = make(1000, 3000, True, spread=spread)
    assert_rows(q, k, spec)
    q, k, spec = make(1000, 3000, False, spread=spread)
    assert_rows(q, k, spec)


def test_keys_that_grow_along_the_row():
    q, k, spec = make(2048, 2048, False)
    k = (k.float() * torch.linspace(0.01, 40, 2048, device="cuda")[:, None]).to(k.dtype)
    assert_rows(q, k, spec)


def test_heads_and_tokens_may_be_swapped_in_memory():
    q, k, spec = make(1024, 1024, True, heads=(8, 1))
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]
    assert not turned[0].is_contiguous()
    assert hopper_covers(*turned, spec)
    for name, values in row_stats(q, k, spec, ROWS).items():
        assert torch.equal(values, row_stats(*turned, spec, ROWS)[name])
    lse = row_stats(q, k, spec)["lse"]
    straight, other = (column_stats(*x, spec, lse, grid=(8, 8)) for x in ((q, k), turned))
    assert all(torch.equal(straight[name], other[name]) for name in straight)


def test_rows_that_give_nothing():
    q, k, spec = make(1024, 1024, True)
    lse = row_stats(q, k, spec)["lse"]
    lse[:, 0, 100:200] = float("-inf")
    lse[:, 1, 77] = float("nan")
    got = column_stats(q, k, spec, lse, grid=(16, 16))
    weights = attention(q, k, spec)[0].cuda()
    weights[~lse.isfinite()] = 0
    assert torch.allclose(got["received"].double(), weights.sum(-2), atol=2e-5)
    assert torch.allclose(got["pooled"].double().sum((-1, -2)), weights.sum((-1, -2)), atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"window": 300},
        {"softcap": 30.0},
        {"sink": torch.zeros(2, device="cuda") if torch.cuda.is_available() else None},
        {"key_valid": torch.ones(1, 1000, dtype=torch.bool, device="cuda") if torch.cuda.is_available() else None},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_rules_are_not_covered(change):
    q, k, spec = make(1000, 1000, True)
    assert not hopper_covers(q, k, replace(spec, **change))


def test_what_the_copy_engine_cannot_address_is_not_covered():
    q, k, spec = make(1000, 1000, True)
    shifted = torch.empty(q.numel() + 1, dtype=q.dtype, device="cuda")[1:].view(q.shape).copy_(q)
    assert not hopper_covers(shifted, k, spec)
    assert not hopper_covers(q[..., :-1], k[..., :-1], spec)
    assert_rows_equal(row_stats(shifted, k, spec, ROWS), row_stats(q, k, spec, ROWS))


def assert_rows_equal(one, other):
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=2e-5, atol=2e-5)
