"""The plain-torch twin of `score_tile`: the scores of one rectangle, under every rule."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.score import ScoreSpec
from probe.kernels.visible import key_span, visible_block

#: Scores of a chunk (heads of one key head × rows × keys) are held at once: small on a CPU, whose caches they must fit.
CHUNK_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}
_FEWEST_ROWS, _MOST_ROWS = 16, 256

#: Stands for minus infinity: exp gives 0, and 0 times it stays 0.
FLOOR = -1e30


@dataclass(frozen=True)
class Chunk:
    """Scores of some rows of the query heads that share one key head.

    Attributes:
        sample: index in the batch.
        heads: the query heads.
        rows: the query rows.
        keys: the span of keys outside which these rows see nothing.
        scores: [heads, rows, keys] in the precision of the computation; `FLOOR` where a key is not seen. May be overwritten;
            the next chunk reuses its memory.
    """

    sample: int
    heads: slice
    rows: slice
    keys: slice
    scores: Float[Tensor, "G rows keys"]


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 input is computed in float64 (the oracle of the tests), everything else in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def chunks(q: Float[Tensor, "B H Nq D"], k: Float[Tensor, "B Hkv Nk D"], spec: ScoreSpec) -> Iterator[Chunk]:
    """Walk over the whole map, a block of query rows at a time; at most `CHUNK_SCORES` scores exist at once."""
    q, k = q.detach(), k.detach()
    batch, heads, n_queries, _ = q.shape
    n_keys, group = k.shape[2], heads // k.shape[1]
    budget = CHUNK_SCORES.get(q.device.type, CHUNK_SCORES["cpu"])
    # whole multiples of 16 rows: a product with an odd number of rows takes a sixth longer on a CPU
    step = min(_MOST_ROWS, max(1, budget // (group * n_keys * _FEWEST_ROWS)) * _FEWEST_ROWS, n_queries)
    # one buffer for all chunks: fresh memory of this size costs a CPU more than the product itself
    memory = torch.empty(group * step * n_keys, dtype=compute_dtype(q), device=q.device)
    for b in range(batch):
        for key_head in range(k.shape[1]):
            of_group = slice(key_head * group, (key_head + 1) * group)
            # [D, Nk] in memory as well: against a transposed view the product takes four times as long on a CPU
            keys_t = k[b, key_head].to(compute_dtype(q)).T.contiguous()
            for first in range(0, n_queries, step):
                rows = range(first, min(first + step, n_queries))
                low, high = key_span(spec, b, rows, n_keys)
                block = q[b, of_group, rows.start : rows.stop].to(keys_t.dtype) * spec.scale
                scores = memory[: group * len(rows) * (high - low)].view(group, len(rows), high - low)
                torch.mm(block.reshape(-1, q.shape[3]), keys_t[:, low:high], out=scores.view(-1, high - low))
                scores = _apply_rules(scores, spec, b, of_group, rows, range(low, high))
                yield Chunk(b, of_group, slice(rows.start, rows.stop), slice(low, high), scores)


def _apply_rules(
    scores: Float[Tensor, "G rows keys"], spec: ScoreSpec, sample: int, heads: slice, rows: range, keys: range
) -> Float[Tensor, "G rows keys"]:
    if spec.slopes is None and spec.distance_bias is None:
        return _hide(shaped(scores, spec, heads), spec, sample, rows, keys)
    i = torch.arange(rows.start, rows.stop, device=scores.device)[:, None] + spec.offset
    distance = torch.arange(keys.start, keys.stop, device=scores.device)[None, :] - i
    return _hide(shaped(scores, spec, heads, distance), spec, sample, rows, keys)


def shaped(
    scores: Float[Tensor, "G ..."], spec: ScoreSpec, heads: slice, distance: Tensor | None = None
) -> Float[Tensor, "G ..."]:
    """Products scale · q·k under the rules that bend them: soft-cap, slopes and learned biases.

    Args:
        scores: the products of some heads; overwritten.
        spec: the rules.
        heads: which heads these are.
        distance: key minus query position of each, [...]; needed where slopes or biases are in play.
    """
    if spec.softcap is not None:
        scores = torch.tanh_(scores.div_(spec.softcap)).mul_(spec.softcap)
    if distance is None:
        return scores
    if spec.slopes is not None:
        scores += spec.slopes[heads].to(scores.dtype).view(-1, *[1] * distance.ndim) * distance
    if spec.distance_bias is not None:
        reach = spec.distance_bias.shape[1] // 2
        scores += spec.distance_bias[heads][:, distance.clamp(-reach, reach) + reach].to(scores.dtype)
        scores.clamp_(min=FLOOR)
    return scores


def _hide(
    scores: Float[Tensor, "G rows keys"], spec: ScoreSpec, sample: int, rows: range, keys: range
) -> Float[Tensor, "G rows keys"]:
    """Set unseen keys to `FLOOR`; keys that every row sees by causality alone are not touched."""
    others = (spec.window, spec.chunk, spec.groups, spec.documents, spec.key_valid)
    only_causal = all(rule is None for rule in others)
    if only_causal and not spec.causal:
        return scores
    first = max(keys.start, rows.start + spec.offset + 1) if only_causal else keys.start
    if first < keys.stop:
        fringe = range(first, keys.stop)
        unseen = ~visible_block(spec, sample, rows, fringe, scores.device)
        scores[:, :, first - keys.start :].masked_fill_(unseen, FLOOR)
    return scores
