"""The table of families for the README, made by running them: `python tests/support/family_table.py`."""

import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from family_sweep import BACKENDS, SIDES
from tiny_models import FAMILIES, MODELS, OUTSIDE, inputs_for, tiny

import probe
from probe.record import towers

HEAD = "| family | recorded | rules proven | backends | padding | decoding with a cache |\n|---|---|---|---|---|---|"
START, END = "<!-- families: made by tests/support/family_table.py -->", "<!-- end of families -->"


def row(name):
    """One line of the table: what a capture of the tiny model of a family gives, or why it is refused."""
    title = f"{(MODELS.get(name) or FAMILIES[name])[0]} ({name})"
    slow = name in OUTSIDE
    model = tiny(name, "eager" if slow else BACKENDS[name][0])
    try:
        tree = probe.capture(model, inputs_for(name))
    except probe.ModelError as error:
        return f"| {title} | refused: {_short(error)} | – | – | – | – |"
    assert tree["validity"].attrs["passed"]
    rules = ", ".join(sorted(set(tree.attrs["rules"])))
    backends = "eager, written out" if slow else ", ".join(BACKENDS[name])
    sides = "–" if SIDES.get(name) == ("none",) else "right, left"
    return f"| {title} | {', '.join(sorted(towers(tree)))} | {rules} | {backends} | {sides} | {_decoding(name, model)} |"


def _decoding(name, model):
    if not model.can_generate():
        return "–"
    inputs = {n: x for n, x in inputs_for(name).items() if not n.startswith("decoder_")}
    steps = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    try:
        model.generate(**inputs, **steps)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return "transformers itself fails"
    try:
        tree, _ = probe.capture_generation(model, inputs, generate=steps)
    except (probe.ModelError, probe.InputError) as error:
        return f"refused: {_short(error)}"
    assert tree["validity"].attrs["passed"]
    return "exact"


def _short(error):
    text = str(error).split(": ", 1)[-1].split(";")[0]
    return text if len(text) <= 90 else text[:87].rsplit(" ", 1)[0] + " …"


def table():
    """The whole table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return "\n".join([HEAD, *(row(name) for name in sorted([*MODELS, *FAMILIES]))])


if __name__ == "__main__":
    readme = Path(__file__).parents[2] / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")
