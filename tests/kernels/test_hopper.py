"""Without a Hopper GPU the fast paths are neither taken nor loaded."""

import subprocess
import sys

import torch

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


def test_a_cpu_call_is_not_covered():
    q = torch.zeros(1, 2, 512, 128, dtype=torch.bfloat16)
    assert not hopper_covers(q, q, ScoreSpec(scale=0.1, causal=True))


def test_the_fast_paths_are_not_loaded_without_need():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
