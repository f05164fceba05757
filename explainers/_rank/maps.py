"""Rank of the attention maps themselves: exact where they are small, matrix-free at any length."""

from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._rank.operator import EXACT_AUTO, map_of, operator_of
from probe.explainers._rank.spectrum import EPS, MEASURES, measures_of, singular_values
from probe.explainers.layers import Layer, each_layer
from probe.explainers.reading import Floats
from probe.explainers.spec import Choice, Interval, Text, explainer
from probe.explainers.tables import LayerTable

#: Measures that need every singular value, which products with a few vectors cannot give.
NEED_ALL = ("numerical_rank", "above_1_percent")


@explainer(
    title="Rank of the attention map",
    shape="runs",
    kind="head_table",
    references=(
        "Roy and Vetterli, The Effective Rank, EUSIPCO 2007",
        "Halko, Martinsson and Tropp, Finding Structure with Randomness, SIAM Review 2011 (arXiv 0909.4061)",
        "Ubaru, Chen and Saad, Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature, SIMAX 2017",
        "Meyer et al., Hutch++: Optimal Stochastic Trace Estimation, SOSA 2021 (arXiv 2010.09649)",
    ),
)
def rank(
    source: Any,
    inputs: Any = None,
    *,
    measure: Annotated[str, Choice(*MEASURES, help="the measure that is shown")] = "effective_rank",
    method: Annotated[
        str,
        Choice("auto", "exact", "free", help="write maps out, or never; auto: up to 512 tokens they are"),
    ] = "auto",
    energy: Annotated[float, Interval(0.01, 1, "share of Σ s² that the energy rank holds")] = 0.99,
    data_dtype: Annotated[
        str, Choice("auto", *EPS, help="coarsest type that q and k went through; auto: their own")
    ] = "auto",
    block: Annotated[int, Interval(1, 200, "free: vectors that find the strongest directions")] = 32,
    probes: Annotated[int, Interval(2, 200, "free: random vectors for the rest")] = 16,
    steps: Annotated[int, Interval(1, 200, "free: Lanczos steps")] = 16,
    seed: Annotated[int, Interval(0, 2**31, "free: of the random vectors")] = 0,
    layers: Annotated[str | None, Text("numbers joined by commas")] = None,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """How many directions each head's attention map really uses, by several measures.

    A causal softmax map is triangular with a positive diagonal, so its exact rank is always N and says nothing; the soft
    measures do: stable ≤ nuclear ratio ≤ participation ≤ effective rank ≤ rank. The numerical rank counts what stands above the
    rounding of the type that the data went through, so that it speaks of the type as much as of the map.

    Args:
        source: a record that kept q, k and v, or a model.
        inputs: of the model.
        measure: what the figure shows; the others are in the result as well.
        method: "exact" writes each map out (float64 singular values, up to 4,096 tokens); "free" uses products with the map
            alone, and gives errors.
        energy: of the energy rank.
        data_dtype: the tolerance of the numerical rank is max(rows, columns) · eps(data_dtype) · s₁.
        block: of the matrix-free way; more costs memory and tightens all but the stable rank.
        probes: of the matrix-free way.
        steps: of the matrix-free way; the time grows with it.
        seed: of the matrix-free way.
        layers: which layers; all without it.
        tower: which tower.

    Returns:
        head_table, means over samples with equal weight, of each measure; with "free" also `…_error` (one standard error of the
        sampling plus half the distance of an upper and a lower quadrature), and without numerical_rank and above_1_percent,
        which need every singular value. energy_rank is then NaN where the block does not hold that share of the energy
        (block_energy says how much it holds), an upper bound where it does.

    Raises:
        InputError: a measure that the matrix-free way cannot give, or a map too large to be written out.
        RecordError: the record kept no q and k.
    """
    if method == "free" and measure in NEED_ALL:
        raise InputError(_refusal(measure))
    table = LayerTable()
    used: set[str] = set()
    lengths: list[int] = []

    def take(layer: Layer) -> None:
        length = max(layer.q.shape[2], layer.k.shape[2])
        free = method == "free" or (method == "auto" and length > EXACT_AUTO)
        if free and measure in NEED_ALL:
            raise InputError(_refusal(measure))
        used.add("free" if free else "exact")
        lengths.append(length)
        kind = data_dtype if data_dtype != "auto" else str(layer.q.dtype).removeprefix("torch.")
        options = {"block": block, "probes": probes, "steps": steps, "seed": seed, "energy": energy}
        samples = [
            _free(layer, s, options) if free else _exact(layer, s, kind, energy) for s in range(len(layer.q))
        ]
        table.add(layer, samples)

    origin = each_layer(source, inputs, tower, take, layers=layers)
    result = table.dataset()
    result.attrs = {**origin, "unit": "1", "value": measure, "method": ", ".join(sorted(used))}
    result.attrs |= {"averaging": "mean over samples, equal weight", "tokens": max(lengths)}
    if "free" in used:
        result.attrs["note"] = (
            "Matrix-free: the errors are one standard error plus half the distance of two quadratures. The numerical rank is "
            "not given: it needs every singular value."
        )
    return result


def _refusal(measure: str) -> str:
    return (
        f"measure: got {measure!r} for maps that are not written out, expected one of "
        f"{', '.join(m for m in MEASURES if m not in NEED_ALL)}; it needs every singular value, and a truncated SVD knows the "
        "largest alone. Use method='exact' on at most 4,096 tokens"
    )


def _exact(layer: Layer, sample: int, kind: str, energy: float) -> dict[str, Floats]:
    found = []
    for place in range(layer.q.shape[1]):
        values = map_of(layer, sample, place)
        found.append(measures_of(singular_values(values), max(values.shape), kind, energy))
    return {name: np.array([one[name] for one in found]) for name in MEASURES}


def _free(layer: Layer, sample: int, options: dict[str, Any]) -> dict[str, Floats]:
    from probe.explainers._rank.matrix_free import estimate

    found = estimate(operator_of(layer, sample), **options)
    return {name: np.asarray(values.cpu(), dtype=np.float64) for name, values in found.items()}
