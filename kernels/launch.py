"""How a kernel is launched: block shapes per pass, dtype and head size, and the choice between Triton and plain torch."""

import importlib
import importlib.util
from dataclasses import dataclass, fields
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from probe.kernels.score import ScoreSpec

IMPLEMENTATIONS = ("auto", "reference", "triton")


@dataclass(frozen=True)
class Blocks:
    """Block shape of a launch: M query rows × N keys, head size padded to D, and the compiler's options."""

    M: int
    N: int
    D: int
    options: dict[str, Any]


def core_width(size: int) -> int:
    """The width that a tensor core takes for `size` columns: a power of two, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def row_blocks(dtype: torch.dtype, size: int, interpreted: bool) -> Blocks:
    """Block shape of the row pass, measured on an H100 for bf16 with head sizes 64 and 128; safe elsewhere."""
    D = core_width(size)
    if interpreted:
        return Blocks(64, 64, D, {})
    if dtype == torch.float32:
        M, N = (64, 32) if D <= 64 else (32, 32)
        return Blocks(M, N, D, {"num_warps": 4, "num_stages": 2})
    if D <= 128:
        return Blocks(128, 128, D, {"num_warps": 8, "num_stages": 2})
    return Blocks(64, 32, D, {"num_warps": 4, "num_stages": 2})


def apply_blocks(
    dtype: torch.dtype, size: int, x_dtype: torch.dtype, width: int, interpreted: bool
) -> Blocks:
    """Block shape of the row pass with `width` vectors to multiply, measured on an H100 for bf16 at size and width 128."""
    D = core_width(size)
    if interpreted:
        return Blocks(64, 64, D, {})
    if dtype != torch.float32 and x_dtype != torch.float32 and max(D, width) <= 128:
        return Blocks(128, 64, D, {"num_warps": 8, "num_stages": 3})
    M = 64 if D + width <= 128 else 32
    return Blocks(M, 32, D, {"num_warps": 4, "num_stages": 2 if D + width <= 256 else 1})


def column_blocks(dtype: torch.dtype, size: int, channels: int, pooled: bool, interpreted: bool) -> Blocks:
    """Block shape of the column pass (M queries × N keys), with `channels` vectors to multiply or 0, and a grid or none.

    Measured on an H100 for bf16 with head size 128; safe elsewhere.
    """
    D = core_width(size)
    if interpreted:
        return Blocks(64, 64, D, {})
    if dtype == torch.float32:
        M, N = (32, 64) if D <= 64 and channels <= 64 else (32, 32)
        return Blocks(M, N, D, {"num_warps": 4, "num_stages": 2})
    if D > 128 or channels > 128:
        return Blocks(32 if channels > 128 else 64, 64, D, {"num_warps": 4, "num_stages": 2})
    if channels:
        return Blocks(64, 128, D, {"num_warps": 8, "num_stages": 2})
    if pooled:
        return Blocks(64, 128, D, {"num_warps": 4, "num_stages": 2})
    return Blocks(
        128, 128, D, {"num_warps": 8, "num_stages": 2, "maxnreg": 128}
    )  # two blocks to a multiprocessor


def choose(implementation: str, x: Tensor) -> str:
    """Resolve "auto" by device; an explicit request is kept or refused, never replaced.

    Raises:
        ValueError: unknown name, or Triton asked for where it cannot run exactly.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: got {implementation!r}, expected one of {', '.join(IMPLEMENTATIONS)}"
        )
    if implementation == "auto":
        return "triton" if x.device.type == "cuda" and x.dtype != torch.float64 else "reference"
    if implementation == "triton":
        if x.dtype == torch.float64:
            raise ValueError(
                "implementation: got 'triton' with float64 input, expected 'reference' (Triton sums in float32)"
            )
        if x.device.type != "cuda" and not _interpreting():
            raise ValueError(
                f"implementation: got 'triton' for a tensor on {x.device}, expected a CUDA tensor, or 'reference', or Triton's "
                "interpreter (TRITON_INTERPRET=1 before the first import)"
            )
    return implementation


def way_of(package: str, implementation: str, x: Tensor) -> ModuleType:
    """The module `triton` or `reference` of a kernel's package, as `choose` resolves it; only that one is imported."""
    return importlib.import_module(f"{package}.{choose(implementation, x)}")


#: Fewest queries and keys for which the fast paths for Hopper are taken: below, their start costs more than they save.
_FEWEST = 256
_PLAIN = ("scale", "causal", "offset")


def hopper_covers(q: Tensor, k: Tensor, spec: ScoreSpec) -> bool:
    """Whether the fast paths for Hopper (`hopper.py` of the two passes) cover a call; the general kernels take the others.

    Covered: a GPU of compute capability 9.0, Triton 3.6 or later, bf16 or fp16, head size 64 or 128, at least 256 queries
    and keys, no rule but causality, and tensors that the copy engine can address (strides of whole 16 bytes).
    """
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16) or q.shape[3] not in (64, 128):
        return False
    if min(q.shape[2], k.shape[2]) < _FEWEST or not _hopper(q.device):
        return False
    if any(getattr(spec, field.name) is not None for field in fields(spec) if field.name not in _PLAIN):
        return False
    return all(
        x.stride(3) == 1 and x.data_ptr() % 16 == 0 and all(s > 0 and s % 8 == 0 for s in x.stride()[:3])
        for x in (q, k)
    )


@lru_cache(maxsize=16)
def _hopper(device: torch.device) -> bool:
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    known = version >= (3, 6) and importlib.util.find_spec("triton.experimental.gluon") is not None
    return known and torch.cuda.get_device_capability(device) == (9, 0) and not _interpreting()


def _interpreting() -> bool:
    from probe.kernels.score_tile import interpreted, score_tile

    return interpreted(score_tile)
