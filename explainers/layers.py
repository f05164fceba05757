"""The layers of a model or of a record that kept q, k and v, one at a time: what methods need that apply the map anew."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probe.errors import InputError, ModelError, RecordError
from probe.explainers.reading import origin_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from probe.kernels.score import ScoreSpec


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's attention of some heads: everything from which its maps follow.

    Attributes:
        number: of the layer.
        module: name of the module, empty if unknown.
        heads: numbers of the query heads.
        q: queries, [B, H, Nq, D].
        k: keys, [B, Hkv, Nk, D].
        v: values, [B, Hkv, Nk, Dv].
        spec: the rules of these heads.
        queries: places of the queries over (sample, token): text, id, role, …; None if unknown.
        keys: places of the keys.
        call: the call in the model; None from a record.
    """

    number: int
    module: str
    heads: tuple[int, ...]
    q: "Tensor"
    k: "Tensor"
    v: "Tensor"
    spec: "ScoreSpec"
    queries: xr.Dataset | None
    keys: xr.Dataset | None
    call: Any = None

    @cached_property
    def lse(self) -> "Tensor":
        """Log-sum-exp of every row, [B, H, Nq]."""
        from probe.kernels.row_pass import row_stats

        return row_stats(self.q, self.k, self.spec, ("lse",))["lse"]

    def valid(self, sample: int) -> "tuple[Tensor, Tensor]":
        """Which queries and which keys of a sample are no padding, [Nq] and [Nk] bool."""
        import torch

        sides = ((self.spec.query_valid, self.q.shape[2]), (self.spec.key_valid, self.k.shape[2]))
        found = [
            torch.ones(n, dtype=torch.bool, device=self.q.device) if flags is None else flags[sample]
            for flags, n in sides
        ]
        return found[0], found[1]

    def head(self, place: int) -> "Layer":
        """One head alone, by its place among these."""
        from dataclasses import replace

        from probe.kernels.heads import of_heads

        here = place // (self.q.shape[1] // self.k.shape[1])
        return replace(
            self,
            heads=(self.heads[place],),
            q=self.q[:, place : place + 1],
            k=self.k[:, here : here + 1],
            v=self.v[:, here : here + 1],
            spec=of_heads(self.spec, [place]),
        )


def each_layer(
    source: Any,
    inputs: Any,
    tower: str,
    receive: Callable[[Layer], None],
    *,
    layers: str | None = None,
    reverse: bool = False,
) -> dict[str, str]:
    """Hand on the layers of a record, or of a model while it runs once on the inputs.

    Args:
        source: a record that kept q, k and v, or a model as `probe.capture` takes it.
        inputs: what the model gets; None with a record.
        tower: which tower.
        receive: called with each layer; of a record one layer is in memory at a time.
        layers: numbers joined by commas; None for all.
        reverse: last layer first; a model's layers are held until it has run.

    Returns:
        Attributes of the result: model and trace.

    Raises:
        InputError: neither record nor model; inputs with a record, or none with a model; a layer that is not there.
        RecordError: the record kept nothing of the tower.
        ModelError: a model that cannot be heard, or whose q and k cannot be had.
    """
    wanted = _numbers(layers)
    if isinstance(source, xr.DataTree):
        if inputs is not None:
            raise InputError("inputs: got some with a record, expected None; the record has its own")
        _of_record(source, tower, receive, wanted, reverse)
        return origin_of(source)
    if inputs is None:
        raise InputError(
            "inputs: got none, expected a text or prepared inputs with a model; or give a record that kept q, k and v "
            "(probe.capture(…, keep='qkv'))"
        )
    held: list[Layer] = []
    name = _of_model(source, inputs, tower, held.append if reverse else receive, wanted)
    for layer in reversed(held):
        receive(layer)
    return {"model": name, "trace": "none: the model was run"}


def pieces(places: xr.Dataset | None, sample: int, count: int) -> "list[str]":
    """The texts of the places of one sample; their numbers where there is no text."""
    texts = [] if places is None or "text" not in places else [str(t) for t in places["text"].values[sample]]
    return [text if text else str(i) for i, text in enumerate(texts or [""] * count)]


def _numbers(layers: str | None) -> set[int] | None:
    if layers is None:
        return None
    try:
        return {int(part) for part in layers.split(",")}
    except ValueError:
        raise InputError(
            f"layers: got {layers!r}, expected numbers joined by commas such as 0,5,11"
        ) from None


def _of_record(
    trace: xr.DataTree, tower: str, receive: Callable[[Layer], None], wanted: set[int] | None, reverse: bool
) -> None:
    from probe.deepzoom.zoom import kept_layers

    there = kept_layers(trace, tower)
    if not there:
        raise RecordError(f"the record kept no q, k and v of /{tower}: capture again with keep='qkv'")
    _check_layers(wanted, there)
    chosen = [n for n in there if wanted is None or n in wanted]
    for number in reversed(chosen) if reverse else chosen:
        receive(_kept(trace, tower, number))


def _kept(trace: xr.DataTree, tower: str, number: int) -> Layer:
    from probe.deepzoom.kept import rules_of, tensor
    from probe.record import positions

    data = trace.children["qkv"].children[tower].children[str(number)].to_dataset(inherit=False)
    q, k, v = (tensor(data[name].variable) for name in ("q", "k", "v"))
    of = data["key_head_of"].values
    group = q.shape[1] // k.shape[1]
    if q.shape[1] % k.shape[1] or (of != np.arange(q.shape[1]) // group).any():
        k, v = k[:, of], v[:, of]  # an uneven choice of heads: each with its own keys
    statistics = trace[tower].to_dataset() if tower in trace.children else xr.Dataset()
    module = ""
    if "module" in statistics.coords:
        module = str(statistics["module"].sel(layer=number).item())
    sides = [
        positions(trace, tower, side) if tower in trace.children else None for side in ("queries", "keys")
    ]
    heads = tuple(int(h) for h in data["head"].values)
    return Layer(number, module, heads, q, k, v, rules_of(data), sides[0], sides[1])


def _of_model(
    model: Any, inputs: Any, tower: str, receive: Callable[[Layer], None], wanted: set[int] | None
) -> str:
    import torch

    from probe import placement
    from probe._facts import facts
    from probe._inputs import device_of, parts, prepare, run
    from probe.call import AttentionCall
    from probe.taps import tap_of

    module, tokenizer = _parts(model, parts)
    placement.ready(module)
    device = device_of(module)
    prepared = prepare(inputs, module, tokenizer, device)
    seen: list[int] = []

    def hear(call: Any) -> None:
        if call.stream != tower:
            return
        if not isinstance(call, AttentionCall):
            raise ModelError(f"{call.name}: its q and k cannot be had ({call.source})")
        seen.append(call.layer)
        if wanted is None or call.layer in wanted:
            groups = [prepared.positions.get(name) for name in (call.queries, call.keys)]
            sides = [None if group is None else group.dataset for group in groups]
            heads = tuple(range(call.q.shape[1]))
            receive(
                Layer(
                    call.layer, call.name, heads, call.q, call.k, call.v, call.spec, sides[0], sides[1], call
                )
            )

    padded = {n: p.valid for n, p in prepared.positions.items() if not bool(p.valid.all())}
    with tap_of(module, hear, valid=padded.get if prepared.positions else None), torch.no_grad():
        run(module, prepared.inputs)
    if not seen:
        raise InputError(f"tower: the model has no attention in a tower {tower!r} on these inputs")
    _check_layers(wanted, seen)
    return str(facts(model, module, device)["model"])


def _parts(model: Any, parts: Callable[[Any], "tuple[torch.nn.Module, Any | None]"]) -> Any:
    try:
        return parts(model)
    except InputError:
        raise InputError(
            f"expected a record (probe.capture or probe.open_record) or a model, got {type(model).__name__}"
        ) from None


def _check_layers(wanted: set[int] | None, there: list[int]) -> None:
    absent = sorted((wanted or set()) - set(there))
    if absent:
        raise InputError(
            f"layers: got {', '.join(map(str, absent))}, expected some of {', '.join(map(str, sorted(set(there))))}"
        )
