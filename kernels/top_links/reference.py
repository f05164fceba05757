"""The strongest keys in plain torch, chunk by chunk, with an order that `torch.topk` does not promise."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import FLOOR, chunks, compute_dtype


def top_links(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"] | None,
    links: int,
) -> tuple[Int[Tensor, "B H Nq L"], Float[Tensor, "B H Nq L"]]:
    """See `probe.kernels.top_links.top_links`; padding is not marked here."""
    dtype = compute_dtype(q)
    keys = torch.full((*q.shape[:3], links), -1, dtype=torch.int64, device=q.device)
    probs = torch.zeros(*q.shape[:3], links, dtype=dtype, device=q.device)
    for chunk in chunks(q, k, spec):
        kept = min(links, chunk.scores.shape[-1])
        if not kept:
            continue
        scores, at = strongest(chunk.scores, kept)
        place = (chunk.sample, chunk.heads, chunk.rows)
        seen = scores > FLOOR
        if lse is None:
            top = torch.where(seen[..., :1], scores[..., :1], 0.0)
            sink = None if spec.sink is None else spec.sink[chunk.heads, None, None].to(dtype)
            shift = top if sink is None else torch.maximum(torch.where(seen[..., :1], top, sink), sink)
            total = chunk.scores.sub_(shift).exp_().sum(-1, keepdim=True)
            if sink is not None:
                total = total + (sink - shift).exp()
            weight = (scores - shift).exp() / total
        else:
            weight = (scores - lse[place][..., None].to(dtype)).exp()
        keys[(*place, slice(kept))] = torch.where(seen, at + chunk.keys.start, -1)
        probs[(*place, slice(kept))] = torch.where(seen, weight, 0.0)
    return keys, probs


def strongest(
    scores: Float[Tensor, "*rows keys"], kept: int
) -> tuple[Float[Tensor, "*rows kept"], Int[Tensor, "*rows kept"]]:
    """The `kept` largest scores of every row and where they are: falling, equal ones by their place.

    `torch.topk` takes any of several equal values. Where the last kept value equals the first one left out, which keys are
    kept is decided again for that row.
    """
    values, at = scores.topk(min(kept + 1, scores.shape[-1]))
    if values.shape[-1] > kept:
        last = values[..., kept - 1]
        torn = (last == values[..., kept]) & (last > FLOOR)
        at = at[..., :kept]
        if torn.any():
            at[torn] = _first_of_equals(scores[torn], last[torn], kept)
    at = at.sort(-1).values
    values, order = scores.gather(-1, at).sort(dim=-1, descending=True, stable=True)
    return values, at.gather(-1, order)


def _first_of_equals(
    scores: Float[Tensor, "n keys"], last: Float[Tensor, "n"], kept: int
) -> Int[Tensor, "n kept"]:
    """All keys above the last value and the first ones at it, `kept` in all, rising."""
    above, equal = scores > last[:, None], scores == last[:, None]
    room = kept - above.sum(-1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(-1) <= room))
    return chosen.nonzero()[:, 1].view(-1, kept)
