"""The attention map written down from its definition, N×N and slow: the truth that kernels are held against.

Uses no code of the library but the ScoreSpec that describes the map.
"""

import math
from dataclasses import replace

import torch

EPS32 = torch.finfo(torch.float32).eps


def mask(spec, batch, n_queries, n_keys):
    """[B, Nq, Nk] bool, entry by entry from the definition in `probe.kernels.score`."""
    i = torch.arange(n_queries)[:, None] + spec.offset
    j = torch.arange(n_keys)[None, :]
    out = torch.zeros(batch, n_queries, n_keys, dtype=torch.bool)
    for b in range(batch):
        seen = torch.ones(n_queries, n_keys, dtype=torch.bool)
        if spec.causal:
            seen = seen & (j <= i)
        if spec.window is not None:
            seen = seen & ((i - j).abs() <= spec.window - 1)
        if spec.chunk is not None:
            start = 0 if spec.origin is None else int(spec.origin[b])
            seen = seen & (torch.floor((i - start) / spec.chunk) == torch.floor((j - start) / spec.chunk))
        if spec.groups is not None:
            of_key = spec.groups[b].cpu()
            of_row = of_key[spec.offset : spec.offset + n_queries]
            seen = seen | ((of_row[:, None] == of_key[None, :]) & (of_row >= 0)[:, None])
        if spec.documents is not None:
            of_key = spec.documents[b].cpu()
            seen = seen & (of_key[spec.offset : spec.offset + n_queries][:, None] == of_key[None, :])
        if spec.key_valid is not None:
            seen = seen & spec.key_valid[b].cpu()[None, :]
        out[b] = seen
    return out


def scores(q, k, spec, dtype):
    """[B, H, Nq, Nk] scores, -inf where a key is not seen; in float32 with plain torch's product on the device."""
    batch, heads, n_queries, size = q.shape
    n_keys = k.shape[2]
    k = k.repeat_interleave(heads // k.shape[1], 1)
    if dtype == torch.float32 and q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        flat = q.reshape(-1, n_queries, size), k.reshape(-1, n_keys, size).transpose(1, 2)
        product = torch.bmm(*flat, out_dtype=torch.float32).view(batch, heads, n_queries, n_keys).cpu()
    else:
        product = q.cpu().to(dtype) @ k.cpu().to(dtype).transpose(-1, -2)
    s = product * spec.scale
    if spec.softcap is not None:
        s = spec.softcap * torch.tanh(s / spec.softcap)
    away = torch.arange(n_keys)[None, :] - (torch.arange(n_queries)[:, None] + spec.offset)
    if spec.slopes is not None:
        s = s + spec.slopes.cpu().to(dtype)[None, :, None, None] * away
    if spec.distance_bias is not None:
        reach = spec.distance_bias.shape[1] // 2
        s = s + spec.distance_bias.cpu().to(dtype)[:, away.clamp(-reach, reach) + reach]
    return s.masked_fill(~mask(spec, batch, n_queries, n_keys)[:, None], -math.inf)


def attention(q, k, spec, dtype=torch.float64):
    """The map [B, H, Nq, Nk] and its log-sum-exp [B, H, Nq]; rows that see nothing are 0 and -inf."""
    s = scores(q, k, spec, dtype)
    if spec.sink is not None:
        column = spec.sink.cpu().to(dtype)[None, :, None, None].expand(*s.shape[:3], 1)
        s = torch.cat([s, column], -1)
    lse = torch.logsumexp(s, -1)
    a = torch.nan_to_num(torch.softmax(s, -1), nan=0.0)
    return (a[..., :-1] if spec.sink is not None else a), lse


def statistics(q, k, spec, weights=None, dtype=torch.float64):
    """Every statistic from the whole map; NaN (-1) at padded positions."""
    a, lse = attention(q, k, spec, dtype)
    n_queries, n_keys = a.shape[2:]
    away = (torch.arange(n_keys)[None, :] - (torch.arange(n_queries)[:, None] + spec.offset)).abs().to(dtype)
    some = torch.isfinite(scores(q, k, spec, dtype)).any(-1)
    w = torch.ones(a.shape[:3], dtype=dtype) if weights is None else weights.cpu().to(dtype)
    if spec.query_valid is not None:
        w = w * spec.query_valid.cpu()[:, None, :]
    out = {
        "lse": lse,
        "entropy": torch.special.entr(a).sum(-1),
        "effective_keys": torch.where(some, torch.special.entr(a).sum(-1).exp(), 0),
        "max_prob": a.max(-1).values,
        "max_key": torch.where(some, a.argmax(-1), -1),
        "distance": (a * away).sum(-1),
        "second_moment": a.square().sum(-1),
        "key_mass": a.sum(-1),
        "received": torch.einsum("bhij,bhi->bhj", a, w),
    }
    for name, values in out.items():
        valid = spec.key_valid if name == "received" else spec.query_valid
        if valid is not None:
            out[name] = values.masked_fill(
                ~valid.cpu()[:, None, :], math.nan if values.is_floating_point() else -1
            )
    return out


def columns(
    q, k, spec, weights=None, y=None, grid=None, reduce="sum", dtype=torch.float64, lse=None, factor=None
):
    """What the columns of the map give, from exp(score - lse) entry by entry: "received", "transposed", "pooled".

    `lse` [B, H, Nq] stands for the map's own; a row of it that is not finite gives nothing. `factor` is the dtype in which the
    weights enter the product with `y` (as tensor cores take them).
    """
    s = scores(q, k, spec, dtype)
    lse = attention(q, k, spec)[1] if lse is None else lse.cpu()
    gives = torch.isfinite(lse)
    if spec.query_valid is not None:
        gives = gives & spec.query_valid.cpu()[:, None, :]
    a = torch.exp(s - lse.to(dtype)[..., None]).masked_fill(~gives[..., None], 0)
    w = torch.ones(a.shape[:3], dtype=dtype) if weights is None else weights.cpu().to(dtype)
    out = {"received": (a * w.masked_fill(~gives, 0)[..., None]).sum(2)}
    if y is not None:
        taken = a if factor is None else a.to(factor).to(dtype)
        out["transposed"] = taken.transpose(2, 3) @ y.cpu().to(dtype).masked_fill(~gives[..., None], 0)
    if spec.key_valid is not None:
        hidden = ~spec.key_valid.cpu()[:, None, :]
        out["received"] = out["received"].masked_fill(hidden, math.nan)
        if y is not None:
            out["transposed"] = out["transposed"].masked_fill(hidden[..., None], math.nan)
        a = a.masked_fill(hidden[:, :, None], 0)
    if grid is not None:
        pairs = torch.isfinite(scores(q, k, replace(spec, distance_bias=None), dtype))
        if spec.query_valid is not None:
            pairs = pairs & spec.query_valid.cpu()[:, None, :, None]
        out["pooled"] = _cells(a, pairs, grid, reduce)
    return out


def _cells(a, pairs, grid, reduce):
    """[B, H, R, C]: row cell r holds the queries from ⌊r·Nq/R⌋ to before ⌊(r+1)·Nq/R⌋, column cell c the keys likewise."""
    out = torch.zeros(*a.shape[:2], *grid, dtype=a.dtype)
    for r in range(grid[0]):
        rows = slice(r * a.shape[2] // grid[0], (r + 1) * a.shape[2] // grid[0])
        for c in range(grid[1]):
            keys = slice(c * a.shape[3] // grid[1], (c + 1) * a.shape[3] // grid[1])
            cell = a[:, :, rows, keys].flatten(2)
            if reduce == "max":
                out[:, :, r, c] = cell.max(-1).values
                continue
            out[:, :, r, c] = cell.sum(-1)
            if reduce == "mean":  # 0 / 0 is NaN
                out[:, :, r, c] /= pairs[:, :, rows, keys].flatten(2).sum(-1)
    return out


def calibrated(q, k, spec, sinks, beta, kept=None, since=None, dtype=torch.float64):
    """ACT's map [B, H, Nq, Nk], step by step from its definition; the mass on sinks, on receivers, and the lse [B, H, Nq].

    Sinks keep `beta` of their weight; what they lose is paid to the visible keys that are neither sinks nor kept, in proportion
    to their weights; a row without such keys stays as it was.
    """
    a, lse = attention(q, k, spec, dtype)
    s = scores(q, k, spec, dtype)
    n_queries, n_keys = s.shape[2:]
    more = n_keys - sinks.shape[2]
    is_sink = torch.nn.functional.pad(sinks.cpu(), (0, more))[:, :, None].expand(*s.shape)
    if since is not None:
        i = torch.arange(n_queries)[:, None] + spec.offset
        is_sink = is_sink & (i >= torch.nn.functional.pad(since.cpu(), (0, more))[:, :, None])
    is_kept = torch.zeros_like(is_sink)
    if kept is not None:
        is_kept = torch.nn.functional.pad(kept.cpu(), (0, more))[:, None, None].expand(*s.shape)
    is_sink = is_sink & ~is_kept
    receiver = torch.isfinite(s) & ~is_sink & ~is_kept
    beta = torch.as_tensor(beta, dtype=dtype).cpu().reshape(-1, 1, 1)
    mass = (a * is_sink).sum(-1)
    shares = torch.nan_to_num(torch.softmax(s.masked_fill(~receiver, -math.inf), -1), nan=0.0)
    paid = torch.where(is_sink, beta * a, a) + (1 - beta) * mass[..., None] * shares
    new = torch.where(receiver.any(-1, keepdim=True), paid, a)
    return new, mass, (a * receiver).sum(-1), lse


def calibrated_output(weights, v, dtype):
    """Weights [B, H, Nq, Nk] times values, at the precision of flash attention: both factors and the result in `dtype`."""
    v = v.cpu().to(dtype).repeat_interleave(weights.shape[1] // v.shape[1], 1)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    return (weights.to(dtype).to(sums) @ v.to(sums)).to(dtype)


def links(q, k, spec, count, dtype=torch.float64):
    """The `count` strongest keys of every row, their weights, and the map: by falling score, then by key; -1 and 0 if none."""
    s = scores(q, k, spec, dtype)
    a, _ = attention(q, k, spec, dtype)
    n_keys = s.shape[-1]
    # numpy's stable sort of the negated scores keeps equal ones in the order of their keys
    keys = torch.from_numpy((-s).numpy().argsort(-1, kind="stable"))[..., :count]
    probs = a.gather(-1, keys)
    keys = torch.where(torch.isfinite(s.gather(-1, keys)), keys, -1)
    keys = torch.nn.functional.pad(keys, (0, count - min(count, n_keys)), value=-1)
    probs = torch.nn.functional.pad(probs, (0, count - min(count, n_keys)))
    if spec.query_valid is not None:
        padded = ~spec.query_valid.cpu()[:, None, :, None]
        keys, probs = keys.masked_fill(padded, -1), probs.masked_fill(padded, math.nan)
    return keys, probs, a


def worst(got, truth):
    """The largest error over the entries that are finite in the truth; the others must agree exactly (NaN with NaN)."""
    got, truth = got.detach().cpu().double(), truth.double()
    finite = torch.isfinite(truth)
    same = torch.equal(got[~finite].nan_to_num(nan=12345.0), truth[~finite].nan_to_num(nan=12345.0))
    if not same or not torch.isfinite(got[finite]).all():
        return math.inf
    return float((got[finite] - truth[finite]).abs().max()) if finite.any() else 0.0


def tolerance(plain, truth):
    """Twice the error of plain torch at the same precision; at least four roundings of the largest value."""
    finite = truth[torch.isfinite(truth)].double()
    largest = max(1.0, float(finite.abs().max())) if len(finite) else 1.0
    return 2 * max(worst(plain, truth), 4 * EPS32 * largest)
