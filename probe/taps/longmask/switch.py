"""Handing lazy masks to verified models: a stand-in for `sdpa_mask` on transformers' mask interface.

Models ask `ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]` for the function that makes their masks. While a tap of a
verified architecture is open, a local entry of that object stands in front of it. For a long input of that model
it gives a `LazyMask`; what `sdpa_mask` leaves out (None: purely causal, or full) stays None, and everything else
is as without a tap: short inputs, other models, other functions, other threads, gradients, autocast, other devices,
half precision on a CPU with AMX (whose packed products were not measured).
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.taps.longmask.lazy import LazyMask

#: Largest dense mask, in bytes, that a model still makes for itself: that of one text of 8,192 tokens.
DENSE_LIMIT = 1 << 26
#: Where blocks of rows were seen to give the bits of the whole (tests/probe/taps/longmask/test_lazy_mask.py and, on an H100,
#: test_capture_gpu.py).
DEVICES = frozenset({"cpu", "cuda"})
#: The classes that make the masks, and their folder in transformers: tested, bit by bit, that attention alone
#: reads the mask (tests/probe/taps/longmask/test_lazy_mask.py runs over this table).
ARCHITECTURES = {
    "Gemma3TextModel": "gemma3",
    "Llama4TextModel": "llama4",
    "LlamaModel": "llama",
    "MistralModel": "mistral",
    "Olmo2Model": "olmo2",
    "Phi3Model": "phi3",
    "Qwen2Model": "qwen2",
    "Qwen3Model": "qwen3",
    "SmolLM3Model": "smollm3",
}


@dataclass(frozen=True, eq=False)
class Owner:
    """A verified module that makes all masks of a model."""

    name: str
    config: Any


@dataclass(frozen=True, eq=False)
class Loan:
    """The leave of one tap to be given lazy masks, in its thread."""

    owner: Owner
    thread: int


def owner_of(model: torch.nn.Module, routed: Sequence[torch.nn.Module]) -> Owner | None:
    """The verified module that makes all masks of `model`; None where masks stay dense.

    Args:
        model: the model itself; every class that hands on the mask has to be transformers' own.
        routed: its attention modules; all of them have to be inside that module.
    """
    if any("_hf_hook" in vars(m) for m in model.modules()):
        return None  # accelerate's hooks look into every argument
    home = type(model).__module__
    for module in model.modules():
        name = type(module).__name__
        folder = ARCHITECTURES.get(name)
        if type(module).__module__ == home == f"transformers.models.{folder}.modeling_{folder}":
            inside = {id(m) for m in module.modules()}
            parts: list[Any] = [*module.get_submodule("layers").children(), *routed]
            known = all(id(m) in inside and type(m).__module__ == home for m in parts)
            return Owner(name, module.config) if known else None
    return None


class _Switch:
    """The stand-in, shared by all open taps."""

    def __init__(self) -> None:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        self.interface: Any = ALL_MASK_ATTENTION_FUNCTIONS
        self.loans: list[Loan] = []
        self.before = self.interface._local_mapping.get("sdpa")
        self.original = self.interface["sdpa"]
        self.mine = self.mask
        self.interface["sdpa"] = self.mine

    def mask(self, *args: Any, **arguments: Any) -> Any:
        owner = self._owner(arguments.get("config"))
        if args or owner is None or not _worthwhile(arguments):
            return self.original(*args, **arguments)
        # Whether there is a mask does not depend on its rule; under this one it is a view of a row.
        if self.original(**arguments | {"mask_function": _everything, "use_vmap": False}) is None:
            return None
        return LazyMask(self.original, arguments, owner.name)

    def _owner(self, config: Any) -> Owner | None:
        here = threading.get_ident()
        mine = (loan.owner for loan in tuple(self.loans) if loan.thread == here)
        return next((owner for owner in mine if owner.config is config), None)

    def remove(self) -> None:
        if self.interface._local_mapping.get("sdpa") is not self.mine:
            return  # someone wrapped the stand-in meanwhile; without loans it only passes calls on
        if self.before is None:
            del self.interface["sdpa"]
        else:
            self.interface["sdpa"] = self.before


def _everything(*indices: Tensor) -> Tensor:
    return indices[0].new_ones((1, 1, 1, 1), dtype=torch.bool)


def _worthwhile(arguments: Mapping[str, Any]) -> bool:
    size = arguments["batch_size"] * arguments["q_length"] * arguments["kv_length"]
    return size > DENSE_LIMIT and not torch.is_grad_enabled() and _measured(arguments)


def _measured(arguments: Mapping[str, Any]) -> bool:
    device = torch.device(arguments["device"]).type
    fused = torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    half = arguments["dtype"] in (torch.bfloat16, torch.float16)
    packed = device == "cpu" and half and torch.cpu._is_amx_tile_supported()
    return device in DEVICES and fused and not packed and not torch.is_autocast_enabled(device)


_switches: list[_Switch] = []
_lock = threading.RLock()


def lend(owner: Owner) -> Loan | None:
    """Give lazy masks to `owner` in this thread from now on; None if the mask function is someone else's."""
    from transformers.masking_utils import sdpa_mask

    with _lock:
        if not _switches:
            _switches.append(_Switch())
        switch, loan = _switches[0], Loan(owner, threading.get_ident())
        switch.loans.append(loan)
    if switch.original is sdpa_mask:
        return loan
    take_back(loan)
    return None


def take_back(loan: Loan) -> None:
    """End a loan; with the last one the interface object is as it was."""
    with _lock:
        switch = _switches[0]
        switch.loans.remove(loan)
        if not switch.loans:
            switch.remove()
            _switches.clear()
