"""The border of the top links: checks the call and chooses the implementation."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.launch import way_of
from probe.kernels.score import ScoreSpec, check

MOST_LINKS = 64


class TopLinks(NamedTuple):
    """The strongest keys of every query and their weights.

    Attributes:
        keys: key numbers, strongest first; -1 where a query has no further key.
        probs: their weights A(i, j), falling along the last dimension; 0 where there is no key, NaN where the query is padding.
    """

    keys: Int[Tensor, "B H Nq L"]
    probs: Float[Tensor, "B H Nq L"]


def top_links(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    spec: ScoreSpec,
    lse: Float[Tensor, "B H Nq"] | None = None,
    links: int = 8,
    implementation: str = "auto",
) -> TopLinks:
    """Find the L strongest keys of every query, exactly, without forming the map.

    Sorted by the computed score, equal scores by the smaller key number, so that the answer is the same from run to run. A
    key whose score is -inf (a bias) carries no weight and is no link.

    Args:
        q: queries as the scores use them (rotated, normalised).
        k: keys, not repeated for grouped heads.
        spec: the rules of the map.
        lse: log-sum-exp of every row, from `row_stats` under the same rules; computed in the same sweep without it.
        links: how many keys to keep for each query, L, at most 64.
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        `keys` [B, H, Nq, L] int64 and `probs` [B, H, Nq, L] float32 (float64 for float64 input). A query that sees fewer than
        L keys has key -1 and weight 0 in the rest; a padded query has key -1 and weight NaN.

    Raises:
        ValueError: a shape, dtype, rule, number of links or implementation does not fit; the message says what was expected.
    """
    check(q, k, spec)
    if not 1 <= links <= MOST_LINKS:
        raise ValueError(f"links: got {links}, expected 1 to {MOST_LINKS} keys for each query")
    if lse is not None and lse.shape != q.shape[:3]:
        raise ValueError(f"lse: got shape {tuple(lse.shape)}, expected {tuple(q.shape[:3])} as the rows of q")
    if lse is not None and lse.device != q.device:
        raise ValueError(f"lse: got a tensor on {lse.device}, expected {q.device} as q")
    way = way_of(__package__, implementation, q)
    keys, probs = way.top_links(q, k, spec, lse, links)
    if spec.query_valid is not None:
        padded = ~spec.query_valid[:, None, :, None]
        keys, probs = keys.masked_fill(padded, -1), probs.masked_fill(padded, float("nan"))
    return TopLinks(keys, probs)
