"""Which pairs of a query and a key a kind of head looks at, as lists in pieces of bounded length."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from probe.explainers.layers import Layer
from probe.explainers.reading import Ints

if TYPE_CHECKING:
    from torch import Tensor

Pairs = Iterator[tuple[Ints, Ints]]
#: Pairs of a piece.
PIECE = 1 << 20


def at_offset(places: Ints, offset: int) -> Pairs:
    """Each token, and the one `offset` places before it (after it, if negative).

    Args:
        places: positions that are no padding, in order.
        offset: 1 for the token before.
    """
    shift = abs(offset)
    early, late = places[: len(places) - shift], places[shift:]
    yield (late, early) if offset >= 0 else (early, late)


def copies(places: Ints, ids: Ints, after: int, *, causal: bool) -> Pairs:
    """Each token, and the keys `after` places behind other copies of it: 0 for the copies themselves, 1 for what followed them.

    Args:
        places: positions that are no padding, in order.
        ids: the token at each of them.
        after: 0 for duplicate-token heads, 1 for induction heads.
        causal: earlier copies alone.
    """
    order = np.argsort(ids, kind="stable")
    edges = np.flatnonzero(np.diff(ids[order])) + 1
    held: list[tuple[Ints, Ints]] = []
    for group in np.split(order, edges):
        step = max(1, PIECE // len(group))
        for first in range(0, len(group) if len(group) > 1 else 0, step):
            row, copy = (x.ravel() for x in np.meshgrid(group[first : first + step], group, indexing="ij"))
            key = copy + after
            kept = (copy != row) & (key != row) & (key < len(places))
            if causal:
                kept &= key < row
            held.append((places[row[kept]], places[key[kept]]))
            if sum(len(rows) for rows, _ in held) >= PIECE:
                yield _joined(held)
                held = []
    if held:
        yield _joined(held)


def _joined(held: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    rows, keys = zip(*held, strict=True)
    return np.concatenate(rows), np.concatenate(keys)


def mass_of(layer: Layer, pairs: Pairs) -> "tuple[Tensor, Tensor]":
    """What each row gives to its keys among the pairs, and how many of these it sees; one sample.

    Returns:
        mass [H, N] and count [N], float64.
    """
    import torch

    from probe.kernels.pairs import pair_weights
    from probe.kernels.visible import visible_pairs

    heads, n = layer.q.shape[1], layer.q.shape[2]
    mass = torch.zeros(heads, n, dtype=torch.float64, device=layer.q.device)
    count = torch.zeros(n, dtype=torch.float64, device=layer.q.device)
    for pair in pairs:
        rows, keys = (torch.from_numpy(np.ascontiguousarray(x)).to(layer.q.device) for x in pair)
        if not len(rows):
            continue
        weights = pair_weights(layer.q, layer.k, layer.spec, layer.lse, rows, keys)
        mass.index_add_(1, rows, weights.double())
        count.index_add_(0, rows, visible_pairs(layer.spec, 0, rows, keys).double())
    return mass, count
