"""One sweep over the map in plain torch: all row statistics and the column mass from the same probabilities.

A chunk holds whole rows, so a row's normaliser is known at once and the column mass needs no second pass. This is the slow
twin of the Triton kernels and the way on a CPU.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import FLOOR, Chunk, chunks, compute_dtype

ROW_STATISTICS = ("lse", "entropy", "max_prob", "max_key", "distance", "second_moment", "key_mass")


def sweep(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    names: tuple[str, ...],
    weights: Float[Tensor, "B H Nq"] | None = None,
) -> dict[str, Tensor]:
    """Compute the row statistics in `names`, and "received" if it is among them, in one sweep over q·kᵀ.

    Returns:
        Row statistics [B, H, Nq]; "received" [B, H, Nk], the mass Σ_i w_i A_ij over valid queries (w = 1 without `weights`).
        float32 (float64 for float64 input); "max_key" int64. NaN (max_key -1) where the position is padding.
    """
    batch, heads, n_queries, n_keys = *q.shape[:3], k.shape[2]
    dtype = compute_dtype(q)
    out: dict[str, Tensor] = {
        name: torch.empty(
            batch, heads, n_queries, dtype=torch.int64 if name == "max_key" else dtype, device=q.device
        )
        for name in names
        if name != "received"
    }
    received = (
        torch.zeros(batch, heads, n_keys, dtype=dtype, device=q.device) if "received" in names else None
    )
    for chunk in chunks(q, k, spec):
        place = (chunk.sample, chunk.heads, chunk.rows)
        rows, unnormalised, total = _row_statistics(chunk, spec, tuple(out))
        for name, values in rows.items():
            out[name][place] = values.to(out[name].dtype)
        if received is not None:
            weight = _weight(total, spec, place, weights)
            part = torch.bmm(weight[:, None, :], unnormalised)[:, 0]
            received[chunk.sample, chunk.heads, chunk.keys] += part
    if received is not None:
        out["received"] = received
    return absent(out, spec)


def _weight(
    total: Float[Tensor, "G rows"],
    spec: ScoreSpec,
    place: tuple[int, slice, slice],
    weights: Float[Tensor, "B H Nq"] | None,
) -> Float[Tensor, "G rows"]:
    """What a row of unnormalised probabilities counts: w / Z, nothing for padding and for rows that see no key."""
    weight = torch.where(total > 0, 1 / total, 0)
    if weights is not None:
        weight = weight * weights[place].to(total.dtype)
    if spec.query_valid is not None:
        weight = weight * spec.query_valid[place[0], place[2]]
    return weight


def _row_statistics(
    chunk: Chunk, spec: ScoreSpec, names: tuple[str, ...]
) -> tuple[dict[str, Tensor], Float[Tensor, "G rows keys"], Float[Tensor, "G rows"]]:
    """Row statistics of a chunk, exp(score - max) and its row sums with the sink; the chunk's scores are overwritten.

    Scores are taken relative to the row's maximum before they are multiplied with probabilities, so that large logits cost
    the entropy no digits: H = ln Z · Σp - Σ p·(s - max).
    """
    scores = chunk.scores
    top = torch.amax(scores, -1) if scores.shape[-1] else scores.new_full(scores.shape[:2], FLOOR)
    seen = top > FLOOR
    sink = None if spec.sink is None else spec.sink[chunk.heads, None].to(scores.dtype)
    shift = torch.where(seen, top, 0.0)
    if sink is not None:
        shift = torch.maximum(torch.where(seen, top, sink), sink)
    scores -= shift[..., None]
    p = scores.exp()
    keys_total = p.sum(-1)
    total = keys_total if sink is None else keys_total + (sink - shift).exp()
    log_total = total.log()
    share = torch.where(total > 0, keys_total / total, 0)
    rows: dict[str, Tensor] = {}
    if "lse" in names:
        rows["lse"] = shift + log_total
    if "entropy" in names:
        rows["entropy"] = torch.where(seen, share * log_total - torch.linalg.vecdot(p, scores) / total, 0)
    if "key_mass" in names:
        rows["key_mass"] = share
    if "max_prob" in names:
        rows["max_prob"] = torch.where(seen, (top - shift - log_total).exp(), 0)
    if "max_key" in names:
        best = (
            scores.argmax(-1) + chunk.keys.start
            if scores.shape[-1]
            else torch.zeros_like(top, dtype=torch.int64)
        )
        rows["max_key"] = torch.where(seen, best, -1)
    if "second_moment" in names:
        rows["second_moment"] = torch.where(seen, torch.linalg.vecdot(p, p) / total.square(), 0)
    if "distance" in names:
        i = torch.arange(chunk.rows.start, chunk.rows.stop, device=p.device)[:, None] + spec.offset
        away = (torch.arange(chunk.keys.start, chunk.keys.stop, device=p.device) - i).abs().to(p.dtype)
        rows["distance"] = torch.where(seen, torch.linalg.vecdot(p, away) / total, 0)
    return rows, p, total


def absent(statistics: dict[str, Tensor], spec: ScoreSpec) -> dict[str, Tensor]:
    """Mark the positions that are padding: NaN, or -1 for key numbers."""
    for name, values in statistics.items():
        valid = spec.key_valid if name == "received" else spec.query_valid
        if valid is not None:
            values.masked_fill_(~valid[:, None, :], float("nan") if values.is_floating_point() else -1)
    return statistics
