"""Settings of the tests on a CUDA device."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_device_memory(request):
    """On a device fresh buffers hold NaN, so that an entry nobody wrote shows; on a CPU see `fresh_memory.poison`."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
