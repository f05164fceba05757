"""Time and memory of one call: device events on CUDA, the wall clock elsewhere."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEWEST, MOST = 3, 50


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median and the quartiles of `repeats`, and of the first, which compiles."""

    seconds: float
    quartiles: tuple[float, float]
    repeats: int
    first_seconds: float
    extra_bytes: int


def measure(
    run: Callable[[], object], device: torch.device, budget: float, repeats: int | None = None
) -> Timing:
    """Call once to compile, once for the memory (on CUDA already timed), then as often as the budget allows.

    Args:
        run: The call; its result is dropped.
        device: Where it runs.
        budget: Seconds to spend on timed calls, at least 3 and at most 50 of them.
        repeats: Timed calls, instead of those of the budget.
    """
    first = _wall(run, device)
    extra, estimate = _peak(run, device)
    count = repeats or max(FEWEST, min(MOST, int(budget / max(estimate, 1e-9))))
    if device.type == "cuda":
        times = [estimate, *_events(run, count - 1)] if count > 1 else [estimate]
    else:
        times = [_wall(run, device) for _ in range(count)]
    quartiles = statistics.quantiles(times, n=4, method="inclusive") if count > 1 else times * 3
    return Timing(statistics.median(times), (quartiles[0], quartiles[2]), count, first, extra)


def _wall(run: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _events(run: Callable[[], object], count: int) -> list[float]:
    """Between two events around every call, all queued at once: the launches hide behind the calls before them."""
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, end in marks:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [float(start.elapsed_time(end)) / 1e3 for start, end in marks]


def _peak(run: Callable[[], object], device: torch.device) -> tuple[int, float]:
    """Peak bytes of one call beyond what was held before it, its result included; and its seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        took = _events(run, 1)[0]
        return torch.cuda.max_memory_allocated(device) - held, took
    activity = torch.profiler.ProfilerActivity.CPU
    with _silent(), torch.profiler.profile(activities=[activity], profile_memory=True) as profile:
        took = _wall(run, device)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak, took


@contextmanager
def _silent() -> Iterator[None]:
    """While this lasts, nothing reaches standard error: the profiler tells of its start and stop there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
