"""Every propagation rule against its formula on explicit matrices, for every kind of layer with weights."""

import lrp_oracle as slow
import numpy as np
import pytest
import torch
from torch import nn

from probe.errors import InputError, ModelError
from probe.explainers._lrp import Composite, epsilon_gamma_box, relevance_of
from probe.explainers._lrp.composites import COMPOSITES
from probe.explainers._lrp.nodes import Layer, distribute
from probe.explainers._lrp.rules import AlphaBeta, Branch, Epsilon, Flat, Gamma, Pass, WSquare, ZBox, ZPlus

EPS = 1e-3  # large, so that its place in the formula shows

RULES = {
    "epsilon": (Epsilon(EPS), lambda *a: slow.epsilon(*a, EPS)),
    "lrp_0": (Epsilon(0.0), lambda *a: slow.epsilon(*a, 0.0)),
    "gamma": (Gamma(0.4, EPS), lambda *a: slow.gamma(*a, EPS, 0.4)),
    "z_plus": (ZPlus(EPS), lambda *a: slow.alpha_beta(*a, EPS, 1, 0)),
    "alpha2_beta1": (AlphaBeta(2, 1, EPS), lambda *a: slow.alpha_beta(*a, EPS, 2, 1)),
    "z_box": (ZBox(-4.0, 5.0, EPS), lambda *a: slow.z_box(*a, EPS, -4.0, 5.0)),
    "w_square": (WSquare(EPS), lambda *a: slow.by_weights(*a, EPS, np.square)),
    "flat": (Flat(EPS), lambda *a: slow.by_weights(*a, EPS, lambda w: (w != 0).astype(float))),
}
LAYERS = {
    "dense": (lambda: nn.Linear(7, 5), (7,)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "strided": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1)), (2, 7, 5)),
    "dilated": (lambda: nn.Conv2d(2, 2, 2, dilation=2), (2, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding="same"), (3, 4, 5)),
    "one dimension": (lambda: nn.Conv1d(2, 3, 3), (2, 8)),
    "three dimensions": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (2, 3, 3)),
    "grouped, transposed": (lambda: nn.ConvTranspose2d(4, 2, 2, groups=2), (4, 3, 3)),
}


def network(name, seed=0):
    """The layer between a leaky activation (so that inputs and outputs have both signs) and a dense head."""
    torch.manual_seed(seed)
    build, shape = LAYERS[name]
    layer = build().double()
    width = layer(torch.zeros(1, *shape).double()).numel()
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(width, 4).double()).eval()
    return model, torch.randn(1, *shape).double()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LAYERS)
def test_rule_equals_its_formula(name, rule):
    model, x = network(name)
    fast, formula = RULES[rule]
    found = relevance_of(
        model, x, 1, composite=Composite("test", first=fast, dense=Epsilon(0.0), stabiliser=0.0)
    )

    w, b = slow.matrix_of(model[0], x.shape[1:])
    hidden = np.tanh(w @ x.flatten().numpy() + b)
    head_w, head_b = (p.detach().numpy() for p in (model[3].weight[1:2], model[3].bias[1:2]))
    f = head_w @ hidden + head_b
    r, head_bias, _ = slow.epsilon(hidden, head_w, head_b, f, 0.0)
    expected, bias, stabiliser = formula(x.flatten().numpy(), w, b, r)

    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.relevance.flatten().numpy(), expected, rtol=0, atol=1e-12 * scale)
    assert found.conservation.biases == pytest.approx(head_bias + bias, abs=1e-12 * scale * len(r))
    assert found.conservation.stabilisers == pytest.approx(stabiliser, abs=1e-12 * scale * len(r))


def test_unsigned_stabiliser_and_bias_left_out():
    w, b = torch.tensor([[1.0, -3.0]]).double(), torch.tensor([5.0]).double()
    layer = Layer(lambda v, m: v @ m.T, w, b, "dense", "", 0, 0, True)
    x, r = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[1.0]]).double()
    for rule, bottom in (
        (Epsilon(0.5), 3.5),
        (Epsilon(0.5, bias="none"), -2.5),
        (Epsilon(0.5, bias="none", signed=False), -1.5),
    ):
        layer.rule = rule
        assert distribute(layer, x, r)[0].tolist() == [
            [pytest.approx(1 / bottom), pytest.approx(-3 / bottom)]
        ]


def test_a_spread_bias_goes_evenly_to_what_the_output_sees():
    layer = nn.Conv1d(1, 1, 3, padding=1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0]]]))
        layer.bias.fill_(2.0)
    x = torch.tensor([[[3.0, 0.0, 0.0]]]).double()  # outputs: bias alone, 3 + 2, bias alone
    model = nn.Sequential(layer, nn.Flatten()).eval()
    found = relevance_of(model, x, 0, composite=Composite("spread", convolution=Epsilon(0.0, bias="spread")))
    assert found.relevance.flatten().tolist() == pytest.approx([1.0, 1.0, 0.0])  # padding sees nothing
    assert found.conservation.biases == 0
    assert found.conservation.ratio == pytest.approx(1)


@pytest.mark.parametrize("name", ["dense", "convolution", "depthwise"])
@pytest.mark.parametrize(
    "composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma", "epsilon_plus_flat"]
)
def test_without_biases_the_input_receives_all(name, composite):
    model, x = network(name)
    for module in model:
        if hasattr(module, "bias"):
            module.bias = None
    found = relevance_of(model, x, composite=composite).conservation
    assert found.biases == 0
    assert found.input + found.stabilisers == pytest.approx(found.output, rel=1e-12)
    if (
        name != "depthwise"
    ):  # there an output may have contributions of one sign alone: its part is the stabiliser's
        assert found.ratio == pytest.approx(1, abs=1e-4)  # ε = 1e-6 takes ε / |z|


def test_box_and_gamma_and_their_composite():
    model, x = network("convolution")
    model[0].bias = model[3].bias = None
    found = relevance_of(model, x, composite=epsilon_gamma_box(-5.0, 5.0)).conservation
    assert found.ratio == pytest.approx(1, abs=1e-4)
    with pytest.raises(InputError, match=r"outside its box \[-0.1, 0.1\]"):
        relevance_of(model, x, composite=epsilon_gamma_box(-0.1, 0.1))
    with pytest.raises(InputError, match="needs the picture's bounds"):
        relevance_of(model, x, composite="epsilon_gamma_box")
    bounds = torch.tensor([-5.0, -6.0]).view(1, 2, 1, 1).double()
    per_channel = relevance_of(model, x, composite=epsilon_gamma_box(bounds, -bounds))
    assert per_channel.conservation.ratio == pytest.approx(1, abs=1e-4)


def test_pass_keeps_places_and_refuses_another_shape():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double().eval()
    x = torch.randn(1, 3).double()
    composite = Composite("pass", dense=Epsilon(0.0), first=Pass())
    found = relevance_of(model, x, 0, composite=composite)
    hidden = model[0](x)[0]
    expected = hidden * model[1].weight[0]
    torch.testing.assert_close(found.relevance[0], expected)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).double().eval()
    with pytest.raises(ModelError, match="Pass was chosen for 0, whose output has another shape"):
        relevance_of(model, x, 0, composite=composite)


def test_alpha_and_beta_must_fit():
    with pytest.raises(InputError, match="alpha − beta = 1"):
        AlphaBeta(2, 0.5)


def test_layers_get_their_rules_by_name_place_depth_and_kind():
    class Told(Epsilon):
        def __init__(self, told, name):
            super().__init__()
            object.__setattr__(self, "told", (told, name))

        def branches(self, x, weight, bias, output):
            told, name = self.told
            told.append((name, tuple(weight.shape)))
            return super().branches(x, weight, bias, output)

    told = []
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1),
        nn.Flatten(), nn.Linear(5, 6), nn.Linear(6, 7),
    ).eval()  # fmt: skip
    composite = Composite(
        "by place",
        convolution=Told(told, "convolution"),
        dense=Told(told, "dense"),
        first=Told(told, "first"),
        low=Told(told, "low"),
        low_until=0.5,
        by_name=(("7|no such", Told(told, "name")),),
    )
    relevance_of(model, torch.randn(1, 1, 1, 1), composite=composite)
    shapes = [(7, 6), (6, 5), (5, 4, 1, 1), (4, 3, 1, 1), (3, 2, 1, 1), (2, 1, 1, 1)]
    assert told == list(zip(("name", "dense", "convolution", "low", "low", "first"), shapes, strict=True))


def test_a_rule_of_ones_own_survives_the_second_call():
    class Doubled:
        stabiliser = 0.0

        def branches(self, x, weight, bias, output):
            return (Branch(((x, weight),), None, 2.0),)

    model, x = network("dense")
    composite = Composite("own", dense=Epsilon(0.0, bias="none"), first=Doubled())
    once, again = (relevance_of(model, x, 1, composite=composite) for _ in range(2))
    assert torch.equal(once.relevance, again.relevance)
    assert once.conservation.ratio == pytest.approx(2)
    assert not once.conservation.sound


def test_unknown_names_are_answered_with_the_known_ones():
    model, x = network("dense")
    with pytest.raises(InputError, match="epsilon_plus, "):
        relevance_of(model, x, composite="epsilonplus")
    with pytest.raises(InputError, match=r"'max', expected one of \('winner', 'average', 'unpool'\)"):
        Composite("wrong", pooling="max")
    assert all(name == composite.name for name, composite in COMPOSITES.items())
