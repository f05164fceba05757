"""Steering a TransformerLens bridge: the patterns of chosen layers are changed where its own hooks change them.

The bridge writes its maps out, so a changed map is all that is needed; no more memory is taken than it takes itself. Hooks of a
pattern run in the order in which they were added: those that were there see the plain pattern, later ones the changed one.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from probe.call import MapCall
from probe.edits import Edit, Place, Sequence
from probe.errors import InputError, ModelError
from probe.taps.hooks import Hooks
from probe.taps.lens import points_of, sites_of, visible_in
from probe.taps.plan import Plan
from probe.taps.streams import main_stream


class LensSteer:
    """Has an edit change the patterns of its layers while it is open.

    Args:
        model: the bridge.
        edit: the change.
        tower: whose layers it means; None for the model's own text.

    Layers are numbered as the bridge's blocks.

    Raises:
        ModelError: attention to another sequence.
        InputError: no such tower or layer.
    """

    def __init__(self, model: torch.nn.Module, edit: Edit, tower: str | None = None) -> None:
        found = sites_of(model)
        name = main_stream(model).name if tower is None else tower
        plan = Plan(model, found, None, [name])
        mine = [(n, m) for n, m in found if plan.streams[n].name == name]
        unknown = sorted(layer for layer in edit.heads if not layer < len(mine))
        if unknown:
            raise InputError(f"layers: got {unknown}, expected some of 0 to {len(mine) - 1}")
        if plan.streams[mine[0][0]].cross:
            raise ModelError(f"{mine[0][0]}: attends to another sequence; expected a tower of self-attention")
        self._edit = edit
        self._steered = [(layer, *mine[layer]) for layer in edit.heads]
        self.anchor = id(mine[0][1])

    def __enter__(self) -> "LensSteer":
        self._sequence = Sequence()
        self._heard: set[str] = set()
        with Hooks() as hooks:
            for layer, name, owner in self._steered:
                self._place(layer, name, owner, hooks)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        missing = [name for _, name, _ in self._steered if name not in self._heard]
        if kind is None and missing:
            raise ModelError(
                f"{missing[0]}: its hook_pattern never fired; the wrapped model must run eager attention (bridge_of sees to it)"
            )

    def _place(self, layer: int, name: str, owner: Any, hooks: Hooks) -> None:
        own: dict[str, Any] = {}
        points = points_of(owner)

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            own.clear()
            caches = (x for x in (*kwargs.values(), *args) if hasattr(x, "get_seq_length"))
            if next((int(cache.get_seq_length()) for cache in caches), 0):
                raise ModelError(
                    f"{name}: it goes on from a cache; steer a bridge without one (use_past_kv_cache=False), or the "
                    "transformers model itself, with its cache"
                )

        def keep(key: str) -> Callable[..., None]:
            def hook(_point: Any, _given: Any, value: Tensor) -> None:
                own[key] = value

            return hook

        def change(_point: Any, _given: Any, weights: Tensor) -> Tensor | None:
            self._heard.add(name)
            if "z" in own or "z" not in points:
                raise ModelError(
                    f"{name}: its pattern is shown after the output was computed, so that changing it changes nothing; steer "
                    "the transformers model itself (the one that the bridge was made of)"
                )
            if torch.is_grad_enabled() and weights.requires_grad:
                raise ModelError(
                    f"{name}: a gradient is asked for, and none flows through a changed map; run under torch.no_grad()"
                )
            with torch.no_grad():
                return self._changed(layer, name, owner, weights, visible_in({**own, "pattern": weights}))

        hooks.before(owner, before, keywords=True)
        for key in ("scores", "z"):
            if key in points:
                hooks.after(points[key], keep(key))
        hooks.after(points["pattern"], change)

    def _changed(self, layer: int, name: str, owner: Any, weights: Tensor, visible: Tensor) -> Tensor | None:
        bad = [head for head in self._edit.heads[layer] if not 0 <= head < weights.shape[1]]
        if bad:
            raise InputError(
                f"heads: got {bad} of layer {layer}, expected some of 0 to {weights.shape[1] - 1}"
            )
        if weights.shape[2] != weights.shape[3]:
            raise ModelError(
                f"{name}: a pattern of {weights.shape[2]} queries and {weights.shape[3]} keys; expected a pass over the "
                "whole sequence"
            )
        seen = visible.any(1).any(1)  # padding is hidden from all
        valid = None if bool(seen.all()) else seen
        call = MapCall(name, owner, layer, weights, valid, valid, "TransformerLens hook_pattern")
        if layer in self._sequence.lengths:  # another pass
            self._sequence = Sequence()
        self._sequence.lengths[layer] = weights.shape[2]
        return self._edit.change_map(call, visible, Place(self._sequence, 0, 0))
