"""Without a Hopper GPU: the fast paths are neither taken nor loaded, and which calls and grids they would cover."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_cases import RULES, make

from probe.kernels import launch
from probe.kernels.launch import hopper_covers
from probe.kernels.score import ScoreSpec

SCRIPT = """
import sys, torch
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import map_statistics
q = torch.randn(1, 2, 300, 64)
map_statistics(q, q, ScoreSpec(scale=0.1, causal=True), ("lse", "received"), grid=(3, 3))
import probe.kernels.column_pass.triton, probe.kernels.row_pass.triton
print([name for name in sys.modules if name.startswith("probe.kernels") and "hopper" in name])
"""


class OnDevice(torch.Tensor):
    """A tensor that says of itself that it lies on a CUDA device; its memory is the host's."""

    is_cuda = True


def test_a_cpu_call_is_not_covered():
    q = torch.zeros(1, 2, 512, 128, dtype=torch.bfloat16)
    assert not hopper_covers(q, q, ScoreSpec(scale=0.1, causal=True))


def test_the_fast_paths_are_not_loaded_without_need():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_besides_causality_is_not_covered(rule, monkeypatch):
    monkeypatch.setattr(launch, "_hopper", lambda device: True)
    q, k, spec = make(rule, 2, 2, 2, 300, 64, torch.bfloat16)
    q, k = q.as_subclass(OnDevice), k.as_subclass(OnDevice)
    assert hopper_covers(q, k, spec) == (rule in ("full", "causal"))
    assert not hopper_covers(q.float(), k.float(), spec)
    assert not hopper_covers(q[:, :, :200], k, ScoreSpec(scale=1.0))
    assert not hopper_covers(q[..., 1:], k[..., 1:], ScoreSpec(scale=1.0))


@settings(max_examples=200, deadline=None)
@given(*(st.integers(1, 40) for _ in range(4)), st.sampled_from([1, 8, 16, 32, 48, 64, 80]))
def test_pieces_make_up_the_cells_of_a_grid(rows, columns, high, wide, unit):
    """A cell is whole pieces of 16 keys and of rows that a tile of 64 queries holds whole; else there is no fast path."""
    from probe.kernels.column_pass.hopper import pieces_of

    n_queries, n_keys = rows * high * unit, columns * wide * unit
    found = pieces_of(n_queries, n_keys, (rows, columns))
    if (high * unit) % 16 or (wide * unit) % 16:
        assert found is None
        return
    assert (found.rows * found.height, found.columns * 16) == (n_queries, n_keys)
    assert (high * unit) % found.height == 0
    assert found.height % 64 == 0 if found.tall else found.height in (16, 32)
    assert pieces_of(n_queries + 1, n_keys, (rows, columns)) is None
