"""What `keep="qkv"` stores of a layer: q, k, v, log-sum-exps and rules, enough to compute any part of the map again.

One group per layer, `/qkv/<stream>/<layer>`: q (sample, head, query, channel), lse (sample, head, query), k (sample, key_head,
key, channel), v (sample, key_head, key, value_channel) in the model's own dtype, the heads as coordinates, `key_head_of` (head)
which key head each of them reads, the rules as attribute `rules` (their numbers, as JSON) and variables `rule_<name>` (their
tensors). bfloat16 is stored as the uint16 of its bits, with the attribute `stored_as`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.deepzoom.pyramid import FINEST, LIVE, Pyramid
from probe.deepzoom.pyramid_build import build_pyramid
from probe.errors import InputError, RecordError
from probe.kernels.heads import check_heads, of_heads
from probe.kernels.score import ScoreSpec

Array = np.ndarray[Any, Any]

#: Dimensions of the tensors of a `ScoreSpec`.
_RULES = {
    "origin": ("sample",),
    "groups": ("sample", "position"),
    "documents": ("sample", "position"),
    "slopes": ("head",),
    "distance_bias": ("head", "distance"),
    "sink": ("head",),
    "key_valid": ("sample", "key"),
    "query_valid": ("sample", "query"),
}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Kept:
    """Queries, keys and values of some heads of one layer.

    Attributes:
        q: queries as the scores use them.
        k: the key heads that these query heads read, not repeated.
        v: their values.
        lse: log-sum-exp of every row, in natural units.
        heads: numbers of the query heads.
        key_heads: numbers of the key heads.
        key_head_of: for each query head, the place of its key head in k.
        spec: the rules, of these heads alone.
        pyramid: the pooled maps; None where none were built.
    """

    q: Float[Tensor, "B n Nq D"]
    k: Float[Tensor, "B m Nk D"]
    v: Float[Tensor, "B m Nk Dv"]
    lse: Float[Tensor, "B n Nq"]
    heads: tuple[int, ...]
    key_heads: tuple[int, ...]
    key_head_of: tuple[int, ...]
    spec: ScoreSpec
    pyramid: Pyramid | None = None

    @classmethod
    def of(
        cls,
        q: Float[Tensor, "B H Nq D"],
        k: Float[Tensor, "B Hkv Nk D"],
        v: Float[Tensor, "B Hkv Nk Dv"],
        lse: Float[Tensor, "B H Nq"],
        spec: ScoreSpec,
        heads: Sequence[int] | None = None,
    ) -> "Kept":
        """Choose heads of a call; nothing is computed.

        Args:
            q: queries of all heads.
            k: keys of all key heads.
            v: values of all key heads.
            lse: log-sum-exp of every row, from `row_stats` under the same rules.
            spec: the rules.
            heads: numbers of the query heads; None for all.

        Raises:
            InputError: a number that is no head.
        """
        try:
            chosen = check_heads(heads, q.shape[1])
        except ValueError as error:
            raise InputError(str(error)) from error
        group = q.shape[1] // k.shape[1]
        key_heads = tuple(sorted({head // group for head in chosen}))
        return cls(
            q[:, list(chosen)], k[:, list(key_heads)], v[:, list(key_heads)], lse[:, list(chosen)], chosen, key_heads,
            tuple(key_heads.index(head // group) for head in chosen), of_heads(spec, list(chosen)),
        )  # fmt: skip

    @property
    def large(self) -> bool:
        """Whether a view of the whole map takes too long without pooled maps."""
        return self.q.shape[2] * self.k.shape[2] > LIVE

    def with_pyramid(
        self, implementation: str = "auto", *, finest: int = FINEST, reduce: Sequence[str] = ("mean",)
    ) -> "Kept":
        """The same with its pooled maps, built on the device of q, see `probe.zoom.build_pyramid`.

        Their tiles are held on the host until they are written: 2·(4/3)·(N / finest)² bytes per head, sample and reduction.
        """
        parts = [
            build_pyramid(q, k, spec, lse, implementation, finest=finest, reduce=reduce)
            for q, k, lse, spec in map(self.head, range(len(self.heads)))
        ]
        maps = {name: np.concatenate([part.maps[name] for part in parts], axis=1) for name in reduce}
        return replace(self, pyramid=Pyramid(parts[0].levels, maps))

    def head(self, at: int) -> tuple[Tensor, Tensor, Tensor, ScoreSpec]:
        """What belongs to the head at this place: q [B, 1, Nq, D], k [B, 1, Nk, D], lse [B, 1, Nq] and its rules."""
        here = self.key_head_of[at]
        return (
            self.q[:, at : at + 1],
            self.k[:, here : here + 1],
            self.lse[:, at : at + 1],
            of_heads(self.spec, [at]),
        )

    def dataset(self, keep_bits: int | None = None) -> xr.Dataset:
        """The group of the record.

        Args:
            keep_bits: bits of the mantissa that the pooled maps keep; None for all. q, k, v and lse are never rounded.
        """
        dims = {
            "q": ("sample", "head", "query", "channel"), "k": ("sample", "key_head", "key", "channel"),
            "v": ("sample", "key_head", "key", "value_channel"), "lse": ("sample", "head", "query"),
        }  # fmt: skip
        variables = {name: _variable(getattr(self, name), along) for name, along in dims.items()}
        variables["key_head_of"] = xr.Variable(("head",), np.array(self.key_head_of, dtype=np.int64))
        numbers: dict[str, Any] = {}
        for rule in fields(self.spec):
            value = getattr(self.spec, rule.name)
            if isinstance(value, Tensor):
                variables[f"rule_{rule.name}"] = _variable(value.clone(), _RULES[rule.name])
            else:
                numbers[rule.name] = value
        attrs: dict[str, Any] = {"rules": json.dumps(numbers)}
        if self.pyramid is not None:
            stored, told = self.pyramid.variables(keep_bits)
            variables |= stored
            attrs |= told
        coords = {"head": np.array(self.heads), "key_head": np.array(self.key_heads)}
        return xr.Dataset(variables, coords=coords, attrs=attrs)


def rules_of(dataset: xr.Dataset) -> ScoreSpec:
    """The rules of a kept layer, as they were when it was captured: of its heads, on the CPU.

    Args:
        dataset: a group `/qkv/<stream>/<layer>`.

    Raises:
        RecordError: the group names no rules, or one that this version does not know.
    """
    try:
        rules: dict[str, Any] = json.loads(dataset.attrs["rules"])
        rules |= {
            str(name).removeprefix("rule_"): tensor(dataset[name].variable)
            for name in dataset.data_vars
            if str(name).startswith("rule_")
        }
        return ScoreSpec(**rules)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"the rules of a kept layer cannot be read: {error}") from error


def tensor(variable: xr.Variable) -> Tensor:
    """A variable of a kept layer as a tensor of the dtype that it had."""
    values = np.array(variable.values)  # a copy: what is read may be the record's own, in memory
    found = torch.from_numpy(values)
    return found.view(torch.bfloat16) if variable.attrs.get("stored_as") == "bfloat16" else found


def _variable(x: Tensor, dims: tuple[str, ...]) -> xr.Variable:
    x = x.detach().cpu().contiguous()
    attrs = {"stored_as": "bfloat16"} if x.dtype == torch.bfloat16 else {}
    values: Array = (x.view(torch.uint16) if attrs else x).numpy()
    variable = xr.Variable(dims, values, attrs)
    if len(dims) >= 3 and "head" in dims[1]:  # a view reads few positions of one head
        width = values[0, 0, 0].nbytes if values.ndim == 4 else values.itemsize
        rows = min(values.shape[2], max(1, _CHUNK_BYTES // max(1, width)))
        variable.encoding["chunks"] = (1, 1, rows, *values.shape[3:])
    return variable
