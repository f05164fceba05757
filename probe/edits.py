"""Edits: changes to the output of a model's attention calls while it runs (steering), and what they know of earlier passes.

Order. A call is computed by the model's own backend; recorders hear that result first, whichever was opened first; then the
open edits change it, in the order in which they were opened. So a record taken under an edit holds each layer's own map and
output, of queries and keys that the edits of earlier layers have already moved. Two edits that are open together have no head
in common.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from probe import placement
from probe.call import AttentionCall, MapCall
from probe.errors import InputError, ModelError


class Kept(Protocol):
    """What an edit keeps of a sequence."""

    def follow(self, become: Callable[[Tensor], Tensor]) -> None:
        """The samples were reordered, chosen or repeated: apply `become` to whatever has them as its first dimension."""


@dataclass(eq=False)
class Sequence:
    """A batch of sequences that is fed in one or more passes; what an edit keeps of it lives as long as its cache.

    Attributes:
        valid: False where a position is padding, [B, length]; None without padding.
        lengths: positions that each layer has been fed.
        kept: what edits keep, by keys of their own.
    """

    valid: Tensor | None = None
    lengths: dict[int, int] = field(default_factory=dict)
    kept: dict[Any, Kept] = field(default_factory=dict)

    def follow(self, become: Callable[[Tensor], Tensor]) -> None:
        """The samples of the cache were reordered, chosen or repeated."""
        self.valid = None if self.valid is None else become(self.valid)
        for kept in self.kept.values():
            kept.follow(become)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a call stands in its sequence.

    Attributes:
        sequence: the sequence.
        past: positions that were fed before.
        first: position of key 0 (a sliding cache has let go of those before).
    """

    sequence: Sequence
    past: int
    first: int


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to the output of chosen heads.

    Attributes:
        name: in words, for records and messages.
        heads: by layer.
        change: called with each call of these layers; gives the output that takes its place, [B, Nq, H, Dv], or None.
        change_map: the same where a model writes its maps out (TransformerLens): called with the map and with what is visible
            in it, [B, 1 or H, Nq, Nk]; gives the map that takes its place, or None.
    """

    name: str
    heads: Mapping[int, tuple[int, ...]]
    change: Callable[[AttentionCall, Place], Tensor | None]
    change_map: Callable[[MapCall, Tensor, Place], Tensor | None]


class Editing:
    """A model under an edit; a context manager, in any thread. What it placed on the model goes on every way out.

    Args:
        model: a transformers model in eval mode, or a module that holds one; or a TransformerLens bridge.
        edit: the change.
        tower: whose layers the edit means; None for the model's own text.

    Raises:
        ModelError: a model that cannot be steered exactly; the message says which, and what to do.
        InputError: layers that the tower does not have, or heads that another open edit changes.
    """

    def __init__(self, model: torch.nn.Module, edit: Edit, tower: str | None = None) -> None:
        placement.ready(model)
        self.edit = edit
        self._tap = _tap_of(model, edit, tower)
        self._claims = [
            (self._tap.anchor, layer, head) for layer, heads in edit.heads.items() for head in heads
        ]

    def __enter__(self) -> "Editing":
        with _lock:
            taken = [claim for claim in self._claims if claim in _claimed]
            if taken:
                _, layer, head = taken[0]
                raise InputError(
                    f"heads: head {head} of layer {layer} is already changed by an open {_claimed[taken[0]].name}; give each "
                    "head to one of them"
                )
            _claimed.update(dict.fromkeys(self._claims, self.edit))
        try:
            self._tap.__enter__()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        self._tap.__exit__(kind, error, trace)

    def _release(self) -> None:
        with _lock:
            for claim in self._claims:
                _claimed.pop(claim, None)


_claimed: dict[tuple[int, int, int], Edit] = {}
_lock = threading.RLock()


def open_edits(model: torch.nn.Module) -> list[str]:
    """The names of the edits that are open on a model, in the order in which they change its outputs."""
    inside = {id(module) for module in model.modules()}
    with _lock:
        edits = {id(edit): edit.name for (anchor, _, _), edit in _claimed.items() if anchor in inside}
    return list(edits.values())


def _tap_of(model: torch.nn.Module, edit: Edit, tower: str | None) -> Any:
    from probe.taps.hf import sites
    from probe.taps.lens import LensTap

    if LensTap.finds(model):
        from probe.taps.steering.lens import LensSteer

        return LensSteer(model, edit, tower)
    if sites(model):
        from probe.taps.steering.interface import SteerTap

        return SteerTap(model, edit, tower)
    raise ModelError(
        f"{type(model).__name__}: no module of it routes attention through transformers' interface, where outputs can be "
        "changed; expected a transformers model (Llama, Qwen, Mistral, Gemma, GPT-2, BERT, …) or a TransformerLens bridge"
    )
