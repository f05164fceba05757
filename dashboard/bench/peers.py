"""The forward passes that statistics are held beside, each by its own public operator."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from probe.dashboard.bench.case import window_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from probe.dashboard.bench.case import Case

    Run = Callable[[], Tensor]

_EAGER_BYTES_ON_CPU = 4 << 30
#: What flash-colsum 0.1.0 reads of every head (BLOCK_D in its kernels), whatever the head size is.
_COLSUM_READS = 64


class UnavailableError(Exception):
    """This peer cannot do this case; the message says why."""


@dataclass(frozen=True)
class Peer:
    """One of the others.

    Attributes:
        name: Short.
        label: For people.
        gives: "output" [1, H, N, D], or "column means" [1, N], averaged over heads and queries.
        products: As `rows.Row.products`.
        make: From a case to the call that is timed; raises UnavailableError.
        sweeps: As `rows.Row.sweeps`.
    """

    name: str
    label: str
    gives: str
    products: int
    make: Callable[[Case], Run]
    sweeps: int = 1


def all_peers(device: torch.device, *, flex: bool) -> list[Peer]:
    """The forward passes there are for a device.

    Args:
        device: Of the run.
        flex: Whether FlexAttention takes part.
    """
    if device.type == "cuda":
        peers = [
            Peer("flash", "flash forward (SDPA)", "output", 2, _flash),
            Peer("cudnn", "cuDNN forward (SDPA)", "output", 2, _cudnn),
        ]
    else:
        peers = [Peer("sdpa", "SDPA forward", "output", 2, _sdpa)]
    peers.append(Peer("eager", "eager forward, N×N", "output", 2, _eager))
    if flex:
        from probe.dashboard.bench.flex import flex_attention_of

        peers.append(Peer("flex", "FlexAttention forward", "output", 2, flex_attention_of))
    if device.type == "cuda":
        peers.append(
            Peer(
                "flash-colsum",
                "flash-colsum column means (float16)",
                "column means",
                2,
                _flash_colsum,
                sweeps=2,
            )
        )
    return peers


def _with_backend(case: Case, backend: SDPBackend, mask: Tensor | None = None) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(
            case.q, case.k, case.v, mask, is_causal=mask is None and case.spec.causal, enable_gqa=True
        )


def _sdpa(case: Case) -> Run:
    """SDPA's own kernel for the CPU; a window and documents come as a mask of N×N bytes, which fits there."""
    mask = case.mask() if case.pattern in ("window", "varlen") else None
    return partial(_with_backend, case, SDPBackend.FLASH_ATTENTION, mask)


def _cudnn(case: Case) -> Run:
    if case.pattern in ("window", "varlen"):
        raise UnavailableError("SDPA passes no window and no documents to cuDNN without a mask of N×N")
    return partial(_with_backend, case, SDPBackend.CUDNN_ATTENTION)


def _flash(case: Case) -> Run:
    """Through SDPA; a window or documents through the operator below it, which SDPA has no arguments for."""
    if case.pattern not in ("window", "varlen"):
        return partial(_with_backend, case, SDPBackend.FLASH_ATTENTION)
    q, k, v = (x.transpose(1, 2) for x in (case.q, case.k, case.v))
    cuts, longest, reach = None, case.n, {}
    if case.pattern == "varlen":
        q, k, v = (x[0].contiguous() for x in (q, k, v))
        starts = torch.cat([case.low.unique(), case.low.new_tensor([case.n])])
        cuts, longest = starts.int(), int(starts.diff().max())
    else:
        reach = {"window_size_left": window_of(case.n) - 1, "window_size_right": 0}

    def run() -> Tensor:
        operator = torch.ops.aten._flash_attention_forward
        scale = case.spec.scale
        out: Tensor = operator(q, k, v, cuts, cuts, longest, longest, 0.0, True, False, scale=scale, **reach)[
            0
        ]
        return (out[None] if out.ndim == 3 else out).transpose(1, 2)

    return run


def _eager(case: Case) -> Run:
    """As transformers' eager attention: scores, softmax in float32, product, each of N×N."""
    heads, n = case.q.shape[1], case.n
    need = heads * n * n * (2 * case.q.element_size() + 8)
    free = torch.cuda.mem_get_info(case.q.device)[0] // 2 if case.q.is_cuda else _EAGER_BYTES_ON_CPU
    if need > free:
        raise UnavailableError(
            f"the N×N map takes {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB may be used"
        )
    hidden = None if case.pattern == "full" else ~case.mask()
    group = heads // case.k.shape[1]

    def run() -> Tensor:
        keys, values = (x.repeat_interleave(group, 1) for x in (case.k, case.v))
        scores = case.q @ keys.transpose(-1, -2) * case.spec.scale
        if hidden is not None:
            scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        return scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values

    return run


def _flash_colsum(case: Case) -> Run:
    """Means over heads and queries; it has no grouped heads, so the keys are repeated for it (not timed).

    Its result is float16: at 128k, where a mean is about 8e-6, that is a step of 6e-8, 0.8 % of it. Ours are float32 sums of
    every head apart.
    """
    if importlib.util.find_spec("flash_colsum") is None:
        raise UnavailableError("not installed (pip install flash-colsum)")
    if case.pattern not in ("full", "causal"):
        raise UnavailableError("flash-colsum knows no padding, window or documents")
    if case.q.dtype == torch.float32:
        raise UnavailableError("flash-colsum is made for half precision")
    if case.q.shape[3] > _COLSUM_READS:
        raise UnavailableError(
            f"flash-colsum takes the products of the first {_COLSUM_READS} numbers of a head only and so gives other means; "
            f"compare at --head-size {_COLSUM_READS}"
        )
    from flash_colsum import flash_colsum  # type: ignore[import-not-found]

    keys = case.k.repeat_interleave(case.q.shape[1] // case.k.shape[1], 1)
    return partial(flash_colsum, case.q, keys, scale=case.spec.scale, is_causal=bool(case.spec.causal))
