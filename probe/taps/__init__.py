"""The taps: one file per mechanism by which attention can be heard, and the choice among them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from probe.errors import ModelError

if TYPE_CHECKING:
    import torch

    from probe.taps.eager import EagerTap
    from probe.taps.hf import HFTap
    from probe.taps.lens import LensTap
    from probe.taps.mha import MhaTap
    from probe.taps.sdpa import SdpaTap

    Tap = HFTap | LensTap | MhaTap | SdpaTap | EagerTap


def tap_of(
    model: "torch.nn.Module",
    receive: Callable[[Any], None],
    *,
    valid: Callable[[str], Any] | None = None,
    layers: Sequence[int | str] | None = None,
    towers: Sequence[str] | None = None,
    stream: str | None = None,
    limit: int | None = None,
) -> "Tap":
    """The tap that hears a model: the first of TransformerLens, transformers' interface, `nn.MultiheadAttention`,
    PyTorch's attention function and the slow route (maps that the model writes out) that finds something.

    Args:
        model: the model.
        receive: called with each call.
        valid: False where a position of a group is padding, as `HFTap` takes it.
        layers: numbers of layers or patterns of module names; None for all.
        towers: names of towers; None for all.
        stream: the tower of modules that belong to none by their names; None for what `probe.taps.streams` says.
        limit: for maps that are written out, the most MiB; None for the tap's own limit.

    Raises:
        ModelError: nothing in the model can be heard.
    """
    from probe.taps.eager import EagerTap
    from probe.taps.hf import HFTap, sites, unrouted
    from probe.taps.lens import LensTap
    from probe.taps.mha import MhaTap
    from probe.taps.sdpa import SdpaTap

    own: dict[str, Any] = {"layers": layers, "towers": towers, "query_valid": valid, "stream": stream}
    size: dict[str, Any] = {} if limit is None else {"limit": limit}
    if LensTap.finds(model):
        return LensTap(model, receive, **own, **size)
    if sites(model):
        return HFTap(model, receive, valid=valid, layers=layers, towers=towers)
    if MhaTap.finds(model):
        return MhaTap(model, receive, **own)
    if SdpaTap.finds(model):
        return SdpaTap(model, receive, **own)
    if EagerTap.finds(model):
        return EagerTap(model, receive, **own, **size)
    known = ", ".join(unrouted(model)[:3])
    raise ModelError(
        f"{type(model).__name__}: no module of it computes attention in a way that can be heard"
        f"{f' ({known} …)' if known else ''}; supported are transformers models, TransformerLens bridges, "
        "nn.MultiheadAttention and modules that call scaled_dot_product_attention"
    )
