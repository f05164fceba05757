"""Attention concentration: whether a handful of instances carries all the attention of a bag."""

from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe.explainers._mil import measures
from probe.explainers._mil.reading import OneBag, bag_of, class_name, mil_of
from probe.explainers.reading import origin_of
from probe.explainers.spec import Interval, explainer
from probe.record import strings


@explainer(
    title="Attention concentration",
    shape="reads",
    kind="concentration",
    references=(
        "Zhang et al., Attention-Challenging Multiple Instance Learning (ACMIL), ECCV 2024 (arXiv 2311.07125)",
        "Ilse, Tomczak, Welling, Attention-based Deep Multiple Instance Learning, ICML 2018 (arXiv 1802.04712)",
    ),
)
def concentration(
    trace: xr.DataTree,
    *,
    longest: Annotated[
        int, Interval(10, 100_000, "length of the curve: the sum of the 1, 2, … largest weights")
    ] = 100,
) -> xr.Dataset:
    """How much of a bag's attention its strongest instances carry, and what the others are left with.

    Weights are averaged over the branches, as a multi-branch model pools. With annotated bags it says how much of each pattern
    gets more than an even share: a model can be right with all its attention on one pattern of two.

    Args:
        trace: a record of bags (`probe.capture_mil`).
        longest: how far the cumulative curve goes; from the bag's size on it is 1.

    Returns:
        concentration: cumulative(bag, k) (C_k, the sum of the k largest weights); per bag: top (C_10), entropy (H/log N, NaN
        for one instance), effective (exp H), activated (instances above 1/N), overlap (mean cosine of two branches, NaN for
        one branch), instances, name, label; branch_cosine(branch, other), mean over bags; where the bags are annotated
        recall(pattern), mean over the bags that have the pattern, and pattern_bags(pattern). All unit 1.

    Raises:
        InputError: no record.
        RecordError: a record without bags.
    """
    count = mil_of(trace).sizes["bag"]
    patterns = _patterns(trace)
    rows, cosines = [], []
    for number in range(count):
        bag = bag_of(trace, number)
        rows.append(_row(bag, longest, patterns))
        cosines.append(measures.branch_cosines(bag.branches))
    variables: dict[str, Any] = {
        "cumulative": (("bag", "k"), np.stack([row.pop("cumulative") for row in rows])),
        "branch_cosine": (("branch", "other"), np.mean(cosines, axis=0)),
    }
    recalls = np.stack([row.pop("recall") for row in rows])
    if len(patterns):
        having = np.isfinite(recalls).sum(0)
        variables["recall"] = ("pattern", np.nansum(recalls, axis=0) / np.maximum(having, 1))
        variables["pattern_bags"] = ("pattern", having)
    names, labels = [row.pop("name") for row in rows], [row.pop("label") for row in rows]
    variables |= {name: ("bag", np.array([row[name] for row in rows])) for name in rows[0]}
    coords = {
        "k": np.arange(1, longest + 1),
        "name": ("bag", strings(names)),
        "label": ("bag", strings([class_name(trace, label) for label in labels])),
        **({"pattern": patterns.astype(np.int64)} if len(patterns) else {}),
    }
    attrs = origin_of(trace) | {
        "unit": "1",
        "value": "cumulative",
        "averaging": "mean over branches, then over bags",
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _row(bag: OneBag, longest: int, patterns: measures.Array) -> dict[str, Any]:
    a = bag.attention
    chosen = measures.activated(a)
    notes = bag.annotation if bag.annotation is not None else np.zeros(len(a))
    return {
        "cumulative": measures.cumulative(a, longest),
        "top": float(measures.cumulative(a, 10)[-1]),
        "entropy": measures.normalised_entropy(a),
        "effective": measures.effective_instances(a),
        "activated": int(chosen.sum()),
        "overlap": measures.overlap(measures.branch_cosines(bag.branches)),
        "instances": len(a),
        "recall": measures.recall(chosen, notes, patterns),
        "name": bag.name,
        "label": bag.label,
    }


def _patterns(trace: xr.DataTree) -> measures.Array:
    """Numbers of the annotated patterns of all bags."""
    if "bags" not in trace.children or "annotation" not in trace["bags"]:
        return np.array([])
    notes = np.unique(trace["bags"].to_dataset()["annotation"].values)
    return np.asarray(notes[np.isfinite(notes) & (notes > 0)])
