"""Attention rollout of one token, through every layer, without a map of any layer."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._rollout.shares import SharesOfModel
from probe.explainers._rollout.step import one_sample, place_of, step, uniform_of
from probe.explainers.layers import Layer, each_layer, pieces
from probe.explainers.spec import Choice, Interval, Text, explainer
from probe.record import strings

if TYPE_CHECKING:
    from torch import Tensor


@explainer(
    title="Attention rollout",
    shape="runs",
    kind="map2d",
    references=(
        "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928)",
    ),
)
def rollout(
    source: Any,
    inputs: Any = None,
    *,
    direction: Annotated[
        str,
        Choice("backward", "forward", help="where a token's vector comes from, or where a token goes to"),
    ] = "backward",
    position: Annotated[
        int, Interval(-(2**31), 2**31, "the token, counted from 0, or from the end: −1 is the last")
    ] = -1,
    residual: Annotated[
        str, Choice("half", "measured", help="the skip connection's share: 0.5, or by the vectors' norms")
    ] = "half",
    normalise: Annotated[
        str, Choice("none", "uniform", help="divide by the rollout of maps that spread evenly")
    ] = "none",
    sample: Annotated[int, Interval(0, 1_000_000, "index of the sample")] = 0,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """From which tokens, through all layers, one token's vector comes, or in which tokens one token ends up.

    A_l = r + (1 − r) · mean over heads of A[l, h], R = A_L … A_1. Row t of R (backward) is made from the last layer
    down, column s
    (forward) from the first one up, by products of each layer's maps with one vector. In causal models the first tokens
    collect mass by construction; "uniform" divides by what maps that spread evenly over the same visible keys would give.

    Args:
        source: a record that kept q, k and v of all layers, or a model.
        inputs: of the model.
        direction: "backward" for a target token, "forward" for a source token.
        position: which token, among those that are no padding.
        residual: the convention 0.5, or "measured" (of a model): ‖x_i‖ / (‖x_i‖ + ‖attention_i‖) for each token and
            layer, where the model adds the attention's output to x itself.
        normalise: "uniform" gives ratios, 1 where nothing but the mask speaks.
        sample: which sample.
        tower: which tower.

    Returns:
        map2d, columns the tokens. Backward: row l says which positions after l layers the target's final vector is made of;
        row 0 is the rollout itself. Forward: row l says how much of the source is in each position after l layers. Over rows:
        first_token, the share of the first valid token.

    Raises:
        InputError: a token or sample that is not there; "measured" with a record; attention between two sequences.
        ModelError: "measured" where the attention's output is not added as it is.
    """
    backward = direction == "backward"
    if residual == "measured" and isinstance(source, xr.DataTree):
        raise InputError("residual: got 'measured' with a record, expected a model: the record has no norms")
    run = _Run(position, sample, backward, normalise == "uniform", measured=residual == "measured")
    if run.measured:
        with SharesOfModel(source, sample) as shares:
            origin = each_layer(source, inputs, tower, run.hold)
            run.finish(shares.of)
    else:
        origin = each_layer(source, inputs, tower, run.take, reverse=backward)
    return run.result(origin | {"residual": residual, "head_fusion": "mean"})


class _Run:
    """The vector of one token, and of the same token under even maps, carried from layer to layer."""

    def __init__(self, position: int, sample: int, backward: bool, uniform: bool, *, measured: bool) -> None:
        self.position, self.sample, self.backward, self.uniform = position, sample, backward, uniform
        self.measured = measured
        self.rows: list[Tensor] = []
        self.even: list[Tensor] = []
        self._held: list[Layer] = []
        self._even_layer: tuple[Any, Layer] | None = None

    def hold(self, layer: Layer) -> None:
        """Keep a layer until the shares of the skip connections are known."""
        self._held.append(layer)

    def finish(self, share: Any) -> None:
        """Go through the layers that were kept."""
        for layer in reversed(self._held) if self.backward else self._held:
            self.take(layer, share(layer))

    def take(self, layer: Layer, residual: "Tensor | float" = 0.5) -> None:
        """Go through one layer."""
        import torch

        layer = one_sample(layer, self.sample)
        if not self.rows:
            self.valid = layer.valid(0)[0]
            self.places = layer.queries
            self.at = place_of(self.position, self.valid)
            start = torch.zeros(len(self.valid), 1, dtype=torch.float64, device=layer.q.device)
            start[self.at] = 1
            self.rows.append(start)
            self.even.append(start)
        self.rows.append(step(layer, self.rows[-1], residual, backward=self.backward))
        if self.uniform:
            self.even.append(step(uniform_of(layer), self.even[-1], residual, backward=self.backward))

    def result(self, origin: dict[str, str]) -> xr.Dataset:
        """The map over depth and tokens."""
        valid = self.valid.cpu().numpy()
        rows = np.stack([row[:, 0].cpu().numpy() for row in self.rows])[:, valid]
        share = rows[:, 0]
        if self.uniform:
            even = np.stack([row[:, 0].cpu().numpy() for row in self.even])[:, valid]
            rows = np.divide(rows, even, out=np.full(rows.shape, np.nan), where=even > 0)
        if self.backward:
            rows, share = rows[::-1], share[::-1]
        columns = np.flatnonzero(valid)
        texts = pieces(self.places, self.sample, len(valid))
        result = xr.Dataset(
            {"rollout": (("row", "column"), rows.copy()), "first_token": ("row", share.copy())},
            coords={
                "row": np.arange(len(rows)),
                "column": columns,
                "text": ("column", strings([texts[i] for i in columns])),
            },
        )
        what = "the target" if self.backward else "the source"
        result.attrs = {**origin, "unit": "1", "value": "rollout", "sample": self.sample}
        result.attrs |= {"row_title": "layers passed", "column_title": "token", "margin": "first_token"}
        result.attrs |= {
            "token": texts[self.at],
            "token_index": self.at,
            "story": _story(result, what, texts[self.at]),
        }
        return result


def _story(result: xr.Dataset, what: str, token: str) -> str:
    """One line: the token, and where it comes from or goes to."""
    row = result["rollout"].values[0 if what == "the target" else -1]
    top = int(np.nanargmax(row))
    there = "comes most from" if what == "the target" else "ends up most in"
    text = str(result["text"].values[top]).strip() or "␣"
    return f"{what} “{token.strip() or '␣'}” {there} “{text}” ({row[top]:.3g})"
