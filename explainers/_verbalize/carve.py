"""What `carve` found in sentences: the answer before and after, what was kept and why, and how much the model looked at all."""

import numpy as np
import xarray as xr

from probe.explainers._verbalize.areas import MOST_NAMED, place
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import in_words, listing, percent, probability, quoted

EVEN = 0.95


def carve_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a result of `carve`."""
    return [*_answers(data), *_kept(data), *_looking(data)]


GRAMMAR = {"carve": carve_statements}


def _said(text: str) -> str:
    return quoted(text) if text else "nothing"


def _answers(data: xr.Dataset) -> list[Statement]:
    attrs = data.attrs
    before, chance = str(attrs["answer_before"]), float(attrs["answer_before_probability"])
    if not attrs["contrast"]:
        text = f"Asked {quoted(str(attrs['question']))}, the model says {_said(before)} (probability {probability(chance)})."
        return [Statement("answer", text, chance)]
    after, sure = str(attrs["target"]), float(attrs["target_probability"])
    part = "the part that was kept"
    about = part if attrs["answer_on"] == "refined" else f"the whole picture and {part}"
    text = f"Asked {quoted(str(attrs['question']))} again about {about}, the model says {_said(after)} "
    text += f"(probability {probability(sure)})."
    same = before.strip().lower() == after.strip().lower()
    told = "the same" if same else _said(before)
    whole = f"About the whole picture it said {told} (probability {probability(chance)})."
    return [Statement("answer", text, sure), Statement("answer_before", whole, chance)]


def _kept(data: xr.Dataset) -> list[Statement]:
    if not data.attrs["contrast"]:
        text = (
            "There was no contrast: the map is the same everywhere, so that nothing was cut out and the answer is that on the "
            "original picture."
        )
        return [Statement("no_contrast", text, 0.0)]
    count, (high, wide) = data.sizes["area"], (data.sizes["row"], data.sizes["column"])
    named, sizes = [], data["area_size"].values
    for number in range(min(count, MOST_NAMED)):
        rows, columns = np.nonzero(data["area_of"].values == number + 1)
        named.append(
            f"at the {place((rows.mean() + 0.5) / high, (columns.mean() + 0.5) / wide)} ({percent(float(sizes[number]))})"
        )
    more = f" and {in_words(count - len(named))} more" if count > len(named) else ""
    noun = "one region" if count == 1 else f"{in_words(count)} regions"
    covered = float(sizes.sum())
    text = f"Kept: {noun} {listing(named)}{more}, together {percent(covered)} of the picture."
    map_, inside = data["focus"].values[0], data["area_of"].values > 0
    outside = float(np.nanmean(np.where(inside, np.nan, map_))) if not inside.all() else float("nan")
    found = [Statement("kept", text, covered)]
    ratio = float(np.nanmean(map_[inside])) / outside if outside else float("nan")
    if np.isfinite(ratio):
        measure = (
            "the attention under the question"
            if data.attrs["unit"] == "attention"
            else "the attention under the question, divided by that under the general instruction,"
        )
        found.append(
            Statement(
                "why",
                f"Why there: {measure} is {ratio:.1f} times as high as in the rest of the picture.",
                ratio,
            )
        )
    return found


def _looking(data: xr.Dataset) -> list[Statement]:
    mass, general = (float(data[f"{name}_mass"].mean()) for name in ("question", "general"))
    first, last = int(data["hidden_layer"][0]), int(data["hidden_layer"][-1])
    where = f"Layer {first} spends" if first == last else f"Layers {first} to {last} spend"
    text = f"{where} {percent(mass)} of their attention on the picture under the question, "
    text += f"{percent(general)} under the general instruction."
    if first == last:
        text = text.replace("of their", "of its")
    found = [Statement("visual_mass", text, mass)]
    most = float(np.log(data.attrs["image_tokens"]))
    before, other = (float(data[f"{name}_entropy"].mean()) for name in ("question", "general"))
    text = f"Entropy of that attention: {before:.2f} nats under the question, {other:.2f} under the general instruction; "
    text += f"{most:.2f} at most."
    found.append(Statement("entropy", text, before))
    if before > EVEN * most:
        text = "The question's attention is spread almost evenly over the picture: read the map with care."
        found.append(Statement("even", text, before / most))
    return found
