"""Captum's family through the same function: against formulas of their own, and what each promises."""

import lrp_nets as nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probe.errors import InputError, ModelError
from probe.explainers._lrp import relevance_of


def score(model, x, target):
    x = x.clone().requires_grad_()
    value = model(x)[0, target]
    return value.item(), torch.autograd.grad(value, x)[0]


def test_gradients():
    model, x = nets.cnn("resnet")
    f, gradient = score(model, x, 2)
    absolute = relevance_of(model, x, 2, method="saliency")
    torch.testing.assert_close(absolute.relevance, gradient.abs())
    product = relevance_of(model, x, 2, method="input_x_gradient")
    torch.testing.assert_close(product.relevance, gradient * x)
    assert product.output == pytest.approx(f)
    assert product.conservation.ratio == pytest.approx((gradient * x).sum().item() / f)
    assert not product.conserving


def test_integrated_gradients_share_out_the_change_from_the_baseline():
    model, x = nets.cnn("plain")
    found = relevance_of(model, x, 1, method="integrated_gradients", baseline=0.25, n_steps=200)
    start = torch.full_like(x, 0.25)
    total = torch.zeros_like(x)
    for step in range(400):
        total += score(model, start + (x - start) * (step + 0.5) / 400, 1)[1] / 400
    expected = (x - start) * total
    assert (found.relevance - expected).abs().max() < 0.02 * expected.abs().max()
    assert found.conservation.baseline == pytest.approx(model(start)[0, 1].item())
    assert abs(found.conservation.rest) < 0.01 * abs(found.output - found.conservation.baseline)
    assert found.conserving


def test_deeplift_is_exact_on_a_network_without_kinks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(1, 3, 2, 2)
    found = relevance_of(model, x, 0, method="deeplift", baseline=0.1)
    assert abs(found.conservation.rest) < 1e-5
    assert found.conservation.baseline == pytest.approx(model(torch.full_like(x, 0.1))[0, 0].item())


def test_grad_cam_is_the_weighted_sum_of_the_layer():
    model, x = nets.cnn("plain")
    found = relevance_of(model, x, 1, method="gradcam")
    body, head = model[:4], model[4:]
    maps = body(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(head(maps)[0, 1], maps)
    coarse = (maps * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    expected = F.interpolate(coarse, (24, 24), mode="bilinear").detach()
    torch.testing.assert_close(found.relevance, expected)
    named = relevance_of(model, x, 1, method="gradcam", layer="0")
    assert (named.relevance - found.relevance).abs().max() > 0
    with pytest.raises(InputError, match="layer = 'no such' is no module"):
        relevance_of(model, x, 1, method="gradcam", layer="no such")


def test_occlusion_is_the_fall_of_the_score():
    model, x = nets.cnn("plain")
    found = relevance_of(model, x, 1, method="occlusion", window=24, baseline=0.5)
    with torch.no_grad():
        fall = (model(x) - model(torch.full_like(x, 0.5)))[0, 1]
    torch.testing.assert_close(
        found.relevance, fall.expand_as(x), rtol=1e-6, atol=0
    )  # captum adds up in float32


def test_what_captum_cannot_do_is_said():
    model, _ = nets.cnn("plain")
    with pytest.raises(InputError, match=r"got token ids: use ex\.saliency"):
        relevance_of(
            model, torch.ones(1, 5, dtype=torch.long), method="saliency", call=lambda ids: torch.ones(1, 2)
        )
    dense = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    with pytest.raises(ModelError, match=r"no nn\.Conv2d for Grad-CAM"):
        relevance_of(dense, torch.randn(1, 3, 2, 2), method="gradcam")
