"""Maps over a picture in sentences: the answer, where its evidence lies, how much of it, and how far to trust it."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import in_words, listing, percent, plural, probability, quoted

MOST_NAMED = 3
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_FEW = 0.05


def areas_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of an image_overlay; `relevance` has its own, others name where each map is strongest.

    Raises:
        InputError: a map without any finite number.
    """
    if not np.isfinite(data[data.attrs["value"]].values).any():
        raise InputError(f"the map {data.attrs['value']!r} has no finite number to put into words")
    special: dict[str, Callable[[xr.Dataset], list[Statement]]] = {"relevance": _relevance}
    return special.get(str(data.attrs["explainer"]), _maps)(data)


GRAMMAR = {"image_overlay": areas_statements}


def place(row: float, column: float) -> str:
    """Where a point lies, its coordinates in [0, 1]: "top left", "centre", "bottom right"."""
    vertical, across = _ROWS[min(2, int(3 * row))], _COLUMNS[min(2, int(3 * column))]
    if vertical == "middle":
        return "centre" if across == "centre" else f"{across} of the centre"
    return f"{vertical} {across}"


def concentration(map_: np.ndarray[Any, Any]) -> float:
    """The smallest part of the picture that holds half of what is positive; NaN if nothing is."""
    support = np.sort(np.clip(map_, 0, None).ravel().astype(np.float64))[::-1]
    if not support[0] > 0:
        return math.nan
    return float((np.searchsorted(np.cumsum(support), support.sum() / 2) + 1) / support.size)


def _relevance(data: xr.Dataset) -> list[Statement]:
    found = [*_answer(data.attrs), *_areas(data), *_spread(data), *_account(data.attrs)]
    if "faithfulness_verdict" in data.attrs:
        found.append(
            Statement(
                "faithfulness",
                str(data.attrs["faithfulness_verdict"]),
                float(data.attrs["faithfulness_sigma"]),
            )
        )
    return found


def _answer(attrs: dict[str, Any]) -> list[Statement]:
    said, chance = str(attrs["prediction"]), float(attrs["prediction_probability"])
    found = [
        Statement(
            "prediction", f"The network sees {quoted(said)} (probability {probability(chance)}).", chance
        )
    ]
    if attrs["target"] != said:
        own = float(attrs["target_probability"])
        name = quoted(str(attrs["target"]))
        text = f"Explained is another class, {name} (probability {probability(own)})."
        if math.isnan(own):
            own, text = float(attrs["score_value"]), f"Explained is another output, {name}."
        found.append(Statement("target", text, own))
    return found


def _areas(data: xr.Dataset) -> list[Statement]:
    count, target = data.sizes.get("area", 0), quoted(str(data.attrs["target"]))
    if not count:
        return [Statement("no_area", f"No area stands out as speaking for {target}.", 0.0)]
    height, width = data.sizes["row"], data.sizes["column"]
    shares, sizes = data["area_share"].values, data["area_size"].values
    named = []
    for number in range(min(count, MOST_NAMED)):
        numbers = data["area_of"].values == number + 1
        rows, columns = np.nonzero(numbers)
        where = place((rows.mean() + 0.5) / height, (columns.mean() + 0.5) / width)
        named.append(
            f"one at the {where} ({percent(float(sizes[number]))} of the picture, "
            f"{percent(float(shares[number]))} of the evidence)"
        )
    total, covered = float(shares.sum()), float(sizes.sum())
    if count == 1:
        text = f"The evidence for {target} stands out in one area, {named[0].removeprefix('one ')}."
        return [Statement("areas", text, total)]
    more = count - len(named)
    if more:
        named.append(f"{in_words(more)} smaller")
    text = (
        f"The evidence for {target} stands out in {plural(count, 'area') if count > 12 else in_words(count) + ' areas'}: "
        f"{listing(named)}."
    )
    sum_text = f"Together these areas cover {percent(covered)} of the picture and hold {percent(total)} of the evidence."
    return [Statement("areas", text, total), Statement("areas_together", sum_text, covered)]


def _spread(data: xr.Dataset) -> list[Statement]:
    relevance = data[data.attrs["value"]].values[0]
    half = concentration(relevance)
    found = []
    if not math.isnan(half):
        found.append(
            Statement(
                "concentration",
                f"Half of the evidence lies on {percent(half)} of the picture's pixels.",
                half,
            )
        )
    size = float(np.abs(relevance).sum()) or 1.0
    against = float(np.clip(-relevance, 0, None).sum()) / size
    text = (
        f"Little speaks against it ({percent(against)} of all relevance)."
        if against < _FEW
        else f"Of all relevance, {percent(against)} speaks against it."
    )
    return [*found, Statement("against", text, against)]


def _account(attrs: dict[str, Any]) -> list[Statement]:
    ratio, account = float(attrs["conservation_ratio"]), json.loads(attrs["conservation"])
    method = str(attrs["method"])
    if not attrs["conserving"]:
        text = f"These scores ({method}) rank places; they do not add up to the score of the class."
        return [Statement("account", text, ratio)]
    biases = min(1.0, account["biases"] / account["output"]) if account["output"] else 0.0
    if not attrs["sound"]:
        why = (
            f"the network's own constants hold {percent(biases)} of it"
            if biases > 0.5
            else f"the ratio is {ratio:.2f}"
        )
        text = f"The map does not add up to the score ({why}): it ranks places, its parts are no shares of the answer."
        return [Statement("account", text.replace("-", "−"), ratio)]
    text = f"The map accounts for {percent(ratio)} of the score"
    text += f"; the network's own constants hold {percent(biases)}." if 0.005 <= biases <= 1 else "."
    return [Statement("account", text, ratio)]


def _maps(data: xr.Dataset) -> list[Statement]:
    values, names = data[data.attrs["value"]].values, [str(name) for name in data["name"].values]
    found = _answer(data.attrs) if "prediction" in data.attrs else []
    for map_, name in zip(values, names, strict=True):
        row, column = np.unravel_index(int(np.nanargmax(map_)), map_.shape)
        where = place((row + 0.5) / map_.shape[0], (column + 0.5) / map_.shape[1])
        half = concentration(np.nan_to_num(map_))
        if math.isnan(half):
            found.append(Statement("map", f"{quoted(name)} is 0 or below everywhere.", 0.0))
            continue
        text = (
            f"{quoted(name)} is strongest at the {where}; half of it lies on {percent(half)} of the picture."
        )
        found.append(Statement("map", text, half))
    if "agreement" in data.attrs:
        value = float(data.attrs["agreement"])
        word = "agree closely" if value > 0.8 else "agree in part" if value > 0.4 else "hardly agree"
        text = f"The first two maps {word} (correlation {value:.2f}).".replace("-", "−")
        found.append(Statement("agreement", text, value))
    return found
