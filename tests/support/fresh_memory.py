"""What tests watch in memory: entries that nobody wrote, and the largest tensor that an operation returned."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def poison(monkeypatch):
    """Let fresh buffers hold NaN (-77 for integers), so that an entry nobody wrote shows."""
    plain = torch.empty

    def poisoned(*args, **kwargs):
        fresh = plain(*args, **kwargs)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh.fill_(-77)

    monkeypatch.setattr(torch, "empty", poisoned)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest storage that an operation returned, inputs' own storages left out."""

    def __init__(self, *inputs):
        super().__init__()
        self.elements, self.inputs = 0, {x.untyped_storage().data_ptr() for x in inputs}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.inputs:
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out
