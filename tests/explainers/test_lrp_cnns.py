"""Relevance through convolutional networks: conservation on every architecture, and the answers that are known."""

import captum.attr
import lrp_nets as nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probe.explainers._lrp import Composite, relevance_of
from probe.explainers._lrp.composites import COMPOSITES
from probe.explainers._lrp.rules import Epsilon, ZPlus

CNN_COMPOSITES = [name for name in COMPOSITES if name not in ("cp", "gamma_vit")]


def rounding(found):
    """Bound of float64's rounding: half an ulp of all relevance that is moved, for each of fewer than 1,000 nodes."""
    held = found.conservation
    taken = (held.output, held.biases, held.stabilisers, held.softmax, held.pooling)
    moved = found.relevance.abs().sum().item() + sum(map(abs, taken))
    return 1000 * torch.finfo(torch.float64).eps * moved


@pytest.mark.parametrize("composite", CNN_COMPOSITES)
@pytest.mark.parametrize("name", nets.CNNS)
def test_input_biases_and_stabilisers_make_the_logit(name, composite):
    model, x = nets.cnn(name)
    found = relevance_of(model, x, composite=composite)
    with torch.no_grad():
        assert found.output == pytest.approx(model(x).max().item(), rel=1e-12)
    assert found.relevance.shape == x.shape
    assert abs(found.conservation.rest) <= rounding(found)
    overwritten = composite == "as_published" and name == "alexnet"  # its windows overlap
    assert (abs(found.conservation.pooling) > rounding(found)) == overwritten


def gradient_times_input(model, x, target):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, target], x)
    return (x * gradient).detach()


@pytest.mark.parametrize("name", ["plain", "vgg", "alexnet", "resnet"])
def test_lrp_0_is_input_times_gradient_on_relu_nets(name):
    model, x = nets.cnn(name)
    found = relevance_of(model, x, 2, composite="lrp_0")
    expected = gradient_times_input(model, x, 2)
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=1e-11 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["vgg", "resnet", "alexnet"])
def test_float32_is_as_exact_as_plain_backpropagation(name):
    model, x = nets.cnn(name)
    exact = gradient_times_input(model, x, 0)
    found = relevance_of(model.float(), x.float(), 0, composite="lrp_0")
    plain = gradient_times_input(model, x.float(), 0)

    def error(map_):
        return (map_.double() - exact).abs().max().item()

    assert (
        error(found.relevance)
        <= 2 * error(plain) + 2 * torch.finfo(torch.float32).eps * exact.abs().max().item()
    )


@pytest.mark.parametrize("way", ["iadd", "add_", "torch.add", "plus"])
def test_residual_sums_share_out_and_do_not_double(way):
    """Without a rule for sums, Σ R / f is 2 to the number of blocks (zennit without its canonizer: 256 for 8)."""
    torch.manual_seed(0)
    model = nets.settled(nets.resnet(way, norm=False, blocks=4))
    found = relevance_of(model, torch.randn(1, 3, 12, 12).double(), composite="lrp_0")
    assert found.conservation.ratio == pytest.approx(1, abs=1e-10)
    assert found.conservation.biases == 0


@pytest.mark.parametrize("merge", [True, False])
def test_a_merged_batchnorm_is_the_layer_with_its_factors(merge):
    """Merging by hand, the layer's eps included, must give the same map; an ε far too large shows any difference."""
    model, x = nets.cnn("vgg")
    composite = Composite(
        "ε", convolution=Epsilon(0.01), dense=Epsilon(0.01), scaling=Epsilon(0.01), merge=merge
    )
    found = relevance_of(model, x, 1, composite=composite).relevance
    layers = []
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            conv, scale = layers[-1], layer.weight / (layer.running_var + layer.eps).sqrt()
            merged = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1).double()
            merged.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))
            merged.bias = nn.Parameter(layer.bias + (conv.bias - layer.running_mean) * scale)
            layers[-1] = merged
        else:
            layers.append(layer)
    expected = relevance_of(nn.Sequential(*layers).eval(), x, 1, composite=composite).relevance
    apart = (found - expected).abs().max() / expected.abs().max()
    assert apart < 1e-12 if merge else apart > 1e-3


@pytest.mark.parametrize("rule", ["epsilon", "alpha1_beta0"])
def test_captum_agrees_where_it_is_right(rule):
    """Captum's LRP on a net without biases, sums, BatchNorm and negative inputs (it clamps weights alone)."""
    torch.manual_seed(0)
    model = nets.settled(nets.alexnet(bias=False))
    model[6] = nn.Identity()  # captum knows no nn.Flatten

    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = model[:6], model[8:]

        def forward(self, x):
            return self.head(torch.flatten(self.body(x), 1))

    net, x = Flattened().eval(), torch.rand(1, 3, 24, 24).double()
    theirs = captum.attr._utils.lrp_rules
    ours, their_rule = Epsilon(1e-13), theirs.EpsilonRule
    if rule == "alpha1_beta0":
        ours, their_rule = ZPlus(1e-13), lambda epsilon: theirs.Alpha1_Beta0_Rule(True)
    composite = Composite(rule, convolution=ours, dense=ours)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = their_rule(epsilon=1e-13)
        elif isinstance(module, nn.MaxPool2d):
            module.rule = theirs.EpsilonRule(epsilon=1e-13)
    expected = captum.attr.LRP(net).attribute(x, target=3).detach()
    found = relevance_of(net, x, 3, composite=composite).relevance
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7 * expected.abs().max().item())


def published(layers, x, target):
    """Spec of the SR paper's released code, steps 1 to 5, written down again for a list of layers."""
    values = [x]
    indices = {}
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            y, indices[i] = F.max_pool2d(values[-1], layer.kernel_size, layer.stride, return_indices=True)
        else:
            y = layer(values[-1])
        values.append(y.detach())
    r = torch.zeros_like(values[-1])
    r[0, target] = values[-1][0, target]
    for i in range(len(layers) - 1, -1, -1):
        layer, a, z = layers[i], values[i], values[i + 1]
        if isinstance(layer, nn.Linear):
            w = layer.weight.detach().clamp(min=0)
            r = a * ((r / (a @ w.T + 1e-9)) @ w)
        elif isinstance(layer, nn.Conv2d):
            r = a * F.conv_transpose2d(
                r / (z + 1e-9), layer.weight.detach(), stride=layer.stride, padding=layer.padding,
                output_padding=[(n + 2 * p - k) % s for n, p, k, s in
                                zip(a.shape[2:], layer.padding, layer.kernel_size, layer.stride, strict=True)],
            )  # fmt: skip
        elif isinstance(layer, nn.MaxPool2d):
            r = F.max_unpool2d(r, indices[i], layer.kernel_size, layer.stride, output_size=a.shape[2:])
        elif isinstance(layer, nn.Flatten):
            r = r.view(a.shape)
    return r


@pytest.mark.parametrize("name", ["plain", "alexnet"])
def test_as_published_equals_the_released_steps(name):
    model, x = nets.cnn(name)
    found = relevance_of(model, x, 1, composite="as_published").relevance
    layers = [layer for layer in model if not isinstance(layer, nn.Dropout)]
    expected = published(layers, x, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


def test_overlapping_windows_keep_what_unpooling_loses():
    """Without biases ε conserves through 3/2 pooling; un-pooling by index keeps less than half (spec: 31 to 44 %)."""
    torch.manual_seed(0)
    model, x = nets.settled(nets.alexnet(bias=False)), torch.rand(1, 3, 24, 24).double()
    kept = {
        pooling: relevance_of(
            model, x, composite=Composite("ε", convolution=Epsilon(), dense=Epsilon(), pooling=pooling)
        ).conservation.ratio
        for pooling in ("winner", "average", "unpool")
    }
    assert kept["winner"] == pytest.approx(1, abs=1e-3)
    assert kept["average"] == pytest.approx(1, abs=1e-3)
    assert abs(kept["unpool"] - 1) > 0.1


def test_average_pooling_of_maxima_goes_by_the_values():
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten()).eval()
    x = torch.tensor([[[[1.0, 2.0], [0.0, 5.0]]]])
    found = relevance_of(model, x, 0, composite=Composite("average", pooling="average")).relevance
    torch.testing.assert_close(found, x * 5 / 8)


def test_padding_by_hand_is_padding():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(2, 3, 3), nn.Linear(48, 2)
    x = torch.randn(1, 2, 4, 4)
    inside = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), head).eval()
    inside[0].load_state_dict(conv.state_dict())
    by_hand = nn.Sequential(nn.ZeroPad2d(1), conv, nn.ReLU(), nn.Flatten(), head).eval()
    for composite in ("epsilon", "epsilon_plus"):
        a, b = (relevance_of(net, x, 0, composite=composite) for net in (inside, by_hand))
        torch.testing.assert_close(a.relevance, b.relevance)
    a, b = (relevance_of(net, x, 0, composite="epsilon_plus_flat") for net in (inside, by_hand))
    assert b.conservation.biases - a.conservation.biases > 0.01 * abs(
        b.output
    )  # ones on the rim count as inputs
    assert abs(b.conservation.rest) < 1e-6
