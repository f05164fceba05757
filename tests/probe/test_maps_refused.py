"""Maps in a folder, and what is refused by name, with the network as it was."""

import pytest
import torch
from tiny_cnns import Gated, picture, seeded
from torch import nn
from torch.nn import functional as F

from probe._maps import maps
from probe.errors import InputError, ModelError, RecordError
from probe.record import open_record


@pytest.fixture
def gated():
    return seeded(Gated())


def steps_of(model, x):
    """Every intermediate of `Gated`, by hand, with a graph."""
    stem = model.stem[1](model.stem[0](x))
    relu = F.relu(stem)
    squeeze = model.squeeze.factors(relu)
    body = model.body(relu * squeeze[:, :, None, None])
    pooled = F.max_pool2d(F.relu(body), 2)
    spatial = model.spatial.factors(pooled)
    logits = model.head((pooled * spatial).mean((2, 3)))
    return {"stem": stem, "squeeze": squeeze, "body": body, "spatial": spatial, "logits": logits}


def fingerprint(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
    state = {n: t.clone() for n, t in model.state_dict().items()}
    return hooks, [p.grad for p in model.parameters()], state, [p.requires_grad for p in model.parameters()]


def assert_untouched(model, before):
    hooks, grads, state, requires = fingerprint(model)
    assert (hooks, grads, requires) == (before[0], before[1], before[3])
    assert all(torch.equal(state[n], before[2][n]) for n in state)


def test_a_folder_holds_the_same(gated, tmp_path):
    memory = maps(gated, picture(), layers=["stem.1", "body"], gradient_of=0)
    store = tmp_path / "r.zarr"
    maps(gated, picture(), layers=["stem.1", "body"], gradient_of=0, store=store)
    tree = open_record(store)
    for path in ("maps/stem.1", "maps/body", "gates/squeeze", "gates/spatial", "output"):
        assert tree[path].to_dataset().equals(memory[path].to_dataset()), path
    assert tree.attrs["layers"] == ["stem.1", "body"]
    with pytest.raises(InputError, match="exists already"):
        maps(gated, picture(), layers="body", store=store)
    maps(gated, picture(), layers="body", store=store, overwrite=True)
    assert list(open_record(store)["maps"].children) == ["body"]
    (next((store / "maps" / "body" / "activation").rglob("c/*/*/*/*"))).unlink()
    with pytest.raises(RecordError, match="damaged"):
        open_record(store)
    assert [p.name for p in tmp_path.iterdir()] == ["r.zarr"]


REFUSED = {
    "no such layer": (lambda m, x: maps(m, x, layers="boody"), InputError, "no module is called 'boody'"),
    "no layers": (lambda m, x: maps(m, x, layers=[]), InputError, "got nothing"),
    "no map": (lambda m, x: maps(m, x, layers="head"), InputError, r"head: its output is \[2, 5\]"),
    "no map of a pattern": (lambda m, x: maps(m, x, layers="squeeze.*"), InputError, "gave a map"),
    "no such gate": (lambda m, x: maps(m, x, layers="body", gates=["x"]), InputError, "gates: no module"),
    "class": (
        lambda m, x: maps(m, x, layers="body", gradient_of=5),
        InputError,
        "expected a class from 0 to 4",
    ),
    "classes": (
        lambda m, x: maps(m, x, layers="body", gradient_of=[1]),
        InputError,
        "one for each of 2 samples",
    ),
    "word": (lambda m, x: maps(m, x, layers="body", gradient_of="best"), InputError, "'predicted'"),
    "function": (
        lambda m, x: maps(m, x, layers="body", gradient_of=lambda out: out),
        InputError,
        r"gave \[2, 5\]",
    ),
    "detached": (
        lambda m, x: maps(m, x, layers="body", gradient_of=lambda out: out.detach()[:, 0]),
        ModelError,
        "no gradient",
    ),
    "three dimensions": (
        lambda m, x: maps(m, x[0], layers="body"),
        InputError,
        "expected a prepared picture",
    ),
    "whole numbers": (lambda m, x: maps(m, x.long(), layers="body"), InputError, "of floats"),
    "two pictures": (
        lambda m, x: maps(m, {"x": x, "y": x}, layers="body"),
        InputError,
        "exactly one picture",
    ),
    "NaN": (lambda m, x: maps(m, x * torch.nan, layers="body"), InputError, "NaN"),
    "training": (lambda m, x: maps(m.train(), x, layers="body"), ModelError, "training mode"),
    "a part in training": (
        lambda m, x: (m.stem.train(), maps(m, x, layers="body")),
        ModelError,
        "stem: is in training",
    ),
    "inside": (lambda m, x: maps(m, x[:, :2], layers="body"), RuntimeError, "channels"),
    "no model": (lambda _m, x: maps("resnet", x, layers="body"), InputError, "got str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_leave_the_model_as_it_was(gated, case):
    act, error, words = REFUSED[case]
    hooks = fingerprint(gated)[0]
    with pytest.raises(error, match=words):
        act(gated, picture())
    gated.eval()
    assert fingerprint(gated)[0] == hooks
    assert gated(picture()).requires_grad  # gradients are on again


def test_what_has_no_gradient_is_refused_by_name():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.side, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                y = self.trunk(x)
            self.side(x)
            return self.head(y.mean((2, 3)) + 0 * x.mean())

    for layer, words in (("trunk", "no gradient passes it"), ("side", "the score does not depend on it")):
        with pytest.raises(ModelError, match=f"{layer}: {words}"):
            maps(seeded(Frozen()), picture(), layers=layer, gradient_of=0)


def test_statistics_of_the_batch_couple_samples():
    model = seeded(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )
    )
    with pytest.raises(ModelError, match="1: uses the statistics of the batch"):
        maps(model, picture(), layers="0", gradient_of=0)
    maps(model, picture(1), layers="0", gradient_of=0)


def test_a_module_that_is_called_twice_is_refused_and_nan_in_a_map_too():
    relu = nn.ReLU()
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu))
    with pytest.raises(ModelError, match="1: called more than once"):
        maps(model, picture(), layers="1")
    with torch.no_grad():
        model[2].bias[0] = torch.nan
    with pytest.raises(ModelError, match="2: NaN or infinity in sample 0"):
        maps(model, picture(), layers="2")
