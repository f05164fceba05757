"""ACT over all families: what explicit maps of their eager copy give, untouched with beta = 1, or refused by name."""

import pytest
import torch
from act_twin import Twin
from family_sweep import BACKENDS, REFUSED, tensors
from tiny_models import inputs_for, kind, tiny

from probe import ModelError
from probe import explainers as ex
from probe.taps.hf import sites
from probe.taps.streams import stream_of

#: Towers that are refused, and a word of the message.
PIECES = ("qwen2-vl", "qwen2.5-vl-windows", "qwen3-vl")
A = 1.5


def towers_of(model):
    """Modules of each tower in order."""
    found = {}
    for site in sites(model):
        found.setdefault(stream_of(model, site.name, site.module).name, []).append(site.module)
    return found


def cases():
    return [pytest.param(name, backend, marks=() if backend == BACKENDS[name][0] else pytest.mark.slow)
            for name in BACKENDS for backend in BACKENDS[name]]  # fmt: skip


def outputs(model, inputs):
    with torch.no_grad():
        return list(tensors(model(**inputs)))


@pytest.mark.parametrize(("name", "backend"), cases())
def test_every_tower_is_steered_exactly_or_refused_by_name(name, backend):
    model = tiny(name, backend)
    inputs = inputs_for(name, padded=None if kind(name) == "vision" else "right")
    plain = outputs(model, inputs)
    for tower, modules in towers_of(model).items():
        numbers = [getattr(module, "layer_idx", None) for module in modules]
        numbers = (
            list(range(len(modules))) if None in numbers or len(set(numbers)) < len(numbers) else numbers
        )
        heads = dict.fromkeys(numbers, (0, 1))
        refused = REFUSED.get(name) or ("another sequence" if tower == "cross" else None)
        refused = refused or ("in pieces" if tower == "vision" and name in PIECES else None)
        if refused:
            with pytest.raises(ModelError, match=refused), ex.act(model, heads, alpha=A, tower=tower):
                outputs(model, inputs)
            continue
        with ex.act(model, heads, alpha=A, tower=tower) as steering:
            got = outputs(model, inputs)
        with ex.act(model, heads, alpha=A, tower=tower, beta=1.0):
            same = outputs(model, inputs)
        assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True)), tower
        assert float(steering.report()["sinks"].max()) > 0, tower
        assert not all(torch.equal(a, b) for a, b in zip(plain, got, strict=True)), tower
        held_against_explicit_maps(model, inputs, tower, heads, modules, numbers, steering)


def held_against_explicit_maps(model, inputs, tower, heads, modules, numbers, steering):
    """The freed mass of every row and the sinks of every head, from the maps of an eager copy."""
    if type(model).__name__.startswith("Albert"):
        return  # one module for all layers: its twin cannot tell them apart
    names = {id(module): number for module, number in zip(modules, numbers, strict=True)}
    places = {n: names[id(m)] for n, m in model.named_modules() if id(m) in names}
    report = steering.report()
    valid = torch.from_numpy(report["row_freed"].isel(calibrated=0).notnull().values)
    twin = Twin(model, heads, valid, dtype=torch.float32, a=A, beta=0.4)
    inside = {id(m): places[n] for n, m in twin.model.named_modules() if n in places}
    twin.layer_of = lambda module: inside.get(id(module))
    with twin.steered() as slow:
        slow(**inputs)
    found = report["sink"].values
    for number, (layer, head) in enumerate((n, head) for n in heads for head in heads[n]):
        for b in range(report.sizes["sample"]):
            assert set(found[number, b].nonzero()[0].tolist()) == twin.sinks[layer][b, head], (
                tower,
                layer,
                head,
            )
