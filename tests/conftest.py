"""Settings of the whole suite: no network, Triton interpreted where there is no GPU, array shapes checked."""

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch
from browsing import browser  # noqa: F401 - a fixture
from jaxtyping import install_import_hook

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Annotated shapes become checks inside the kernels; the border has its own, and Triton compiles its files from source.
if importlib.util.find_spec("beartype") is not None:
    CHECKED = (
        *("visible", "score_block", "sweep", "heads", "pooling", "merge", "statistics"),
        *(
            f"{kernel}.reference"
            for kernel in ("row_pass", "column_pass", "tile", "top_links", "sink_shift", "nearest_patches")
        ),
    )
    install_import_hook([f"probe.kernels.{name}" for name in CHECKED], "beartype.beartype")


#: The rules whose tests `make check` runs; the other rules of a table are slow tests, and `make test` runs them.
FAST_RULES = {"causal", "left-padded", "documents", "image-blocks", "gemma", "sink-window-padded"}


def pytest_collection_modifyitems(items):
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "kernels" in item.path.parts and str(parameters.get("rule", "causal")) not in FAST_RULES:
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device: run `make test-gpu` where there is one")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
