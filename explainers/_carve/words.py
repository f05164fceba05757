"""Where each word of an answer looked, and which heads look at the picture most."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe._pictures import fitted, read_picture, source_of
from probe.explainers._carve.asking import Answer, ask, depth, module_of
from probe.explainers._carve.build import SHOWN, layers_of
from probe.explainers._carve.contrast import entropy
from probe.explainers._carve.grids import surface
from probe.record import strings


def by_word(answer: Answer) -> tuple[list[str], list[slice]]:
    """The answer's tokens joined to words (a token that does not begin with a space or a sign goes on with the word before).

    Tokenizers that write no spaces into their pieces give one word for each token.
    """
    spaced = any(word.startswith(" ") for word in answer.words)
    words: list[str] = []
    spans: list[slice] = []
    for n, word in enumerate(answer.words):
        if spaced and words and word and not word.startswith(" ") and word.isalnum():
            words[-1] += word
            spans[-1] = slice(spans[-1].start, n + 1)
        else:
            words.append(word.strip() or word)
            spans.append(slice(n, n + 1))
    return words, spans


def build(model: Any, picture: Any, question: str, layers: str, by: str, most: int) -> xr.Dataset:
    """See `image_attention`."""
    from PIL import Image

    module, _ = module_of(model)
    count = depth(module)
    chosen = tuple(range(count)) if layers == "all" else layers_of(layers, count)
    whole = read_picture(picture)
    answer = ask(model, [whole], question, layers=chosen, most=most)
    shown = fitted(whole, SHOWN)
    words, spans = by_word(answer)
    if by == "word":
        names = [f"{n + 1}: {word}" for n, word in enumerate(words)]
        values = [answer.rows[span].mean(axis=(0, 1, 2)) for span in spans]
    else:
        names = [f"layer {layer}" for layer in chosen]
        values = [answer.rows[:, n].mean(axis=(0, 1)) for n in range(len(chosen))]
    size = (whole.height, whole.width)
    maps = [surface(v, answer.table, answer.places, size, shown).astype(np.float32) for v in values]
    data = xr.Dataset(
        {
            "attention": (("map", "row", "column"), np.stack(maps)),
            "picture": (
                ("row", "column", "colour"),
                np.asarray(whole.resize(shown[::-1], Image.Resampling.LANCZOS)),
            ),
            "map_mass": ("map", np.array([v.sum() for v in values], np.float64)),
            "map_entropy": ("map", entropy(np.stack(values)), {"unit": "nat"}),
            "head_mass": (("hidden_layer", "head"), head_mass(answer)),
        },
        coords={
            "name": ("map", strings(names)),
            "signed": ("map", np.zeros(len(names), np.bool_)),
            "hidden_layer": np.array(chosen),
        },
    )
    data.attrs = {
        "model": str(getattr(model, "name", type(model).__name__)),
        "unit": "attention",
        "value": "attention",
        "target": answer.text,
        "target_probability": answer.probability,
        "prediction": answer.text,
        "prediction_probability": answer.probability,
        "question": question,
        "image_tokens": len(answer.places),
        "method": f"attention of each {by}, mean of heads, layers {chosen[0]} to {chosen[-1]}",
        "slider": by,
        "input": source_of(picture),
        "task": "visual-question-answering",
    }
    return data


def head_mass(answer: Answer) -> NDArray[np.float64]:
    """What each head gives the picture of its attention, mean over the answer's steps, [layers, heads]."""
    return np.asarray(answer.rows.sum(axis=-1).mean(axis=0), dtype=np.float64)
