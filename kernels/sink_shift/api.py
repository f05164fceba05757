"""The border of the sink shift: checks the call and chooses the implementation."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.heads import check_heads
from probe.kernels.launch import way_of
from probe.kernels.score import HEAD_SIZES, ScoreSpec, check
from probe.kernels.sink_shift.keys import SinkKeys, sink_keys


class Shifted(NamedTuple):
    """What a sink shift gives back; n is the number of chosen heads.

    Attributes:
        out: the attention output, in q's dtype.
        sink_mass: S, the weight that lay on the sinks before the shift; float32, NaN where the query is padding.
        rest_mass: the weight that lay on the receivers before the shift, likewise; they share (1 - beta)·S in proportion. 0
            only where a row has no receiver: what float32 cannot hold is its least normal number.
        lse: log-sum-exp of every row before the shift, likewise, the extra logit included.
    """

    out: Float[Tensor, "B n Nq Dv"]
    sink_mass: Float[Tensor, "B n Nq"]
    rest_mass: Float[Tensor, "B n Nq"]
    lse: Float[Tensor, "B n Nq"]


def sink_shift(
    q: Float[Tensor, "B H Nq D"],
    k: Float[Tensor, "B Hkv Nk D"],
    v: Float[Tensor, "B Hkv Nk Dv"],
    spec: ScoreSpec,
    sinks: Bool[Tensor, "B n Nm"] | SinkKeys,
    beta: float | Float[Tensor, "n"] | None = None,
    *,
    heads: Sequence[int] | None = None,
    kept: Bool[Tensor, "B Nm"] | None = None,
    since: Int[Tensor, "B n Nm"] | None = None,
    implementation: str = "auto",
) -> Shifted:
    """Compute attention whose sinks keep only the share `beta` of their weight; the rest goes to the other visible keys.

    With S the weight of row i on its sinks and z its weight on the receivers (visible keys that are neither sinks nor
    kept), the map that is applied to v is, as in ACT (Yu et al., ICML 2024, §3)::

        A'(i, j) = beta·A(i, j)                      j a sink
        A'(i, j) = A(i, j)                           j kept
        A'(i, j) = A(i, j)·(1 + (1 - beta)·S/z)      j a receiver; = A·(1 - beta·S)/(1 - S) without kept keys and extra logit

    The weights of a row keep their sum. The extra logit of a spec (`sink`) is not a key: it keeps its mass. A row with no
    receiver has nobody to pay: it stays as it was, sinks included. A row without sinks stays as it was. Sinks and receivers
    are summed apart in float32, each relative to its own largest score, so that nothing is divided by 1 - S: the error does
    not grow with S. Which keys are sinks is the caller's decision: a set per sample and head, for all rows (ACT), or for rows
    from a position on (`since`). With beta = 1 the map is the plain one, but not to the bit: there, leave the call to the
    model's own backend. No gradient flows through it.

    Args:
        q: queries as the scores use them.
        k: keys, not repeated for grouped heads.
        v: values, not repeated; their size may differ from that of q and k.
        spec: the rules of the map.
        sinks: where a key is a sink, or a choice made by `sink_keys`, which spares decoding steps the work of repeating it.
        beta: what a sink keeps, 0 to 1; together with `heads`, `kept` and `since` as `sink_keys` takes them.
        heads: see `sink_keys`; only these heads are computed.
        kept: see `sink_keys`.
        since: see `sink_keys`.
        implementation: "auto" (Triton on CUDA, else plain torch), "reference" or "triton"; never replaced silently.

    Returns:
        Output, sink mass, receivers' mass and log-sum-exp. A row that sees no key has output 0 and masses 0. The output
        of a padded query is a number like any other (NaN there would spread through the model); its statistics are NaN.

    Raises:
        ValueError: a shape, dtype, rule, number or implementation does not fit; the message says what was expected.
    """
    check(q, k, spec)
    if spec.before is not None:
        raise ValueError(
            f"ScoreSpec.before: got {spec.before}, expected None: whether a row has somebody to pay is known from all keys only"
        )
    if v.ndim != 4 or v.shape[:3] != k.shape[:3] or not HEAD_SIZES[0] <= v.shape[3] <= HEAD_SIZES[1]:
        raise ValueError(
            f"v: got shape {tuple(v.shape)}, expected [{', '.join(map(str, k.shape[:3]))}, {HEAD_SIZES[0]} to {HEAD_SIZES[1]}] "
            "to fit k"
        )
    if v.dtype != q.dtype or v.device != q.device:
        raise ValueError(f"v: got {v.dtype} on {v.device}, expected {q.dtype} on {q.device} as q")
    if isinstance(sinks, SinkKeys):
        if not (beta is None and heads is None and kept is None and since is None):
            raise ValueError(
                "sinks: got SinkKeys with beta, heads, kept or since, expected those in sink_keys(…) only"
            )
        marked = sinks
    else:
        if beta is None:
            raise ValueError("beta: got None, expected the share that a sink keeps, from 0 to 1")
        marked = sink_keys(sinks, beta, heads=heads, kept=kept, since=since)
    chosen = check_heads(marked.heads, q.shape[1])
    batch, n, n_marked = marked.sinks.shape
    if batch != q.shape[0] or n != len(chosen) or n_marked > k.shape[2] or marked.sinks.device != q.device:
        raise ValueError(
            f"sinks: got [{batch}, {n}, {n_marked}] on {marked.sinks.device}, expected [{q.shape[0]}, {len(chosen)}, at most "
            f"{k.shape[2]}] on {q.device}"
        )
    way = way_of(__package__, implementation, q)
    shifted = Shifted(*way.sink_shift(q, k, v, spec, marked, chosen))
    if spec.query_valid is not None:
        for statistic in shifted[1:]:
            statistic.masked_fill_(~spec.query_valid[:, None, :], float("nan"))
    return shifted
