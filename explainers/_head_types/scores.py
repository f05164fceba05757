"""Scores of one layer: the mean mass that each head gives to the keys of each kind, and what an even head would give."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.errors import InputError
from probe.explainers._head_types.pairs import at_offset, copies, mass_of
from probe.explainers._rollout.step import uniform_of
from probe.explainers.layers import Layer
from probe.explainers.reading import Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor

#: Kinds of heads. The last two come into question where no other holds: every near head is local, and a head whose kind of key
#: is not there rests on the first token.
KINDS_OF_HEADS = {
    "previous_token": "prev",
    "induction": "ind",
    "duplicate_token": "dup",
    "separator": "sep",
    "offset": "off",
    "first_token": "1st",
    "local": "loc",
}


def scores_of(layer: Layer, sample: int, reach: int, window: int) -> dict[str, Floats]:
    """Scores of one sample, [H] each; NaN where no row has such a key.

    Args:
        layer: one sample of a layer (a batch of one).
        sample: its index among the places.
        reach: largest offset that is looked at.
        window: tokens before a token (and after it, without causality) that are local, itself included.

    Raises:
        InputError: the token ids are not known.
    """
    places, ids, separators = _tokens(layer, sample)
    seen = _keys_seen(layer)
    rows = seen > 1  # a row with one key says nothing
    found: dict[str, Floats] = {}
    for name, after in (("duplicate_token", 0), ("induction", 1)):
        pairs = copies(places, ids, after, causal=layer.spec.causal)
        found |= _means(name, *mass_of(layer, pairs), seen, rows)
    found |= _sets(layer, places, separators, seen, rows)
    found |= _offsets(layer, places, reach, window, seen, rows)
    return found


def _tokens(layer: Layer, sample: int) -> tuple[Ints, Ints, Ints]:
    """Positions that are no padding, their token ids, and which of them separate."""
    valid = layer.valid(0)[1].cpu().numpy()
    places = np.flatnonzero(valid)
    known = layer.keys
    if known is None or "id" not in known or (known["id"].values[sample][places] < 0).any():
        raise InputError(
            "inputs: the ids of the tokens are not known, expected a text or input_ids (induction is told by them)"
        )
    ids = known["id"].values[sample][places].astype(np.int64)
    texts = [str(t) for t in known["text"].values[sample][places]]
    roles = [str(r) for r in known["role"].values[sample][places]]
    marks = [r == "special" or _separates(t) for t, r in zip(texts, roles, strict=True)]
    return places, ids, places[np.array(marks, dtype=bool)]


def _separates(text: str) -> bool:
    """Punctuation alone, or a line break."""
    body = text.strip()
    return ("\n" in text and not body) or (body != "" and not any(c.isalnum() for c in body))


def _keys_seen(layer: Layer) -> Floats:
    from probe.kernels.visible import visible_counts

    counts = visible_counts(layer.spec, 1, layer.q.shape[2], layer.k.shape[2], layer.q.device)[0][0]
    return np.asarray(counts.cpu(), dtype=np.float64)


def _means(name: str, mass: "Tensor", count: "Tensor", seen: Floats, rows: Any) -> dict[str, Floats]:
    """Mean mass over the rows that see such a key, and the mean of an even spread over them."""
    there = np.asarray(count.cpu())
    chosen = rows & (there > 0)
    heads = mass.shape[0]
    if not chosen.any():
        return {name: np.full(heads, np.nan), f"{name}_chance": np.full(heads, np.nan)}
    mean = np.asarray(mass.cpu())[:, chosen].mean(1)
    chance = float((there[chosen] / seen[chosen]).mean())
    return {name: mean, f"{name}_chance": np.full(heads, chance)}


def _sets(layer: Layer, places: Ints, separators: Ints, seen: Floats, rows: Any) -> dict[str, Floats]:
    """The sets of keys that are the same for every row, in one sweep: the first token, and separators behind it."""
    import torch

    from probe.kernels.row_pass import row_stats

    sets = torch.zeros(1, 1, layer.k.shape[2], 2, dtype=torch.bool, device=layer.q.device)
    sets[..., int(places[0]), 0] = True
    behind = torch.from_numpy(separators[separators != places[0]]).to(layer.q.device)
    sets[0, 0, behind, 1] = True
    mass = row_stats(layer.q, layer.k, layer.spec, (), key_sets=sets)["set_mass"][0].double()
    even = uniform_of(layer)
    chance = row_stats(even.q, even.k, even.spec, (), key_sets=sets)["set_mass"][0, 0].double()
    count = (chance.nan_to_num(0.0) * torch.from_numpy(seen).to(chance.device)[:, None]).round()
    found = _means("first_token", mass[..., 0], count[:, 0], seen, rows)
    return found | _means("separator", mass[..., 1], count[:, 1], seen, rows)


def _offsets(
    layer: Layer, places: Ints, reach: int, window: int, seen: Floats, rows: Any
) -> dict[str, Floats]:
    """Diagonals: the token before, the best other offset, and all within the window."""
    import torch

    low = 0 if layer.spec.causal else -max(reach, window - 1)
    offsets = [o for o in range(low, max(reach, window - 1) + 1) if abs(o) < len(places)]
    masses = {o: mass_of(layer, at_offset(places, o)) for o in offsets}
    nothing = torch.zeros_like(masses[0][0]), torch.zeros_like(masses[0][1])
    found = _means("previous_token", *masses.get(1, nothing), seen, rows)
    best = np.full(layer.q.shape[1], -np.inf)
    which, chance = np.full(len(best), np.nan), np.full(len(best), np.nan)
    for o in [o for o in offsets if o not in (0, 1) and abs(o) <= reach]:
        here = _means("offset", *masses[o], seen, rows)
        better = here["offset"] > best  # False where it is NaN
        best = np.where(better, here["offset"], best)
        which, chance = np.where(better, float(o), which), np.where(better, here["offset_chance"], chance)
    found |= {
        "offset": np.where(np.isfinite(best), best, np.nan),
        "offset_chance": chance,
        "offset_of": which,
    }
    near = [masses[o] for o in offsets if abs(o) < window]
    together = sum((m for m, _ in near), nothing[0]), sum((c for _, c in near), nothing[1])
    return found | _means("local", *together, seen, rows)


def kinds_of(table: Mapping[str, Floats], threshold: float, lift: float) -> tuple[Any, Floats]:
    """The kind of every head, "" where none holds, and the score that stands for it.

    Args:
        table: scores and chances, one shape.
        threshold: least score of a kind.
        lift: least ratio to the chance.

    Returns:
        Names of kinds, and the kind's score; where no kind holds the highest of all but the local one.
    """
    names = list(KINDS_OF_HEADS)
    scores = np.stack([np.nan_to_num(table[n], nan=0.0) for n in names])
    chances = np.stack([np.nan_to_num(table[f"{n}_chance"], nan=1.0) for n in names])
    holds = (scores >= threshold) & (scores >= lift * chances)
    specific = np.where(holds[:-2], scores[:-2], -1.0)
    kind = specific.argmax(0)
    for general in (len(names) - 2, len(names) - 1):
        kind = np.where((specific.max(0) < 0) & holds[general] & (kind < len(names) - 2), general, kind)
    kind = np.where(holds.any(0), kind, -1)
    labels = np.array([*names, ""], dtype=object)[kind]
    own = np.take_along_axis(scores, np.maximum(kind, 0)[None], 0)[0]
    return labels, np.where(kind >= 0, own, scores[:-1].max(0))
