"""The promises of capture over all families: exact in every tower, outputs unchanged to the bit, the model as it was."""

import inspect

import pytest
import torch
from family_sweep import BACKENDS, REFUSED, SIDES, STATISTICS, compare, expected_towers, state, tensors
from family_table import END, START, table
from house import ROOT
from tiny_models import inputs_for, tiny

import probe
from probe.record import towers

CASES = [(name, backend) for name in BACKENDS for backend in BACKENDS[name]]
EXACT = [case for case in CASES if case[0] not in REFUSED]
FIRST = {name: backends[0] for name, backends in BACKENDS.items()}


def cells(cases):
    """Every family with each padding; one backend and one side of each in the fast run."""
    found = []
    for name, backend in cases:
        for side in SIDES[name]:
            fast = backend == FIRST[name] and side in ("right", "none")
            marks = () if fast else pytest.mark.slow
            found.append(pytest.param(name, backend, side, marks=marks, id=f"{name}-{backend}-{side}"))
    return found


def outputs(model, inputs):
    """All tensors of the model's output, without capture."""
    known = inspect.signature(model.forward).parameters
    extras = {
        name: value for name, value in {"use_cache": False, "logits_to_keep": 1}.items() if name in known
    }
    with torch.no_grad():
        return list(tensors(model(**inputs, **extras)))


def captured(model, inputs, **options):
    """A capture, and all tensors that the model put out during it."""
    seen = []
    handle = model.register_forward_hook(lambda module, given, output: seen.append(list(tensors(output))))
    try:
        tree = probe.capture(model, inputs, **options)
    finally:
        handle.remove()
    return tree, seen


@pytest.mark.parametrize(("name", "backend", "side"), cells(EXACT))
def test_every_tower_is_exact_and_the_outputs_are_untouched(name, backend, side):
    model = tiny(name, backend)
    inputs = inputs_for(name, padded=None if side == "none" else side)
    plain = outputs(model, inputs)  # also lets transformers install what it installs with the first run
    before = state(model)
    tree, [during] = captured(model, inputs, stats=STATISTICS)
    assert state(model) == before
    assert set(towers(tree)) == expected_towers(name)
    checks = tree["validity"].to_dataset().to_dataframe()
    assert checks["passed"].all(), checks.query("not passed").to_string()
    assert len(plain) == len(during)
    assert all(torch.equal(a, b) for a, b in zip(plain, during, strict=True))
    compare(tree, model, inputs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(name):
    model = tiny(name, BACKENDS[name][0])
    inputs = inputs_for(name)
    outputs(model, inputs)
    before = state(model)
    with pytest.raises(probe.ModelError, match=REFUSED[name]):
        probe.capture(model, inputs)
    assert state(model) == before


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in REFUSED])
def test_the_model_is_as_before_on_every_way_out(name):
    model = tiny(name, BACKENDS[name][0])
    inputs = inputs_for(name)
    outputs(model, inputs)
    before = state(model)
    with pytest.raises(probe.InputError, match="layers"):
        probe.capture(model, inputs, layers=["no.such.module"])
    assert state(model) == before
    handle = last_called(model, inputs).register_forward_pre_hook(_fail)
    planted = state(model)
    with pytest.raises(RuntimeError, match="planted in the model"):
        probe.capture(model, inputs)
    assert state(model) == planted
    handle.remove()
    assert state(model) == before


def last_called(model, inputs):
    """The part of a model that runs last."""
    order = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: order.append(module)
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return order[-1]


def _fail(*_):
    raise RuntimeError("planted in the model")


@pytest.mark.slow
def test_the_readme_holds_the_table_of_families():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.split(START)[1].split(END)[0].strip() == table()
