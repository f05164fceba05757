"""What the fast paths for Hopper (sm_90) share: which calls they cover, and blocks that stream through shared memory.

Plain Triton waits for every product before it goes on. Written in Gluon, the next product runs while the exponentials of this
one are taken. Imported only where a call is covered: a machine without such a GPU never loads Gluon.
"""

from functools import lru_cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

#: Threads of a program wait for each other; named differently in Triton 3.6 and 3.7.
meet = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def fetch(x, smem, full, sample, head, token, use, STAGES: gl.constexpr, pred):
    """Start copying the block of tokens from `token` for its `use`-th use; `arrived` waits for it.

    All warps must be done with the block that lay in its slot before: they meet here.
    """
    slot = use % STAGES
    mbarrier.expect(full.index(slot), x.block_type.nbytes, pred=pred)
    meet()
    tma.async_copy_global_to_shared(
        x, [sample, head, token, 0], full.index(slot), smem.index(slot), pred=pred
    )


@gluon.jit
def arrived(full, use, STAGES: gl.constexpr):
    """Wait for the block of the `use`-th use."""
    mbarrier.wait(full.index(use % STAGES), (use // STAGES) & 1)


@gluon.jit
def product(a, smem, use, HALF: gl.constexpr, N: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, zero):
    """Start `a` times one half (N tokens) of a block, transposed; `warpgroup_mma_wait` gives it."""
    b = smem.index(use % STAGES).reshape([2 * N, D]).slice(HALF * N, N, 0).permute((1, 0))
    return warpgroup_mma(a, b, zero, use_acc=False, is_async=True)


@gluon.jit
def barriers(STAGES: gl.constexpr):
    """One barrier for each slot, and one for the operand that stays."""
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    own = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    mbarrier.init(own, count=1)
    return full, own


@gluon.jit
def finish(full, own, STAGES: gl.constexpr):
    """Give the barriers back."""
    meet()
    for i in gl.static_range(STAGES):
        mbarrier.invalidate(full.index(i))
    mbarrier.invalidate(own)


def blocks_of(x: Tensor, tokens: int) -> TensorDescriptor:
    """A tensor [B, H, N, D] as blocks of `tokens` tokens of one head for the copy engine, 0 beyond the last token."""
    block = [1, 1, tokens, x.shape[3]]
    layout = _layout(tuple(block), x.dtype)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), block, layout)


def rows_of(x: Tensor, tokens: int) -> TensorDescriptor:
    """A float32 number per row [B, H, N] as blocks of `tokens` rows of one head; N a multiple of 4."""
    rows = x.shape[0] * x.shape[1]
    layout = gl.NVMMASharedLayout(0, 32, 2)
    return TensorDescriptor(x, [rows, x.shape[2]], [x.shape[2], 1], [1, tokens], layout)


@lru_cache(maxsize=64)
def _layout(block: tuple[int, ...], dtype: torch.dtype) -> gl.NVMMASharedLayout:
    element = gl.bfloat16 if dtype == torch.bfloat16 else gl.float16
    return gl.NVMMASharedLayout.get_default_for(list(block), element)


def programs(n: int, block: int, heads: int) -> tuple[int, int]:
    """The grid of a launch: blocks of one head, and heads."""
    return triton.cdiv(n, block), heads
