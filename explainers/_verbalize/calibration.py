"""A head search in sentences: does calibrating the heads it found help, and how sure is that."""

import json
from typing import Any

import numpy as np
import xarray as xr

from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, plural, signed

_NAMED = 4


def search_statements(data: xr.Dataset) -> list[Statement]:
    """The verdict first, then the held-out figures, the random control, the heads, and the cost."""
    document = json.loads(data.attrs["calibration"])
    held, heads = document["held_out"], int(data["chosen"].sum())
    found = [_verdict(held, heads, document["calibration_gain"])]
    if heads:
        found += [_accuracy(held), _loss(held), *_random(held, heads)]
    return [*found, _heads(data, document), _best(data), _cost(document)]


def _verdict(held: dict[str, Any], heads: int, on_calibration: float) -> Statement:
    metric, gain = held["metric"], held[held["metric"]]["gain"]
    these = "this head" if heads == 1 else f"these {heads} heads"
    items = plural(held["items"], "held-out item")
    if held["verdict"] == "no heads":
        return Statement(
            "verdict", "No gain: no head helped on the calibration items, so none is calibrated.", 0.0
        )
    if held["verdict"] == "gain":
        return Statement("verdict", f"Gain: calibrating {these} improves the {metric} on {items}.", gain)
    if held["verdict"] == "harm":
        return Statement("verdict", f"Harm: calibrating {these} makes the {metric} worse on {items}.", gain)
    fell = (
        f"improved it by {_number(on_calibration, metric)}"
        if on_calibration > 0
        else "did not improve it there"
    )
    text = (
        f"No gain is shown: on {items} the {metric} does not improve beyond chance, though {these} {fell} where the search "
        "looked."
    )
    return Statement("verdict", text, gain)


def _accuracy(held: dict[str, Any]) -> Statement:
    a = held["accuracy"]
    text = (
        f"Accuracy on them goes from {100 * a['before']:.1f}% to {100 * a['after']:.1f}%: {_points(a['gain'])} points, 95% "
        f"interval {_points(a['low'])} to {_points(a['high'])}; {plural(held['put_right'], 'answer')} put right, "
        f"{held['put_wrong']} put wrong (McNemar p = {held['p']:.2g})."
    )
    return Statement("accuracy", text, a["gain"])


def _loss(held: dict[str, Any]) -> Statement:
    loss = held["loss"]
    text = (
        f"The loss goes from {loss['before']:.3f} to {loss['after']:.3f} nat: it falls by {signed(loss['gain'])}, 95% interval "
        f"{signed(loss['low'])} to {signed(loss['high'])}."
    )
    return Statement("loss", text, loss["gain"])


def _random(held: dict[str, Any], heads: int) -> list[Statement]:
    gains = held["random_gain"]
    if not gains:
        return [
            Statement(
                "random", "Every candidate was chosen, so there are no random heads to compare with.", 0.0
            )
        ]
    many, metric = held["random_as_good"], held["metric"]
    some = "none" if many == 0 else f"{many}"
    text = (
        f"Of {len(gains)} sets of {plural(heads, 'random head')}, {some} {'does' if many == 1 else 'do'} as well; they gain "
        f"{_number(float(np.mean(gains)), metric)} on average."
    )
    return [Statement("random", text, float(many))]


def _heads(data: xr.Dataset, document: dict[str, Any]) -> Statement:
    settings = document["settings"]
    places = [(int(layer), head) for layer, heads in document["heads"].items() for head in heads]
    tried = int((data["items"] > 0).sum())
    if not places:
        return Statement("heads", f"{plural(tried, 'head')} were tried, none was chosen.", 0.0)
    named = [f"layer {layer} head {head}" for layer, head in places[:_NAMED]]
    if len(places) > _NAMED:
        named.append(f"{len(places) - _NAMED} more")
    text = (
        f"Of {plural(tried, 'head')} tried, {len(places)} {'was' if len(places) == 1 else 'were'} chosen ({listing(named)}); "
        f"their later sinks keep {settings['beta']:g} of their weight."
    )
    return Statement("heads", text, float(len(places)))


def _best(data: xr.Dataset) -> Statement:
    gain = data["gain"].values
    layer, head = np.unravel_index(int(np.nanargmax(gain)), gain.shape)
    items, metric = (
        int(data["items"].values[layer, head]),
        "loss" if data.attrs["unit"] == "nat" else "accuracy",
    )
    text = (
        f"The best head alone is layer {int(data['layer'].values[layer])}, head {int(data['head'].values[head])}: "
        f"{_number(float(gain[layer, head]), metric)} on {plural(items, 'calibration item')}."
    )
    return Statement("best_head", text, float(gain[layer, head]))


def _cost(document: dict[str, Any]) -> Statement:
    cost = document["cost"]
    text = (
        f"The search ran {cost['search_passes']:,} items through the model (each head on every item: "
        f"{cost['passes_one_by_one']:,}) and the test {cost['test_passes']:,}, computing "
        f"{100 * cost['layers_computed']:.0f}% of the layers, in {cost['seconds']:,.0f} seconds."
    )
    return Statement("cost", text, float(cost["search_passes"]))


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _number(gain: float, metric: str) -> str:
    return f"{signed(gain)} nat" if metric == "loss" else f"{_points(gain)} points"


GRAMMAR = {"act_heads": search_statements}
