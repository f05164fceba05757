"""Bags in sentences: how concentrated their attention is, how they lie, and where on the slide it falls."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import in_words, listing, percent, plural, quoted


def concentration_statements(data: xr.Dataset) -> list[Statement]:
    """What the strongest instances hold, how many that amounts to, whether branches differ, what annotations say.

    Raises:
        InputError: no bag.
    """
    if not data.sizes["bag"]:
        raise InputError("the result has no bag to put into words")
    curve, sizes = data["cumulative"].values, data["instances"].values
    k = min(10, curve.shape[1])
    share, even = float(curve[:, k - 1].mean()), float(np.minimum(k / sizes, 1).mean())
    bags = plural(len(sizes), "bag")
    if len(sizes) > 1:
        text = f"Over {bags}, the {k} strongest instances hold {percent(share)} of the attention on average"
    else:
        text = f"In {quoted(str(data['name'].values[0]))}, the {k} strongest instances hold {percent(share)} of the attention"
    found = [Statement("top", f"{text}, where an even share is {percent(even)}.", share)]
    effective, size = float(data["effective"].mean()), float(np.mean(sizes))
    text = f"It weighs like {effective:.1f} equally attended instances of {size:,.{0 if size >= 100 else 1}f}"
    entropy = data["entropy"].values
    if np.isfinite(entropy).any():
        text += f" (normalised entropy {np.nanmean(entropy):.2f})"
    found.append(Statement("effective", f"{text}.", effective))
    active = float(data["activated"].mean())
    part = percent(float((data["activated"] / sizes).mean()))
    text = f"More than an even share goes to {active:,.1f} instances, {part} of a bag."
    found.append(Statement("activated", text, active))
    return found + _branches(data) + _patterns(data)


def _branches(data: xr.Dataset) -> list[Statement]:
    branches, overlap = data.sizes["branch"], data["overlap"].values
    if branches < 2:
        return [Statement("branches", "The model has one branch of attention.", 1.0)]
    mean = float(np.nanmean(overlap))
    words = (
        "look at the same instances"
        if mean > 0.8
        else "look at different instances"
        if mean < 0.3
        else "partly overlap"
    )
    return [Statement("overlap", f"Its {branches} branches {words} (mean cosine {mean:.2f}).", mean)]


def _patterns(data: xr.Dataset) -> list[Statement]:
    if "recall" not in data:
        return []
    found = []
    for pattern, recall, bags in zip(
        *(data[n].values for n in ("pattern", "recall", "pattern_bags")), strict=True
    ):
        text = (
            f"Of the instances annotated {pattern}, {percent(float(recall))} get more than an even share "
            f"({plural(int(bags), 'bag')})."
        )
        found.append(Statement(f"recall_{pattern}", text, float(recall)))
    return found


def embedding_statements(data: xr.Dataset) -> list[Statement]:
    """What is laid out, by which method, and whether what matters lies together.

    Raises:
        InputError: no point.
    """
    if not data.sizes["point"]:
        raise InputError("the result has no point to put into words")
    unit, count = str(data.attrs["points"]), data.sizes["point"]
    method, seed = data.attrs["method"], int(data.attrs["seed"])
    text = f"Shown are {plural(count, unit)} by {method} (seed {seed}); nearness means something, distance across does not."
    found = [Statement("points", text, float(count))]
    return found + (_instances(data) if "attention" in data else _bags(data))


def _instances(data: xr.Dataset) -> list[Statement]:
    active, a = data["activated"].values.astype(bool), data["attention"].values
    share = float(active.mean())
    count = plural(int(active.sum()), "instance")
    text = f"More than an even share of the attention goes to {count}, {percent(share)} of those shown."
    found = [Statement("activated", text, share)]
    order = np.argsort(-a)[: max(1, min(10, len(a)))]
    position = data["position"].values
    spread = float(np.linalg.norm(position[order] - position[order].mean(0), axis=1).mean())
    whole = float(np.linalg.norm(position - position.mean(0), axis=1).mean())
    ratio = spread / whole if whole > 0 else 0.0
    words = (
        "lie close together"
        if ratio < 0.4
        else "are spread over the map"
        if ratio > 0.8
        else "lie in part of the map"
    )
    text = f"The {len(order)} most attended {words}: {ratio:.2f} of the spread of all."
    return [*found, Statement("spread", text, ratio)]


def _bags(data: xr.Dataset) -> list[Statement]:
    effective = float(data["effective"].mean())
    found = [
        Statement("effective", f"A bag rests on {effective:.1f} effective instances on average.", effective)
    ]
    if "v_measure" in data.attrs:
        v = float(data.attrs["v_measure"])
        text = f"Clusters of the pooled features agree with the labels to V = {v:.2f} (1 would be complete, 0 not at all)."
        return [*found, Statement("v_measure", text, v)]
    text = "The bags have no labels that the clusters could be held against."
    return [*found, Statement("no_labels", text, 0.0)]


def overlay_statements(data: xr.Dataset) -> list[Statement]:
    """The strongest patch, the regions above an even share, and whether raw attention stands out at all.

    Raises:
        InputError: no patch.
    """
    if not data.sizes["patch"]:
        raise InputError("the result has no patch to put into words")
    a = data["attention"].values
    top, count = int(a.argmax()), len(a)
    place = f"x {data['x'].values[top]:,.0f}, y {data['y'].values[top]:,.0f}"
    patches, name = plural(count, "patch", "patches"), quoted(str(data.attrs["of"]))
    text = f"The strongest of {patches} in {name} gets {a[top]:.1f} even shares ({place})."
    found = [Statement("strongest", text, float(a[top]))]
    mass, size = data["region_mass"].values, data["region_patches"].values
    if not len(mass):
        found.append(Statement("regions", "No patch stands above the threshold.", 0.0))
    else:
        count_of = f"{in_words(len(mass))} regions" if len(mass) > 1 else "one region"
        held = percent(float(mass.sum()))
        text = f"Above the threshold {'lie' if len(mass) > 1 else 'lies'} {count_of} with {held} of the attention"
        found.append(
            Statement(
                "regions", f"{text} on {percent(size.sum() / count)} of the patches.", float(mass.sum())
            )
        )
        first = [
            f"{percent(float(m))} ({plural(int(n), 'patch', 'patches')})"
            for m, n in zip(mass[:3], size[:3], strict=True)
        ]
        verb = "holds" if len(first) == 1 else "hold"
        found.append(Statement("largest", f"The largest {verb} {listing(first)} of it.", float(mass[0])))
    if a[top] < 2:
        text = "Attention is nearly even here: the percentile map is colourful all the same."
    else:
        text = f"Half of the attention lies on {percent(_half(a))} of the patches."
    return [*found, Statement("half", text, _half(a))]


def _half(a: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    """The smallest share of patches that holds half of the attention."""
    falling = np.sort(a)[::-1].cumsum()
    return float((np.searchsorted(falling, falling[-1] / 2) + 1) / len(a))


GRAMMAR: dict[str, Callable[[xr.Dataset], list[Statement]]] = {
    "concentration": concentration_statements,
    "embedding": embedding_statements,
    "slide_overlay": overlay_statements,
}
