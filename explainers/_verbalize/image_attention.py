"""What `image_attention` found in sentences: the answer, where each word looked, and the heads that look most."""

import numpy as np
import xarray as xr

from probe.explainers._verbalize.areas import concentration, place
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, percent, probability, quoted

MOST = 8


def image_attention_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a result of `image_attention`."""
    attrs = data.attrs
    chance, said = float(attrs["prediction_probability"]), str(attrs["prediction"])
    text = f"Asked {quoted(str(attrs['question']))}, the model says {quoted(said) if said else 'nothing'}"
    found = [Statement("answer", f"{text} (probability {probability(chance)}).", chance)]
    maps, names = data["attention"].values, [str(name) for name in data["name"].values]
    for number, name in list(enumerate(names))[:MOST]:
        map_ = maps[number]
        row, column = np.unravel_index(int(np.nanargmax(map_)), map_.shape)
        where = place((row + 0.5) / map_.shape[0], (column + 0.5) / map_.shape[1])
        mass = float(data["map_mass"][number])
        who = quoted(name.split(": ", 1)[-1]) if ": " in name else name.capitalize()
        half = concentration(np.nan_to_num(map_))
        text = f"{who} looks most at the {where} (half of its look on {percent(half)} of the picture; "
        text += f"{percent(mass)} of its attention)."
        found.append(Statement("look", text, mass))
    given = data["head_mass"].values
    order = np.argsort(-given, axis=None, kind="stable")[:3]
    told = []
    for flat in order:
        layer, head = np.unravel_index(int(flat), given.shape)
        told.append(
            f"layer {int(data['hidden_layer'][layer])} head {int(head)} ({percent(float(given[layer, head]))})"
        )
    found.append(
        Statement("heads", f"The heads that look at the picture most: {listing(told)}.", float(given.max()))
    )
    return found


GRAMMAR = {"image_attention": image_attention_statements}
