"""One sweep over the map in plain torch: all row statistics and the column mass from the same probabilities.

A chunk holds whole rows, so a row's normaliser is known at once and the column mass needs no second pass. This is the slow
twin of the Triton kernels and the way on a CPU.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import FLOOR, Chunk, chunks, compute_dtype

ROW_STATISTICS = (
    "lse",
    "entropy",
    "effective_keys",
    "max_prob",
    "max_key",
    "distance",
    "second_moment",
    "key_mass",
)


def sweep(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    names: tuple[str, ...],
    weights: Float[Tensor, "B H Nq"] | None = None,
    x: Float[Tensor, "B Hx Nk C"] | None = None,
    key_sets: Bool[Tensor, "B Hs Nk S"] | None = None,
) -> dict[str, Tensor]:
    """Compute the row statistics in `names`, and "received" if it is among them, in one sweep over q·kᵀ.

    With `x` also "applied" A·x [B, H, Nq, C], with `key_sets` also "set_mass" [B, H, Nq, S].

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
    products = {"applied": x, "set_mass": key_sets}
    for name, columns in products.items():
        if columns is not None:
            out[name] = torch.empty(*q.shape[:3], columns.shape[3], dtype=dtype, device=q.device)
    memory: Tensor | None = None
    for chunk in chunks(q, k, spec):
        if memory is None or memory.numel() < chunk.scores.numel():
            memory = torch.empty_like(chunk.scores).flatten()
        p = memory[: chunk.scores.numel()].view_as(chunk.scores)
        place = (chunk.sample, chunk.heads, chunk.rows)
        rows = _row_statistics(chunk, p, spec, tuple(out))
        for name, values in rows.items():
            if name in out:
                out[name][place] = values.to(out[name].dtype)
        for name, columns in products.items():
            if columns is not None:
                of_heads = _of_heads(columns, chunk, heads).to(dtype)
                out[name][place] = rows["key_mass"][..., None] * torch.matmul(p, of_heads)
        if received is not None:
            weight = _weight(rows["key_mass"], spec, place, weights)
            received[chunk.sample, chunk.heads, chunk.keys] += torch.bmm(weight[:, None, :], p)[:, 0]
    if received is not None:
        out["received"] = received
    return absent(out, spec)


def _of_heads(columns: Tensor, chunk: Chunk, heads: int) -> Tensor:
    """The columns [1 or G, keys, C] that belong to the query heads of a chunk."""
    group = heads // columns.shape[1]
    first, last = chunk.heads.start // group, (chunk.heads.stop - 1) // group + 1
    of_heads = columns[chunk.sample, first:last, chunk.keys]
    return (
        of_heads
        if last - first == 1
        else of_heads.repeat_interleave((chunk.heads.stop - chunk.heads.start) // (last - first), 0)
    )


def _weight(
    key_mass: Float[Tensor, "G rows"],
    spec: ScoreSpec,
    place: tuple[int, slice, slice],
    weights: Float[Tensor, "B H Nq"] | None,
) -> Float[Tensor, "G rows"]:
    """What a row of probabilities that sum to 1 counts: its mass on keys, weighted, and nothing for padding."""
    weight = key_mass
    if weights is not None:
        weight = weight * weights[place].to(weight.dtype)
    if spec.query_valid is not None:
        weight = weight * spec.query_valid[place[0], place[2]]
    return weight


def _row_statistics(
    chunk: Chunk, p: Float[Tensor, "G rows keys"], spec: ScoreSpec, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Row statistics of a chunk, the mass on keys among them; `p` becomes the softmax over the keys, without the sink.

    Scores are taken relative to the row's maximum before they are multiplied with probabilities, so that large logits cost
    the entropy no digits: H = ln Z - Σ p·(s - max); and Z is read off the largest probability, exp(0) / Z. A sink logit then
    scales all probabilities by the mass m that it leaves to the keys: H becomes m·(H - ln m).
    """
    scores = chunk.scores
    nothing = scores.new_full(scores.shape[:2], FLOOR)
    top = torch.amax(scores, -1) if scores.shape[-1] else nothing
    seen = ~(top <= FLOOR)
    scores -= torch.where(seen, top, 0.0)[..., None]
    torch.softmax(scores, -1, out=p)
    peak = p.amax(-1) if scores.shape[-1] else torch.ones_like(top)
    log_keys = log_total = -peak.log()
    if spec.sink is not None:
        log_total = torch.logaddexp(log_keys, spec.sink[chunk.heads, None].to(p.dtype) - top)
    log_mass = log_keys - log_total
    mass = log_mass.exp()
    rows = {"key_mass": mass}
    if "max_key" in names:
        best = scores.argmax(-1) if scores.shape[-1] else torch.zeros_like(top, dtype=torch.int64)
        rows["max_key"] = best + chunk.keys.start
    if "max_prob" in names:
        rows["max_prob"] = mass * peak
    if "entropy" in names or "effective_keys" in names:
        rows["entropy"] = mass * (log_keys - torch.mul(p, scores, out=scores).sum(-1) - log_mass)
        rows["effective_keys"] = rows["entropy"].exp()
    if "second_moment" in names:
        rows["second_moment"] = mass.square() * torch.mul(p, p, out=scores).sum(-1)
    if "distance" in names:
        i = torch.arange(chunk.rows.start, chunk.rows.stop, device=p.device)[:, None] + spec.offset
        away = (torch.arange(chunk.keys.start, chunk.keys.stop, device=p.device) - i).abs().to(p.dtype)
        rows["distance"] = mass * torch.mul(p, away, out=scores).sum(-1)
    rows = {n: torch.where(seen, values, -1 if n == "max_key" else 0) for n, values in rows.items()}
    if "lse" in names:
        nobody = nothing.fill_(-torch.inf) if spec.sink is None else spec.sink[chunk.heads, None].to(p.dtype)
        rows["lse"] = torch.where(seen, top + log_total, nobody)
    return rows


def absent(statistics: dict[str, Tensor], spec: ScoreSpec) -> dict[str, Tensor]:
    """Mark the positions that are padding: NaN, or -1 for key numbers."""
    for name, values in statistics.items():
        valid = spec.key_valid if name == "received" else spec.query_valid
        if valid is not None:
            there = valid[:, None, :] if values.ndim == 3 else valid[:, None, :, None]
            values.masked_fill_(~there, float("nan") if values.is_floating_point() else -1)
    return statistics
