"""What the device could do at best: the rate of its matrix unit, measured in this run, and of its exponential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from probe.dashboard.bench.clock import measure

if TYPE_CHECKING:
    from probe.dashboard.bench.options import Plan


@dataclass(frozen=True)
class Rates:
    """Floating-point operations of a matrix product, and exponentials, in a second."""

    matmul_flops: float
    exps: float
    exps_from: str

    def floor(self, flops: float, exps: float) -> float:
        """The least seconds for so many of both, perfectly overlapped."""
        return max(flops / self.matmul_flops, exps / self.exps)


def rates(plan: Plan) -> Rates:
    """Measure the device.

    Args:
        plan: Device and dtype of the run.
    """
    n = 8192 if plan.device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=plan.device).to(plan.dtype) for _ in range(2))
    product = torch.empty_like(a)
    flops = 2 * n**3 / measure(lambda: torch.mm(a, b, out=product), plan.device, 0.1).seconds
    if plan.device.type == "cuda":
        from probe.dashboard.bench.exp_rate import exps_per_second

        return Rates(flops, exps_per_second(plan.device), "exp2 in registers, measured")
    x = torch.randn(1 << 18)
    y = torch.empty_like(x)
    took = measure(lambda: torch.exp(x, out=y), plan.device, 0.1).seconds
    return Rates(flops, x.numel() / took, "torch.exp, measured on 1 MiB")
