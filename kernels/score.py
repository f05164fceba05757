"""What a score is: the one description of an attention map that every kernel reads.

For query row r and key j, with i = r + offset the position of the query among the keys::

    score(i, j)   = softcap(scale · q_r·k_j) + slope · (j - i) + table[clamp(j - i, -R, R) + R]
    visible(i, j) = j is valid and of i's document, and (causal, window and chunk allow it, or i and j are of one group)
    A(i, j)       = exp(score(i, j) - lse(i)),   lse(i) = ln(Σ_visible exp(score(i, j)) [+ exp(sink)])

The map A is never formed. Shapes: B samples, H query heads, Hkv key heads (H a multiple of Hkv), Nq queries, Nk keys.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HEAD_SIZES = (1, 256)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class ScoreSpec:
    """The rules of one attention call; everything per token is O(N), nothing is N×N.

    Attributes:
        scale: factor on q·k.
        causal: key j is visible only if j ≤ i.
        offset: index of query 0 among the keys (decoding with a cache: n_keys - n_queries).
        before: None if k holds all keys. Else k is a slice of them (a page of a cache, a shard) and `before` keys lie before
            it: `offset` counts from key 0 of the slice and may be negative, queries may stand outside of the slice, and
            `origin`, `groups` and `documents` count and cover all positions (`merge.for_keys` cuts a spec so).
        window: key j is visible only if |i - j| < window.
        chunk: key j is visible only if i and j lie in the same chunk of this many positions, counted from `origin`.
        origin: position at which chunks start to count, per sample (left padding); 0 if absent.
        groups: a group number per position, -1 for none; positions of one group see each other whatever causality, window
            and chunk say (prefix language models, image blocks).
        documents: a document number per position, never falling; positions of different documents do not see each other
            (packed batches; `documents_of` makes it from cumulative lengths).
        softcap: scores become cap·tanh(score / cap) (Gemma 2).
        slopes: ALiBi slope per head (Press et al. 2022).
        distance_bias: learned bias per head and clamped distance j - i from -R to R (T5 buckets, written out).
        sink: an extra logit per head that takes mass and has no value (gpt-oss).
        key_valid: False where a key is padding.
        query_valid: False where a query is padding; its statistics are absent (NaN), and it gives no mass.
    """

    scale: float
    causal: bool = False
    offset: int = 0
    before: int | None = None
    window: int | None = None
    chunk: int | None = None
    origin: Int[Tensor, "B"] | None = None
    groups: Int[Tensor, "B Nk"] | None = None
    documents: Int[Tensor, "B Nk"] | None = None
    softcap: float | None = None
    slopes: Float[Tensor, "H"] | None = None
    distance_bias: Float[Tensor, "H R2"] | None = None
    sink: Float[Tensor, "H"] | None = None
    key_valid: Bool[Tensor, "B Nk"] | None = None
    query_valid: Bool[Tensor, "B Nq"] | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that have no meaning; shapes are checked against q and k by `check`."""
        for name in ("window", "chunk"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(
                    f"ScoreSpec.{name}: got {size}, expected a positive number of positions, or None"
                )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"ScoreSpec.softcap: got {self.softcap}, expected a positive number, or None")
        if self.chunk is not None and self.documents is not None:
            raise ValueError(
                "ScoreSpec.documents: got documents and chunk together, expected one of them (where chunks start in a document "
                "is not said); give the documents one at a time"
            )
        if self.before is not None and (self.before < 0 or self.before + self.offset < 0):
            raise ValueError(
                f"ScoreSpec.before: got {self.before} with offset {self.offset}, expected the number of keys before "
                "the slice, and query 0 at position before + offset, at least 0"
            )
        if self.before is None and self.offset < 0:
            raise ValueError(
                f"ScoreSpec.offset: got {self.offset}, expected the key index of query 0, at least 0"
            )
        if self.distance_bias is not None and self.distance_bias.shape[-1] % 2 == 0:
            raise ValueError(
                f"ScoreSpec.distance_bias: got {self.distance_bias.shape[-1]} distances, expected the odd number 2R+1"
            )

    def to(self, device: torch.device | str) -> "ScoreSpec":
        """The same rules with every tensor on `device`."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device)
        return replace(self, **moved)


def check(q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"], spec: ScoreSpec) -> None:
    """Check one call at the border.

    Raises:
        ValueError: a shape or dtype does not fit; the message names the argument, what came and what was expected.
    """
    for name, x in (("q", q), ("k", k)):
        if x.ndim != 4:
            raise ValueError(
                f"{name}: got shape {tuple(x.shape)}, expected 4 dimensions [batch, heads, tokens, head size]"
            )
        if x.dtype not in DTYPES:
            raise ValueError(f"{name}: got dtype {x.dtype}, expected one of {', '.join(map(str, DTYPES))}")
    batch, heads, n_queries, size = q.shape
    if k.shape[0] != batch or k.shape[3] != size or heads % k.shape[1]:
        raise ValueError(
            f"k: got shape {tuple(k.shape)}, expected [{batch}, a divisor of {heads}, any, {size}] to fit q {tuple(q.shape)}"
        )
    if q.dtype != k.dtype or q.device != k.device:
        raise ValueError(f"k: got {k.dtype} on {k.device}, expected {q.dtype} on {q.device} as q")
    if not HEAD_SIZES[0] <= size <= HEAD_SIZES[1]:
        raise ValueError(f"q: got head size {size}, expected {HEAD_SIZES[0]} to {HEAD_SIZES[1]}")
    if n_queries < 1 or k.shape[2] < 1:
        raise ValueError(f"got {n_queries} queries and {k.shape[2]} keys, expected at least one of each")
    if spec.causal and spec.before is None and spec.offset + n_queries > k.shape[2]:
        raise ValueError(
            f"ScoreSpec.offset: got {spec.offset} with {n_queries} queries and {k.shape[2]} keys, "
            "expected every query of a causal map to stand at a key"
        )
    _check_tensors(spec, batch, heads, n_queries, k.shape[2], q.device)


def _check_tensors(
    spec: ScoreSpec, batch: int, heads: int, n_queries: int, n_keys: int, device: torch.device
) -> None:
    positions = n_keys if spec.before is None else None
    expected: dict[str, tuple[int | None, ...]] = {
        "origin": (batch,),
        "groups": (batch, positions),
        "documents": (batch, positions),
        "slopes": (heads,),
        "distance_bias": (heads, None),
        "sink": (heads,),
        "key_valid": (batch, n_keys),
        "query_valid": (batch, n_queries),
    }
    for name, shape in expected.items():
        tensor = getattr(spec, name)
        if tensor is None:
            continue
        fits = tensor.ndim == len(shape) and all(
            want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            want = ", ".join("any" if n is None else str(n) for n in shape)
            raise ValueError(f"ScoreSpec.{name}: got shape {tuple(tensor.shape)}, expected [{want}]")
        if name.endswith("_valid") and tensor.dtype != torch.bool:
            raise ValueError(f"ScoreSpec.{name}: got dtype {tensor.dtype}, expected torch.bool")
        if name in ("origin", "groups", "documents") and (
            tensor.is_floating_point() or tensor.dtype == torch.bool
        ):
            raise ValueError(f"ScoreSpec.{name}: got dtype {tensor.dtype}, expected integers")
        if tensor.device != device:
            raise ValueError(
                f"ScoreSpec.{name}: got a tensor on {tensor.device}, expected {device} as q (ScoreSpec.to)"
            )
    for name in ("groups", "documents"):
        numbers, before = getattr(spec, name), spec.before or 0
        if numbers is not None and before + max(n_keys, spec.offset + n_queries) > numbers.shape[1]:
            raise ValueError(
                f"ScoreSpec.{name}: got {numbers.shape[1]} positions, {n_queries} queries at offset {spec.offset} and {n_keys} "
                f"keys with {before} before them, expected every query to stand at a key"
            )
    if spec.documents is not None and bool((spec.documents.diff(dim=1) < 0).any()):
        raise ValueError(
            "ScoreSpec.documents: got numbers that fall, expected 0, …, 0, 1, …, 1, 2, … along the positions"
        )


def documents_of(lengths: Int[Tensor, "S1"], n_keys: int) -> Int[Tensor, "1 Nk"]:
    """The documents of one packed row from its cumulative lengths, as flash attention's `cu_seqlens` gives them.

    Raises:
        ValueError: the lengths do not rise from 0 to `n_keys`.
    """
    if (
        lengths.ndim != 1
        or len(lengths) < 2
        or lengths[0] != 0
        or lengths[-1] != n_keys
        or (lengths.diff() < 0).any()
    ):
        raise ValueError(
            f"lengths: got {lengths.tolist()}, expected cumulative lengths that rise from 0 to {n_keys}"
        )
    return torch.repeat_interleave(torch.arange(len(lengths) - 1, device=lengths.device), lengths.diff())[
        None
    ]
