"""The attention of MIL models as people write them: equal to the weights that the model itself computes with, or refused."""

import numpy as np
import pytest
import torch
from mil_models import WIDTH, Acmil, Branches, Clam, Gated, bag, seeded
from torch import nn
from torch.nn import functional as F

from probe._mil import capture_mil
from probe.errors import InputError, ModelError
from probe.record import open_record


def own_gated(model, x):
    """The weights of `Gated` in float64, [K, N]."""
    h = torch.relu(x.double() @ model.features[0].weight.double().T + model.features[0].bias.double())
    t = torch.tanh(h @ model.tanh.weight.double().T + model.tanh.bias.double())
    g = torch.sigmoid(h @ model.gate.weight.double().T + model.gate.bias.double())
    return ((t * g) @ model.score.weight.double().T + model.score.bias.double()).softmax(0).T.detach().numpy()


@pytest.mark.parametrize("instances", [1, 2, 3, 50, 4097])
@pytest.mark.parametrize("branches", [1, 3])
def test_gated_attention(instances, branches):
    model, x = seeded(Gated(branches)), bag(instances)
    with torch.no_grad():
        plain = model(x)
    tree = capture_mil(model, x, attention="score", features="features")
    tower = tree["mil"].to_dataset()
    assert dict(tower.sizes) == {"bag": 1, "branch": branches, "instance": instances, "feature": 8}
    np.testing.assert_allclose(tower["attention"].values[0], own_gated(model, x), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        tower["attention"],
        tower["scores"].copy(data=torch.tensor(tower["scores"].values).softmax(2).numpy()),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(tower["features"].values[0], model.features(x).detach().numpy())
    np.testing.assert_array_equal(tree["output/logits"].values[0], plain.numpy())
    assert tree["validity"].attrs["passed"]
    assert tower.attrs["attention"] == "softmax of the scores"


def test_as_many_branches_as_instances_are_not_confused():
    model, x = seeded(Gated(4)), bag(4)
    tower = capture_mil(model, x, attention="score")["mil"].to_dataset()
    np.testing.assert_allclose(tower["attention"].values[0], own_gated(model, x), rtol=1e-4)


def test_clam_gives_scores_first_and_features_after_them():
    model, x = seeded(Clam()), bag(9)
    tree = capture_mil(model, x, attention="attention_net", features="fc")
    raw = model(x)[2].detach()
    np.testing.assert_array_equal(tree["mil/scores"].values[0], raw.numpy())
    np.testing.assert_array_equal(tree["mil/attention"].values[0], F.softmax(raw, 1).numpy())
    np.testing.assert_array_equal(tree["output/logits"].values[0], model(x)[0].detach().numpy()[0])


@pytest.mark.parametrize("attention", ["w", "softmax"])
def test_acmil_batches_with_padding_and_a_temperature(attention):
    model, x = seeded(Acmil()), bag(9, 2)
    x[1, 6:] = 0
    tower = capture_mil(model, x, attention=attention, features=x)["mil"].to_dataset()
    h = torch.relu(model.reduce(x))
    e = model.w(torch.tanh(model.v(h)) * torch.sigmoid(model.u(h))) / 2**0.5
    e[1, 6:] = -torch.inf
    np.testing.assert_allclose(tower["attention"], e.softmax(1).transpose(1, 2).detach().numpy(), rtol=1e-6)
    assert (tower["attention"].values[1, :, 6:] == 0).all()
    np.testing.assert_array_equal(tower["features"], x.numpy())
    assert ("scores" in tower) == (attention == "w")
    assert tower.attrs["attention"] == ("softmax of the scores" if attention == "w" else "given as weights")


def test_bags_of_different_sizes_and_a_module_for_each_branch(tmp_path):
    model, bags = seeded(Branches()), [bag(5), bag(3, seed=8), bag(1)]
    tree = capture_mil(model, bags, attention=["one", "two"], store=tmp_path / "bags.zarr")
    tower = open_record(tmp_path / "bags.zarr")["mil"].to_dataset()
    assert tower["attention"].shape == (3, 2, 5)
    assert list(tower["module"].values) == ["one", "two"]
    assert list(tower["instances"].values) == [5, 3, 1]
    for row, x in enumerate(bags):
        for branch, module in enumerate((model.one, model.two)):
            got = tower["attention"].values[row, branch]
            np.testing.assert_array_equal(got[: len(x)], module(x)[:, 0].softmax(0).detach().numpy())
            assert np.isnan(got[len(x) :]).all()
    assert tree["output/logits"].shape == (3, 2)


def test_the_model_is_as_before_and_its_output_bit_identical():
    model, x = seeded(Clam()), bag(7)
    before = x.clone()
    with torch.no_grad():
        plain = model(x)
    heard = []
    handle = model.register_forward_hook(lambda _m, _a, out: heard.append(out))
    capture_mil(model, x, attention="attention_net")
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(heard[0], plain, strict=True))
    assert torch.equal(x, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Sparse(nn.Module):
    """Weights of its own that are no softmax: clipped and divided by their sum."""

    def __init__(self, whole=True):
        super().__init__()
        self.score, self.norm, self.whole = nn.Linear(WIDTH, 1), nn.Identity(), whole

    def forward(self, x):
        a = F.relu(self.score(x)) + 1e-3
        a = self.norm(a / a.sum(0) if self.whole else a / 2)
        return (a * x).sum(0)


def test_weights_that_are_no_softmax_are_taken_where_they_sum_to_one():
    model, x = seeded(Sparse()), bag(6)
    tower = capture_mil(model, x, attention="norm")["mil"].to_dataset()
    raw = F.relu(model.score(x)[:, 0]) + 1e-3
    np.testing.assert_allclose(tower["attention"].values[0, 0], (raw / raw.sum()).detach().numpy(), rtol=1e-6)
    assert "scores" not in tower


def tanh_scores(_model, _x):
    class Wrong(Gated):
        def forward(self, x):
            h = self.features(x)
            a = self.score(torch.tanh(self.tanh(h)))
            return self.classes((a.softmax(1).T @ h).flatten())  # over the branches, not the instances

    return capture_mil(seeded(Wrong(2)), bag(5), attention="score")


REFUSED = {
    "no such module": (lambda m, x: capture_mil(m, x, attention="scores"), InputError, "no module is called 'scores'"),
    "no name": (lambda m, x: capture_mil(m, x, attention=[]), InputError, "got no name"),
    "no attention": (lambda m, x: capture_mil(m, x, attention="classes"), InputError, "neither sums to one"),
    "another dimension": (tanh_scores, InputError, "neither sums to one"),
    "not normalised": (
        lambda _m, x: capture_mil(seeded(Sparse(whole=False)), x, attention="norm"), InputError, "neither sums to one",
    ),
    "no features": (lambda m, x: capture_mil(m, x, attention="score", features="classes"), InputError, "classes: gave"),
    "features of another bag": (
        lambda m, x: capture_mil(m, x, attention="score", features=x[1:]), InputError, "do not fit",
    ),
    "empty": (lambda m, _x: capture_mil(m, bag(0), attention="score"), InputError, "N at least 1"),
    "no bags": (lambda m, _x: capture_mil(m, [], attention="score"), InputError, "expected a tensor"),
    "NaN": (
        lambda m, x: capture_mil(m, [x, x.index_fill(0, torch.tensor([3]), torch.nan)], attention="score"),
        InputError, "bag 1: NaN or infinity in the features of instance 3",
    ),
    "training": (lambda m, x: capture_mil(m.train(), x, attention="score"), ModelError, "training mode"),
    "everything masked": (
        lambda _m, x: capture_mil(seeded(Acmil()), torch.zeros(1, 4, WIDTH), attention="w"), ModelError, "do not sum to one",
    ),
    "inside": (lambda m, x: capture_mil(m, x[:, :2], attention="score"), RuntimeError, "shapes cannot be multiplied"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    act, error, words = REFUSED[case]
    model = seeded(Gated())
    with pytest.raises(error, match=words):
        act(model, bag(5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_module_called_for_parts_of_the_bag_is_refused():
    class Parts(Gated):
        def forward(self, x):
            return super().forward(x[:2]) + super().forward(x[2:])

    with pytest.raises(InputError, match="score: called 2 times"):
        capture_mil(seeded(Parts()), bag(5), attention="score")


def test_an_encoder_with_a_fused_path_stays_on_it():
    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
            self.encoder, self.score = nn.TransformerEncoder(layer, 1), nn.Linear(WIDTH, 1)

        def forward(self, x):
            h = self.encoder(x)
            return (self.score(h).softmax(1) * h).sum(1)

    model, x = seeded(Encoded()), bag(6, 1)
    with torch.no_grad():
        plain = model(x)
    tree = capture_mil(model, x, attention="score")
    np.testing.assert_array_equal(tree["output/logits"].values, plain.numpy())
