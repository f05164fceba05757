"""Settings of the whole suite: no network, Triton interpreted where there is no GPU, array shapes checked."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    import pytest

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device: run `make test-gpu` where there is one")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
