"""A choice of sinks laid out for the kernel: the marked keys of each head as a list, and what hides them from the sweep."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False

from typing import Any

import torch
import triton
import triton.language as tl

from probe.kernels.sink_shift.keys import SinkKeys

_NEVER = tl.constexpr(2147483647)


@triton.jit(do_not_specialize=["chosen", "n_marked"])
def _list_kernel(
    SINKS, KEEP, SINCE, LIST, COUNT, HIDE, chosen, n_marked, HAS_KEPT: tl.constexpr, TIMED: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """List the marked keys of one sample and head (2·key + 1 if kept), and hide them from the sweep."""
    at = tl.program_id(0).to(tl.int64) * n_marked
    kept_at = (tl.program_id(0) // chosen).to(tl.int64) * n_marked
    count = tl.program_id(0) * 0
    for start in range(0, n_marked, N):
        key = start + tl.arange(0, N)
        inside = key < n_marked
        marked = (tl.load(SINKS + at + key, mask=inside, other=0) != 0).to(tl.int32)
        kept = tl.zeros([N], tl.int32)
        if HAS_KEPT:
            kept = (tl.load(KEEP + kept_at + key, mask=inside, other=0) != 0).to(tl.int32)
            marked = marked | kept
        place = count + tl.cumsum(marked, 0) - 1
        tl.store(LIST + at + place, key * 2 + kept, mask=marked != 0)
        if TIMED:
            since = tl.load(SINCE + at + key, mask=inside, other=0)
            since = tl.where(kept != 0, -1, tl.where(marked != 0, since, _NEVER))
            tl.store(HIDE + at + key, since, mask=inside)
        else:
            tl.store(HIDE + at + key, tl.where(marked != 0, float("-inf"), 0.0), mask=inside)
        count += tl.sum(marked, 0)
    tl.store(COUNT + tl.program_id(0), count)


def lay_out(marked: SinkKeys) -> dict[str, Any]:
    """The lists and biases of a choice of sinks, made once per choice."""
    if marked.laid_out:
        return marked.laid_out
    sinks, timed = marked.sinks.contiguous(), marked.since is not None
    device = sinks.device
    made = {
        "LIST": torch.empty(sinks.shape, dtype=torch.int32, device=device),
        "COUNT": torch.empty(sinks.shape[:2], dtype=torch.int32, device=device),
        "HIDE": torch.empty(sinks.shape, dtype=torch.int32 if timed else torch.float32, device=device),
    }
    kept = sinks if marked.kept is None else marked.kept.contiguous()
    since = made["COUNT"] if marked.since is None else marked.since.to(torch.int32).contiguous()
    batch, n, n_marked = sinks.shape
    _list_kernel[(batch * n,)](
        SINKS=sinks.view(torch.uint8), KEEP=kept.view(torch.uint8), SINCE=since, **made, chosen=n, n_marked=n_marked,
        HAS_KEPT=marked.kept is not None, TIMED=timed, N=1024, num_warps=4,
    )  # fmt: skip
    marked.laid_out.update(made, BETA=marked.beta.float().contiguous())
    return marked.laid_out
