"""The column pass on a CUDA device against float64: all that it gives, together and alone, deterministic, within its memory.

Lengths and grids are chosen so that few kernels are compiled: one for every set of rules, dtype, number of vectors, and way of
cutting cells.
"""

import pytest
import torch
from attention_oracle import attention, columns, tolerance, worst
from score_cases import RULES, make

from probe.kernels.column_pass import column_mass, column_stats, pooled_map
from probe.kernels.score import ScoreSpec

pytestmark = pytest.mark.gpu
HALF = [torch.bfloat16, torch.float16]


def assert_columns(q, k, spec, channels=0, weighted=False, grid=None, reduce="sum", received=True):
    generator = torch.Generator().manual_seed(7)
    y = torch.randn(*q.shape[:3], channels, generator=generator).to(q) if channels else None
    weights = torch.rand(q.shape[:3], generator=generator).to(q.device) if weighted else None
    host = spec.to("cpu")
    lse = attention(q, k, host)[1].float().to(q.device)
    asked = {"weights": weights, "y": y, "grid": grid, "reduce": reduce}
    got = column_stats(q, k, spec, lse, received=received, **asked, implementation="triton")
    truth = columns(q, k, host, **asked, lse=lse.double())  # of the lse as it is given: a float32 number
    plain = columns(q, k, host, **asked, dtype=torch.float32, lse=lse, factor=q.dtype)
    assert set(got) == {name for name in truth if name != "received" or received}
    for name, values in got.items():
        assert values.dtype == torch.float32
        error, allowed = worst(values, truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    again = column_stats(q, k, spec, lse, received=received, **asked, implementation="triton")
    for name, values in got.items():
        assert torch.equal(values.nan_to_num(nan=-5.0), again[name].nan_to_num(nan=-5.0)), (
            f"{name}: not deterministic"
        )


@pytest.mark.parametrize("rule", RULES)
def test_everything_at_once_under_every_rule(rule):
    for n, grid in ((1000, (5, 7)), (4097, (16, 31))):
        q, k, spec = make(rule, 2, 4, 2, n, 64, torch.bfloat16, "cuda")
        if n == 1000 or rule in ("causal", "left-padded", "window", "documents"):
            assert_columns(q, k, spec, channels=64, grid=grid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("rule", ["causal", "left-padded", "image-blocks", "gemma"])
def test_everything_at_once_in_other_precisions(rule, dtype):
    for n in (100, 1000):
        q, k, spec = make(rule, 2, 4, 2, n, 64, dtype, "cuda")
        assert_columns(q, k, spec, channels=64, weighted=True, grid=(1, 1))


@pytest.mark.parametrize("n", [1, 63, 100, 1000, 4097])
@pytest.mark.parametrize("rule", ["causal", "left-padded", "documents"])
def test_mass_alone_at_every_length(rule, n):
    q, k, spec = make(rule, 1 if n == 1 else 2, 4, 2, n, 64, torch.bfloat16, "cuda")
    assert_columns(q, k, spec)


@pytest.mark.parametrize(
    ("n", "grid"), [(63, (9, 20)), (100, (100, 100)), (1000, (50, 60)), (1000, (1, 1000)), (4097, (512, 512))]
)
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_grids_of_small_cells(reduce, n, grid):
    q, k, spec = make("causal", 1, 4, 2, n, 128, torch.bfloat16, "cuda")
    assert_columns(q, k, spec, grid=grid, reduce=reduce)


@pytest.mark.parametrize("size", [16, 24, 80, 128, 160, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_every_head_size(size, dtype):
    q, k, spec = make("causal", 1, 8, 2, 300, size, dtype, "cuda")
    assert_columns(q, k, spec, channels=size, grid=(2, 2), received=False)


def test_cells_that_tiles_fill_exactly_are_like_any_other():
    q, k, spec = make("causal", 1, 4, 2, 2048, 128, torch.bfloat16, "cuda")
    for grid in ((8, 8), (128, 128), (3, 5)):
        assert_columns(q, k, spec, grid=grid)


def test_one_pass_gives_what_single_passes_give():
    q, k, spec = make("causal", 1, 4, 2, 1000, 128, torch.bfloat16, "cuda")
    lse = attention(q, k, spec.to("cpu"))[1].float().cuda()
    both = column_stats(q, k, spec, lse, grid=(5, 7))
    assert torch.allclose(both["received"], column_mass(q, k, spec, lse), rtol=1e-5, atol=1e-6)
    assert torch.equal(both["pooled"], pooled_map(q, k, spec, lse, (5, 7)))


def test_memory_is_linear_at_128k_and_so_is_a_sample_of_its_keys_exact():
    n, heads = 131_072, 32
    generator = torch.Generator(device="cuda").manual_seed(1)
    q = torch.randn(1, heads, n, 128, dtype=torch.bfloat16, device="cuda", generator=generator)
    k = torch.randn(1, 8, n, 128, dtype=torch.bfloat16, device="cuda", generator=generator)
    spec = ScoreSpec(scale=128**-0.5, causal=True)
    lse = torch.full((1, heads, n), 10.0, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = column_stats(q, k, spec, lse, grid=(512, 512))
    assert torch.cuda.max_memory_allocated() - before < 2**30
    for head, key in ((0, 0), (31, 77_777), (13, n - 1)):
        s = q[0, head, key:].double() @ k[0, head // 4, key].double() * spec.scale
        want = float((s - 10.0).exp().sum())
        assert abs(float(got["received"][0, head, key]) - want) <= 1e-5 * max(want, 1e-3)
    total = got["received"][0].double().sum(-1)
    assert torch.allclose(got["pooled"][0].double().sum((-1, -2)), total, rtol=1e-6)
