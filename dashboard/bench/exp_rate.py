"""How many exponentials a CUDA device makes in a second: a loop in registers, nothing else."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from probe.dashboard.bench.clock import measure

_WIDTH, _TURNS, _PER_UNIT = 1024, 2048, 32


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _exp_kernel(OUT, TURNS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    x = tl.arange(0, WIDTH).to(tl.float32) / WIDTH
    for _ in range(TURNS):
        x = tl.exp2(-x)
    tl.store(OUT + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH), x)


def exps_per_second(device: torch.device) -> float:
    """Exponentials (exp2, as the kernels use it) in a second, all multiprocessors busy.

    Args:
        device: A CUDA device.
    """
    programs = torch.cuda.get_device_properties(device).multi_processor_count * _PER_UNIT
    out = torch.empty(programs * _WIDTH, device=device)
    took = measure(lambda: _exp_kernel[(programs,)](out, _TURNS, _WIDTH, num_warps=4), device, 0.05).seconds
    return float(programs * _WIDTH * _TURNS / took)
