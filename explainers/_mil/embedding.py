"""Instances of a bag, and bags, laid out in the plane by what the model knows of them."""

from typing import Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._mil import measures
from probe.explainers._mil.layout import umap_layout
from probe.explainers._mil.reading import Array, OneBag, bag_of, class_name, mil_of, number_of
from probe.explainers.reading import origin_of
from probe.explainers.spec import Interval, Text, explainer
from probe.record import strings

_UMAP = "McInnes, Healy, Melville, UMAP, 2018 (arXiv 1802.03426)"
_ACMIL = (
    "Zhang et al., Attention-Challenging Multiple Instance Learning (ACMIL), ECCV 2024 (arXiv 2311.07125)"
)
SURE = 200
"""So many of the most attended instances are shown even where only a sample of the others is."""


@explainer(title="Instances of a bag (UMAP)", shape="reads", kind="embedding", references=(_UMAP, _ACMIL))
def instance_map(
    trace: xr.DataTree,
    *,
    bag: Annotated[str, Text("name or number of the bag")] = "0",
    neighbors: Annotated[int, Interval(2, 200, "UMAP: size of a neighbourhood")] = 15,
    min_dist: Annotated[float, Interval(0, 0.99, "UMAP: how close points may lie")] = 0.1,
    limit: Annotated[int, Interval(100, 1_000_000, "show a sample of the instances above so many")] = 10_000,
    seed: Annotated[int, Interval(0, 2**31 - 1, "of UMAP and of the sample")] = 0,
) -> xr.Dataset:
    """Where the instances of one bag lie among each other, and on which of them the attention falls.

    Attention on one knot of many says that the model looks at one kind of instance; branches that light up different knots
    have found different ones.

    Args:
        trace: a record of bags with features (`probe.capture_mil(…, features=…)`).
        bag: which bag.
        neighbors: of UMAP.
        min_dist: of UMAP.
        limit: a larger bag is sampled at random, its 200 most attended instances always among the sample.
        seed: the same seed gives the same picture.

    Returns:
        embedding: position(point, axis), unit 1; instance(point), attention (× N, 1 is an even share), percentile, activated,
        branch (where its weight stands out most, from 1); where known annotation, x, y.

    Raises:
        InputError: no record, no such bag, or too few instances.
        RecordError: a record without bags or without features.
    """
    one = bag_of(trace, number_of(trace, bag), features=True)
    if one.features is None:
        raise InputError(f"{one.name}: has no features")
    shown = _sample(one.attention, limit, seed)
    position = umap_layout(one.features[shown], neighbors=neighbors, min_dist=min_dist, seed=seed)
    variables = {n: ("point", v[shown]) for n, v in _facts(one).items()}
    variables["instance"] = ("point", shown)
    result = xr.Dataset(
        {"position": (("point", "axis"), position), **variables}, coords={"axis": strings(["x", "y"])}
    )
    total = len(one.attention)
    result.attrs = origin_of(trace) | {
        "unit": "1",
        "value": "position",
        "method": "UMAP",
        "seed": seed,
        "points": "instance",
        "of": one.name,
        "colours": [n for n in ("attention", "branch", "annotation", "activated") if n in result],
    }
    if len(shown) < total:
        result.attrs["note"] = (
            f"shown are {len(shown):,} of {total:,} instances: a random sample, with the most attended"
        )
    return result


@explainer(
    title="Bags (UMAP)",
    shape="reads",
    kind="embedding",
    references=(
        _UMAP,
        _ACMIL,
        "Rosenberg and Hirschberg, V-Measure, EMNLP-CoNLL 2007: homogeneity and completeness of clusters",
    ),
)
def bag_map(
    trace: xr.DataTree,
    *,
    neighbors: Annotated[int, Interval(2, 200, "UMAP: size of a neighbourhood")] = 15,
    min_dist: Annotated[float, Interval(0, 0.99, "UMAP: how close points may lie")] = 0.1,
    seed: Annotated[int, Interval(0, 2**31 - 1, "of UMAP and of k-means")] = 0,
) -> xr.Dataset:
    """Where whole bags lie among each other, by the features that their attention pools.

    A bag's embedding is z = Σ_n a_n h_n under the branches' mean attention. With labels k-means (as many clusters as classes)
    is held against them by the V-measure, in the full space and not in the picture.

    Args:
        trace: a record of bags with features.
        neighbors: of UMAP.
        min_dist: of UMAP.
        seed: the same seed gives the same picture.

    Returns:
        embedding: position(point, axis), unit 1; name, label, instances, effective (exp H of a), entropy per point; with labels
        cluster, and the attribute v_measure.

    Raises:
        InputError: no record, or too few bags.
        RecordError: a record without bags or without features.
    """
    count = mil_of(trace).sizes["bag"]
    bags, pooled = [], []
    for number in range(count):
        one = bag_of(trace, number, features=True)
        if one.features is None:
            raise InputError(f"{one.name}: has no features")
        pooled.append(one.attention @ one.features)
        bags.append((one.name, one.label, len(one.attention), measures.effective_instances(one.attention)))
    z = np.stack(pooled)
    position = umap_layout(z, neighbors=neighbors, min_dist=min_dist, seed=seed)
    names, labels, sizes, effective = zip(*bags, strict=True)
    variables: dict[str, Any] = {
        "name": ("point", strings(names)),
        "label": ("point", strings([class_name(trace, label) for label in labels])),
        "instances": ("point", np.array(sizes)),
        "effective": ("point", np.array(effective)),
    }
    attrs = origin_of(trace) | {
        "unit": "1",
        "value": "position",
        "method": "UMAP",
        "seed": seed,
        "points": "bag",
    }
    known = min(labels) >= 0 and len(set(labels)) > 1
    if known:
        clusters = _clusters(z, len(set(labels)), seed)
        variables["cluster"] = ("point", clusters)
        attrs["v_measure"] = measures.v_measure(np.array(labels), clusters)
    attrs["colours"] = [*(["label", "cluster"] if known else []), "effective"]
    coords = {"axis": strings(["x", "y"])}
    return xr.Dataset({"position": (("point", "axis"), position), **variables}, coords=coords, attrs=attrs)


def _clusters(z: Array, count: int, seed: int) -> Array:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(count, n_init=10, random_state=seed).fit_predict(z))


def _sample(attention: Array, limit: int, seed: int) -> Array:
    total = len(attention)
    if total <= limit:
        return np.arange(total)
    sure = np.argsort(-attention, kind="stable")[: min(SURE, limit)]
    rest = np.setdiff1d(np.arange(total), sure)
    drawn = np.random.default_rng(seed).choice(rest, limit - len(sure), replace=False)
    return np.sort(np.concatenate([sure, drawn]))


def _facts(bag: OneBag) -> dict[str, Array]:
    a = bag.attention
    facts: dict[str, Array] = {
        "attention": a * len(a),
        "percentile": measures.percentiles(a),
        "activated": measures.activated(a),
        "branch": bag.branches.argmax(0) + 1,
    }
    if bag.annotation is not None:
        facts["annotation"] = np.nan_to_num(bag.annotation).astype(np.int64)
    if bag.coords is not None:
        facts |= {"x": bag.coords[:, 0], "y": bag.coords[:, 1]}
    return facts
