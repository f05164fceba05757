"""Attention flow: the most that can run from each token to one target, layer by layer, by maximum flow."""

from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._rank.operator import map_of
from probe.explainers._rollout.step import one_sample, place_of
from probe.explainers.layers import Layer, each_layer, pieces
from probe.explainers.reading import Floats
from probe.explainers.spec import Interval, Text, explainer
from probe.record import strings

#: Tokens up to which flow is computed: its cost grows with L² · N⁴.
MOST = 64
#: Capacities are whole numbers of this share of 1.
_UNIT = 2.0**-28


@explainer(
    title="Attention flow",
    shape="runs",
    kind="flow",
    references=(
        "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928)",
    ),
)
def attention_flow(
    source: Any,
    inputs: Any = None,
    *,
    position: Annotated[
        int, Interval(-(2**31), 2**31, "the target, counted from 0, or from the end: −1 is the last")
    ] = -1,
    origin: Annotated[
        int | None, Interval(-(2**31), 2**31, "the token whose flow is drawn; by default the one with most")
    ] = None,
    sample: Annotated[int, Interval(0, 1_000_000, "index of the sample")] = 0,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """How much each token could send to one target if attention weights were the capacities of pipes.

    Nodes are the tokens after each layer; the pipe from token j to token i has the capacity 0.5 · mean over heads of
    A[l, h]_ij, plus
    0.5 for i = j. Capacities are rounded down to 2⁻²⁸. At most 64 tokens; for longer texts there is `rollout`.

    Args:
        source: a record that kept q, k and v of all layers, or a model.
        inputs: of the model.
        position: the target, among the tokens that are no padding.
        origin: the token whose pipes are drawn; by default the one from which most can flow, the target itself left out.
        sample: which sample.
        tower: which tower.

    Returns:
        flow: carried (link) of the drawn token, source and target (link), numbers of nodes; node_layer, node_token, node_text
        (node). Per token: flow (token), the most that it can send to the target; token_text.

    Raises:
        InputError: more than 64 tokens; a token or sample that is not there; attention between two sequences.
    """
    maps: list[Floats] = []
    known: dict[str, Any] = {}

    def take(layer: Layer) -> None:
        one = one_sample(layer, sample)
        valid = one.valid(0)[0]
        if int(valid.sum()) > MOST:
            raise InputError(
                f"inputs: got {int(valid.sum())} tokens, expected at most {MOST}; `rollout` has no limit"
            )
        known.update(valid=valid.cpu(), places=one.queries)
        maps.append(np.mean([map_of(one, 0, h) for h in range(one.q.shape[1])], axis=0))

    attrs = each_layer(source, inputs, tower, take)
    columns = np.flatnonzero(known["valid"].numpy())
    texts = pieces(known["places"], sample, len(known["valid"]))
    texts = [texts[i] for i in columns]
    target = place_of(position, known["valid"][known["valid"]])
    graph = _graph(maps)
    flows = [_flow(graph, len(maps), len(texts), token, target) for token in range(len(texts))]
    amounts = np.array([amount for amount, _ in flows])
    if origin is None:
        others = np.where(np.arange(len(texts)) == target, -1.0, amounts)
        drawn = int(others.argmax())
    else:
        drawn = place_of(origin, known["valid"][known["valid"]])
    result = _links(flows[drawn][1], len(maps), texts)
    result = result.assign(flow=("token", amounts), token_text=("token", strings(texts)))
    story = f"from “{texts[drawn].strip() or '␣'}” {amounts[drawn]:.2f} can flow to “{texts[target].strip() or '␣'}”"
    result.attrs = {**attrs, "unit": "1", "value": "carried", "sample": sample, "residual": "half"}
    result.attrs |= {"head_fusion": "mean", "origin": texts[drawn], "target": texts[target], "story": story}
    result.attrs |= {"origin_index": drawn, "target_index": target, "layers": len(maps)}
    return result


def _graph(maps: list[Floats]) -> Any:
    """Capacities between the nodes (layer, token), as whole numbers."""
    from scipy.sparse import block_diag, csr_array

    n, capacities = len(maps[0]), []
    for one in maps:
        augmented = 0.5 * one + 0.5 * np.eye(n)
        capacities.append(np.floor(augmented.T / _UNIT).astype(np.int32))
    steps = block_diag(capacities, format="coo")  # rows: tokens before a layer; columns: tokens after it
    size = n * (len(maps) + 1)
    return csr_array((steps.data, (steps.row, steps.col + n)), shape=(size, size), dtype=np.int32)


def _flow(graph: Any, layers: int, n: int, token: int, target: int) -> tuple[float, Any]:
    from scipy.sparse.csgraph import maximum_flow

    found = maximum_flow(graph, token, layers * n + target)
    return float(found.flow_value) * _UNIT, found.flow


def _links(flow: Any, layers: int, texts: list[str]) -> xr.Dataset:
    links = flow.tocoo()
    there = links.data > 0
    node = np.arange(len(texts) * (layers + 1))
    return xr.Dataset(
        {
            "carried": ("link", links.data[there] * _UNIT),
            "source": ("link", links.row[there].astype(np.int64)),
            "target": ("link", links.col[there].astype(np.int64)),
            "node_layer": ("node", node // len(texts)),
            "node_token": ("node", node % len(texts)),
            "node_text": ("node", strings([texts[i] for i in node % len(texts)])),
        }
    )
