"""The sink shift in Triton: one sweep over the keys of each block of query rows, then the few marked keys by their list.

In the sweep a marked key is hidden by a bias of -inf, which costs no instruction of its own, so blocks with and without
sinks run alike and there is one accumulator. Few queries against many keys (decoding) share the keys among programs, and
a second kernel joins their parts.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from probe.kernels.heads import heads_on
from probe.kernels.launch import Blocks, core_width
from probe.kernels.score import ScoreSpec
from probe.kernels.score_tile import describe, interpreted, key_tiles, rows_of, view
from probe.kernels.sink_shift.keys import SinkKeys
from probe.kernels.sink_shift.layout import lay_out
from probe.kernels.sink_shift.parts import marked_keys, receivers, write_rows

#: Programs that share the keys of one row block leave at least this many keys to each.
_KEYS_PER_PART = 256

_VARYING = ["chosen", "group", "n_marked", "parts"]


@triton.jit(do_not_specialize=_VARYING)
def _shift_kernel(
    Q, K, V, rules, HIDE, LIST, COUNT, HEADS, BETA, SINK, OUT, MASS, REST, LSE, ACC, TOP, TOTAL,
    chosen, group, n_marked, parts,
    F: tl.constexpr, HAS_SINK: tl.constexpr, KEPT: tl.constexpr, TIMED: tl.constexpr, SHARED: tl.constexpr,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    MARKS: tl.constexpr,
):  # fmt: skip
    # The last blocks of a causal map are the longest: start them first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    sample, place = tl.program_id(1) // chosen, tl.program_id(1) % chosen
    head = tl.load(HEADS + place)
    key_head = head // group
    n_queries = rules.n_queries
    row = block * M + tl.arange(0, M)
    q = rows_of(Q, sample, head, row, tl.arange(0, D), SIZE, n_queries)
    low, open_, high = key_tiles(block, sample, rules, M, N, F)
    if SHARED:
        span = (tl.maximum(high - low, 0) + N * parts - 1) // (N * parts) * N
        low = low + tl.program_id(2) * span
        high = tl.minimum(low + span, high)
        open_ = tl.maximum(tl.minimum(open_, high), low)
    marks_at = tl.program_id(1).to(tl.int64) * n_marked
    acc = tl.zeros([M, DV], tl.float32)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc, top, total = receivers(
        q, K, V, HIDE, marks_at, n_marked, row, sample, head, key_head, rules, low, open_, high, acc, top, total,
        F, TIMED, SIZE, SIZE_V, D, DV, N,
    )  # fmt: skip
    out_at = tl.program_id(1).to(tl.int64) * n_queries + row
    if SHARED:
        dv = tl.arange(0, DV)
        part_at = (tl.program_id(2) * tl.num_programs(1)).to(tl.int64) * n_queries + out_at
        tl.store(ACC + part_at[:, None] * DV + dv[None, :], acc, mask=(row < n_queries)[:, None])
        tl.store(TOP + part_at, top, mask=row < n_queries)
        tl.store(TOTAL + part_at, total, mask=row < n_queries)
    else:
        # who has no receiver has nobody to pay, and stays as it was
        share = tl.where(total > 0, tl.load(BETA + place), 1.0)
        marked_acc, marked_top, sinks, kept = marked_keys(
            q, K, V, HIDE, LIST, marks_at, tl.load(COUNT + tl.program_id(1)), row, sample, head, key_head, rules, share,
            F, TIMED, KEPT, SIZE, SIZE_V, D, DV, M, MARKS,
        )  # fmt: skip
        write_rows(
            OUT, MASS, REST, LSE, SINK, head, out_at, row < n_queries, acc, top, total, marked_acc, marked_top, sinks, kept,
            share, HAS_SINK, SIZE_V, DV,
        )  # fmt: skip


@triton.jit(do_not_specialize=_VARYING)
def _join_kernel(
    Q, K, V, rules, HIDE, LIST, COUNT, HEADS, BETA, SINK, OUT, MASS, REST, LSE, ACC, TOP, TOTAL,
    chosen, group, n_marked, parts,
    F: tl.constexpr, HAS_SINK: tl.constexpr, KEPT: tl.constexpr, TIMED: tl.constexpr,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, M: tl.constexpr, MARKS: tl.constexpr,
):  # fmt: skip
    """Join what several programs summed over their keys, add the marked keys, and write the rows."""
    sample, place = tl.program_id(1) // chosen, tl.program_id(1) % chosen
    head = tl.load(HEADS + place)
    n_queries = rules.n_queries
    row = tl.program_id(0) * M + tl.arange(0, M)
    inside = row < n_queries
    dv = tl.arange(0, DV)
    out_at = tl.program_id(1).to(tl.int64) * n_queries + row
    acc = tl.zeros([M, DV], tl.float32)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    for part in range(0, parts):
        part_at = (part * tl.num_programs(1)).to(tl.int64) * n_queries + out_at
        here = tl.load(TOP + part_at, mask=inside, other=float("-inf"))
        new = tl.maximum(top, here)
        base = tl.where(new == float("-inf"), 0.0, new)
        keep, gain = tl.exp2(top - base), tl.exp2(here - base)
        total = total * keep + tl.load(TOTAL + part_at, mask=inside, other=0.0) * gain
        some = tl.load(ACC + part_at[:, None] * DV + dv[None, :], mask=inside[:, None], other=0.0)
        acc = acc * keep[:, None] + some * gain[:, None]
        top = new
    share = tl.where(total > 0, tl.load(BETA + place), 1.0)
    q = rows_of(Q, sample, head, row, tl.arange(0, D), SIZE, n_queries)
    marks_at = tl.program_id(1).to(tl.int64) * n_marked
    marked_acc, marked_top, sinks, kept = marked_keys(
        q, K, V, HIDE, LIST, marks_at, tl.load(COUNT + tl.program_id(1)), row, sample, head, head // group, rules, share,
        F, TIMED, KEPT, SIZE, SIZE_V, D, DV, M, MARKS,
    )  # fmt: skip
    write_rows(
        OUT, MASS, REST, LSE, SINK, head, out_at, inside, acc, top, total, marked_acc, marked_top, sinks, kept, share,
        HAS_SINK, SIZE_V, DV,
    )  # fmt: skip


def shape_of(dtype: torch.dtype, size: int, n_queries: int, interpreting: bool) -> Blocks:
    """Block shape of the sweep; `size` is the larger of the two head sizes."""
    D = core_width(size)
    if interpreting:
        return Blocks(64, 64, D, {})
    if dtype == torch.float32:
        M = 32 if D <= 128 and n_queries > 16 else 16
        return Blocks(M, 32, D, {"num_warps": 4 if D <= 128 else 8, "num_stages": 2})
    if n_queries <= 16:
        return Blocks(16, 64 if D <= 128 else 32, D, {"num_warps": 4, "num_stages": 3})
    if D <= 128:
        return Blocks(128, 64, D, {"num_warps": 8, "num_stages": 3})
    return Blocks(64, 32, D, {"num_warps": 8, "num_stages": 2})


def parts_of(programs: int, n_keys: int, device: torch.device) -> int:
    """Among how many programs the keys of a row block are shared, so that two for each processor have work."""
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
    )
    return max(1, min(2 * processors // programs, n_keys // _KEYS_PER_PART, 64))


def sink_shift(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    v: Float[Tensor, "B Hkv Nk Dv"],
    spec: ScoreSpec,
    marked: SinkKeys,
    heads: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `probe.kernels.sink_shift.sink_shift`."""
    batch, n_heads, n_queries, size = q.shape
    n, n_keys, size_v = len(heads), k.shape[2], v.shape[3]
    out = torch.empty(batch, n, n_queries, size_v, dtype=q.dtype, device=q.device)
    mass, rest, lse = (
        torch.empty(batch, n, n_queries, dtype=torch.float32, device=q.device) for _ in range(3)
    )
    rules, flags = describe(spec, q, n_keys, interpreted(_shift_kernel))
    shape = shape_of(q.dtype, max(size, size_v), n_queries, flags.UPCAST)
    laid_out = lay_out(marked)
    if "HEADS" not in laid_out:
        laid_out["HEADS"] = heads_on(heads, n_heads, q.device)
    row_blocks = triton.cdiv(n_queries, shape.M)
    parts = parts_of(row_blocks * batch * n, n_keys, q.device)
    DV = core_width(size_v)
    partial = (parts if parts > 1 else 0, batch, n, n_queries)
    acc = torch.empty(*partial, DV, dtype=torch.float32, device=q.device)
    top, total = (torch.empty(partial, dtype=torch.float32, device=q.device) for _ in range(2))
    given = {
        "Q": view(q), "K": view(k), "V": view(v), "rules": rules, **laid_out,
        "SINK": mass if spec.sink is None else spec.sink.float().contiguous(), "OUT": out, "MASS": mass, "REST": rest,
        "LSE": lse, "ACC": acc, "TOP": top, "TOTAL": total,
        "chosen": n, "group": n_heads // k.shape[1], "n_marked": marked.sinks.shape[2], "parts": parts, "F": flags,
        "HAS_SINK": spec.sink is not None, "KEPT": marked.kept is not None, "TIMED": marked.since is not None,
        "SIZE": size, "SIZE_V": size_v, "D": core_width(size), "DV": DV, "MARKS": 32,
    }  # fmt: skip
    _shift_kernel[(row_blocks, batch * n, parts)](
        **given, SHARED=parts > 1, M=shape.M, N=shape.N, **shape.options
    )
    if parts > 1:
        _join_kernel[(triton.cdiv(n_queries, 16), batch * n)](**given, M=16, num_warps=4, num_stages=1)
    return out, mass, rest, lse
