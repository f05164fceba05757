"""A capture of a real model beside its plain forward pass, on the user's own backend."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

MODEL, LENGTH, STATS = "smollm2", 4096, ("entropy", "received")


def beside_forward(device: torch.device, repeats: int) -> dict[str, Any]:
    """Time a capture and the plain forward of the same prompt in turns; the ratio is the median of the pairs'.

    Args:
        device: Where the model runs.
        repeats: Pairs, after one to warm up.

    Raises:
        ModelError: The model is not installed.
    """
    import torch

    import probe

    loaded = probe.load(MODEL, device=str(device))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 40_000, (1, LENGTH), generator=generator).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def forward() -> None:
        with torch.no_grad():
            loaded.model(**inputs, use_cache=False, logits_to_keep=1)

    def capture() -> None:
        probe.capture(loaded, inputs, stats=STATS)

    pairs = [(_seconds(forward, device), _seconds(capture, device)) for _ in range(repeats + 1)][1:]
    return {
        "model": MODEL,
        "n": LENGTH,
        "stats": list(STATS),
        "forward_seconds": statistics.median(pair[0] for pair in pairs),
        "capture_seconds": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    import torch

    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
