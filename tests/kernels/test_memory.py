"""No N×N tensor: the largest tensor that any operation returns is measured, not guessed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import CHUNK_SCORES
from probe.kernels.statistics import map_statistics


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest storage that an operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize(
    "rule", [{"causal": True}, {}, {"causal": True, "window": 100}, {"causal": True, "softcap": 5.0}]
)
def test_the_largest_tensor_of_a_sweep(rule):
    n = 6_000
    q, k = torch.randn(1, 2, n, 16), torch.randn(1, 1, n, 16)
    with Largest() as seen:
        map_statistics(
            q, k, ScoreSpec(scale=0.25, **rule), ("entropy", "received", "max_key", "distance"), "reference"
        )
    assert seen.elements <= CHUNK_SCORES["cpu"]
    assert seen.elements < n * n / 30


def test_the_measure_sees_a_whole_map():
    q = torch.randn(1, 1, 500, 16)
    with Largest() as seen:
        (q @ q.transpose(-1, -2)).softmax(-1)
    assert seen.elements == 500 * 500
