"""Which keys of which heads are sinks, and by how much they shrink: checked once, kept over many calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SinkKeys:
    """The choice of one layer; make it with `sink_keys`. n chosen heads, Nm marked keys (later keys are no sinks).

    Attributes:
        sinks: where a key is a sink of a head.
        beta: what a sink keeps of its weight, per head.
        heads: the query heads in question, None for all.
        kept: keys that neither shrink nor receive; a key that is both kept and a sink is kept.
        since: position among the keys from which queries take a sink for one.
        laid_out: what the Triton kernel made of this choice, filled at its first call.
    """

    sinks: Bool[Tensor, "B n Nm"]
    beta: Float[Tensor, "n"]
    heads: tuple[int, ...] | None = None
    kept: Bool[Tensor, "B Nm"] | None = None
    since: Int[Tensor, "B n Nm"] | None = None
    laid_out: dict[str, Any] = field(default_factory=dict, repr=False)


def sink_keys(
    sinks: Bool[Tensor, "B n Nm"],
    beta: float | Float[Tensor, "n"],
    *,
    heads: Sequence[int] | None = None,
    kept: Bool[Tensor, "B Nm"] | None = None,
    since: Int[Tensor, "B n Nm"] | None = None,
) -> SinkKeys:
    """Describe the sinks of one layer, to be used by any number of `sink_shift` calls (a prefill and its decoding steps).

    Args:
        sinks: where a key is a sink; keys beyond Nm, which a cache gained later, are none.
        beta: what a sink keeps of its weight, from 0 (nothing) to 1 (everything); one number, or one per chosen head (a
            tensor on a device is waited for, to check it).
        heads: the query heads that the second dimension of `sinks` stands for, None for all heads in order.
        kept: keys that keep their weight exactly: they do not shrink and receive nothing (ACT's option to keep the first
            token out of the receivers).
        since: position among the keys from which queries take the sink for one; all queries without it.

    Raises:
        ValueError: a shape, dtype, device or number does not fit; the message says what was expected.
    """
    if sinks.ndim != 3 or sinks.dtype != torch.bool or 0 in sinks.shape:
        raise ValueError(
            f"sinks: got {sinks.dtype} {tuple(sinks.shape)}, expected torch.bool [batch, chosen heads, keys], none of them 0"
        )
    batch, n, n_marked = sinks.shape
    chosen = None if heads is None else tuple(int(head) for head in heads)
    if chosen is not None and len(chosen) != n:
        raise ValueError(f"heads: got {len(chosen)} heads, expected {n} as in sinks {tuple(sinks.shape)}")
    for name, x, shape in (("kept", kept, (batch, n_marked)), ("since", since, (batch, n, n_marked))):
        if x is None:
            continue
        if x.shape != shape or x.device != sinks.device:
            raise ValueError(
                f"{name}: got {tuple(x.shape)} on {x.device}, expected {shape} on {sinks.device} as sinks"
            )
        if name == "kept" and x.dtype != torch.bool:
            raise ValueError(f"kept: got dtype {x.dtype}, expected torch.bool")
        if name == "since" and (x.is_floating_point() or x.dtype == torch.bool):
            raise ValueError(f"since: got dtype {x.dtype}, expected integers")
    if isinstance(beta, Tensor):
        if beta.shape != (n,) or beta.device != sinks.device:
            raise ValueError(
                f"beta: got {tuple(beta.shape)} on {beta.device}, expected a number or ({n},) on {sinks.device} as sinks"
            )
        fits = bool(((beta >= 0) & (beta <= 1)).all())
    else:
        fits = 0 <= beta <= 1
    if not fits:
        raise ValueError(f"beta: got {beta}, expected the share that a sink keeps, from 0 to 1")
    dtype = beta.dtype if isinstance(beta, Tensor) and beta.dtype == torch.float64 else torch.float32
    shares = (
        beta.to(dtype)
        if isinstance(beta, Tensor)
        else torch.full((n,), float(beta), dtype=torch.float64, device=sinks.device)
    )
    return SinkKeys(sinks, shares, chosen, kept, since)
