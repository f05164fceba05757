"""The pooled map against cells cut out of the whole map in float64: any grid, any length, every rule."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import attention, columns, mask, tolerance, worst
from fresh_memory import poison
from hypothesis import given, settings
from hypothesis import strategies as st
from score_cases import RULES, make
from torch.utils._python_dispatch import TorchDispatchMode

from probe.kernels import score_block
from probe.kernels.column_pass import column_stats, pooled_map
from probe.kernels.column_pass.cells import cells_for
from probe.kernels.pooling import cell_counts, cells_of, edges
from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import CHUNK_SCORES

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh buffers hold NaN, so that an entry nobody wrote shows."""
    poison(monkeypatch)


def assert_pooled(q, k, spec, implementation, grid, reduce="sum", **asked):
    lse = attention(q, k, spec)[1].float()
    got = column_stats(q, k, spec, lse, grid=grid, reduce=reduce, **asked, implementation=implementation)
    truth = columns(q, k, spec, asked.get("weights"), asked.get("y"), grid, reduce)
    plain = columns(q, k, spec, asked.get("weights"), asked.get("y"), grid, reduce, torch.float32, lse)
    assert got["pooled"].shape == (*q.shape[:2], *grid)
    for name, values in got.items():
        error, allowed = worst(values, truth[name]), tolerance(plain[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("rule", RULES)
def test_plain_torch(rule, reduce):
    for n, grid in ((63, (7, 5)), (100, (3, 50)), (1, (1, 1))):
        q, k, spec = make(rule, 1 if n == 1 else 2, 4, 2, n, 16)
        assert_pooled(q, k, spec, "reference", grid, reduce)


@pytest.mark.parametrize("rule", RULES)
def test_triton_interpreted(rule):
    """Cells larger than a tile (an edge inside one tile in two) and cells smaller than a tile, in turn."""
    for at, (n, grid) in enumerate(((130, (2, 3)), (100, (7, 5)))):
        if at == 0 or rule in ("causal", "left-padded", "image-blocks", "window"):
            q, k, spec = make(rule, 2 if at else 1, 2, 1, n, 16)
            assert_pooled(q, k, spec, "triton", grid, ("sum", "max")[len(rule) % 2])


@pytest.mark.parametrize(
    ("n", "grid"),
    [
        (1, (1, 1)),
        (63, (1, 63)),
        (63, (63, 1)),
        (100, (100, 100)),
        (128, (2, 2)),
        (130, (1, 1)),
        (200, (3, 2)),
    ],
)
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_grids(reduce, n, grid):
    q, k, spec = make("causal", 1, 2, 1, n, 16)
    assert_pooled(q, k, spec, "triton", grid, reduce)


@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("rule", ["causal", "left-padded", "window", "holes"])
def test_the_size_of_chunks_does_not_matter(rule, reduce, monkeypatch):
    monkeypatch.setitem(CHUNK_SCORES, "cpu", 1)
    monkeypatch.setattr(score_block, "_FEWEST_ROWS", 7)
    q, k, spec = make(rule, 2, 4, 2, 90, 16)
    for grid in ((4, 5), (1, 90), (90, 1)):
        assert_pooled(q, k, spec, "reference", grid, reduce)


@BOTH
@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_everything_asked_for_at_once(implementation, reduce):
    q, k, spec = make("left-padded", 2, 2, 1, 130, 16)
    generator = torch.Generator().manual_seed(2)
    weights, y = torch.rand(2, 2, 130, generator=generator), torch.randn(2, 2, 130, 9, generator=generator)
    for grid in ((2, 5), (11, 2)):
        assert_pooled(q, k, spec, implementation, grid, reduce, weights=weights, y=y)
        assert_pooled(q, k, spec, implementation, grid, reduce, received=False)


@BOTH
def test_decoding_and_cross_attention(implementation):
    q, k, spec = make("window", 1, 4, 2, 90, 16)
    for n_queries, grid in ((1, (1, 4)), (7, (7, 9)), (70, (3, 4))):
        at_end = replace(spec, offset=90 - n_queries)
        assert_pooled(q[:, :, -n_queries:], k, at_end, implementation, grid)
    full = ScoreSpec(scale=0.25)
    assert_pooled(q[:, :, :37], k, full, implementation, (5, 8))
    early = ScoreSpec(scale=0.25, causal=True)  # keys that nobody sees
    assert_pooled(q[:, :, :37], k, early, implementation, (5, 8), "mean")


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(sorted(RULES)),
    n=st.integers(2, 70),
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_no_mass_is_lost_or_made(rule, n, rows, columns, seed):
    """All cells together hold as much as the queries that see something, less the mass of the sink."""
    q, k, spec = make(rule, 2, 4, 2, n, 16, seed=seed)
    a, lse = attention(q, k, spec)
    if spec.query_valid is not None:
        a = a * spec.query_valid[:, None, :, None]
    pooled = pooled_map(q, k, spec, lse.float(), (min(rows, n), min(columns, n)))
    assert torch.allclose(pooled.sum((-1, -2)).double(), a.sum((-1, -2)), rtol=1e-5, atol=1e-5)
    if spec.sink is None and rule != "distance-bias-minus-inf":
        seen = mask(spec, 2, n, n).any(-1)
        if spec.query_valid is not None:
            seen = seen & spec.query_valid
        assert torch.allclose(pooled.sum((-1, -2)), seen.sum(-1)[:, None].float(), rtol=1e-5)


def test_a_grid_of_the_maps_own_size_is_the_map():
    q, k, spec = make("causal", 1, 2, 1, 33, 16)
    a, lse = attention(q, k, spec)
    for reduce in ("sum", "max"):
        for implementation in ("reference", "triton"):
            got = pooled_map(q, k, spec, lse.float(), (33, 33), reduce, implementation)
            assert torch.allclose(got.double(), a, atol=1e-6)
    mean = pooled_map(q, k, spec, lse.float(), (33, 33), "mean")
    assert torch.equal(mean.isnan(), ~mask(spec, 1, 33, 33)[:, None].expand(1, 2, 33, 33))


@BOTH
def test_equal_keys_give_the_uniform_map(implementation):
    n = 60
    q, k = torch.zeros(1, 1, n, 16), torch.randn(1, 1, n, 16)
    lse = torch.full((1, 1, n), float(torch.tensor(n).log()))
    spec = ScoreSpec(scale=1.0)
    for reduce, want in (("sum", 10 * 15 / n), ("mean", 1 / n), ("max", 1 / n)):
        got = pooled_map(q, k, spec, lse, (6, 4), reduce, implementation)
        assert torch.allclose(got, torch.full((1, 1, 6, 4), want), rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_counts_of_visible_pairs(rule):
    for n, grid in ((61, (7, 9)), (100, (1, 100)), (20, (20, 3))):
        _, _, spec = make(rule, 3, 2, 2, n, 16)
        seen = mask(spec, 3, n, n)
        if spec.query_valid is not None:
            seen = seen & spec.query_valid[:, :, None]
        got = cell_counts(spec, 3, n, n, grid, "cpu")
        for r in range(grid[0]):
            for c in range(grid[1]):
                rows = slice(r * n // grid[0], (r + 1) * n // grid[0])
                keys = slice(c * n // grid[1], (c + 1) * n // grid[1])
                assert torch.equal(got[:, r, c], seen[:, rows, keys].sum((1, 2)))


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 3000), cells=st.integers(1, 600), block=st.sampled_from([16, 64, 128]))
def test_blocks_cut_every_cell_into_pieces_that_make_it_again(n, cells, block):
    cells = min(n, cells)
    first = edges(n, cells)
    assert torch.equal(torch.bucketize(torch.arange(n), first, right=True) - 1, cells_of(n, cells))
    assert (first.diff() > 0).all()
    plan = cells_for(n, n, (cells, cells), block, block, torch.device("cpu"))
    values = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    pieces = torch.zeros(plan.shape[1], dtype=torch.float64)
    for key in range(n):
        pieces[key // block * plan.wide + plan.piece_of[key]] += values[key]
    want = torch.zeros(cells, dtype=torch.float64).index_add_(0, cells_of(n, cells), values)
    assert torch.allclose(pieces[plan.column_table].sum(-1), want)
    assert plan.merge(pieces.expand(1, plan.shape[0], -1), "sum").shape == (1, cells, cells)
    if plan.fine == 0:
        assert n // cells >= plan.M  # so that a tile holds one edge at most
        return
    rows = torch.zeros(plan.shape[0], dtype=torch.float64)
    for row in range(n):
        tile = row // plan.M
        rows[tile * plan.fine + plan.cell_of[row] - plan.cell_of[tile * plan.M]] += values[row]
    assert torch.allclose(rows[plan.row_table].sum(-1), want)


def test_portions_of_heads_make_no_difference(monkeypatch):
    from probe.kernels.column_pass import triton as kernel

    q, k, spec = make("causal", 2, 2, 1, 70, 16)
    lse = attention(q, k, spec)[1].float()
    whole = pooled_map(q, k, spec, lse, (5, 6), implementation="triton")
    monkeypatch.setattr(kernel, "_MOST_PIECES", 1)
    assert torch.equal(pooled_map(q, k, spec, lse, (5, 6), implementation="triton"), whole)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest storage that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_nothing_of_size_n_by_n_is_made(reduce):
    n = 6_000
    q, k = torch.randn(1, 2, n, 16), torch.randn(1, 1, n, 16)
    with Largest() as seen:
        pooled_map(q, k, ScoreSpec(scale=0.25, causal=True), torch.zeros(1, 2, n), (512, 512), reduce)
    assert seen.elements <= 4 * CHUNK_SCORES["cpu"] < n * n / 8
