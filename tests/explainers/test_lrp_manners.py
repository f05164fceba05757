"""What LRP refuses, what it leaves behind (nothing), and that calls do not disturb each other."""

from concurrent.futures import ThreadPoolExecutor

import lrp_nets as nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probe.errors import InputError, ModelError
from probe.explainers._lrp import METHODS, relevance_of

X = torch.linspace(-1, 1, 3 * 24 * 24).view(1, 3, 24, 24)


def net(*middle):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), *middle, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Softplus(), r"no rule for softplus, met in 1 \(Softplus\)"),
        (nn.LogSigmoid(), r"no rule for log_?sigmoid, met in 1 \(LogSigmoid\)"),
        (Apply(lambda x: 1 / (1 + x * x)), "no rule for .*met in 1"),
        (Apply(lambda x: x / x.amax()), "no rule for a quotient of two values that depend on the input"),
        (
            Apply(lambda x: F.conv2d(x, x[:, :, :3, :3].expand(4, -1, -1, -1))),
            "no rule for conv2d with weights that depend on the input",
        ),
        (Apply(lambda x: x.exp()), "no rule for exp, met in 1"),
        (Apply(Own.apply), "no rule for Own, which the model computes by an autograd function of its own"),
        (Apply(lambda x: F.dropout(x, 0.5)), "no rule for dropout"),
        (nn.LocalResponseNorm(2), None),
        (nn.GroupNorm(2, 4), None),
    ],
)
def test_what_has_no_rule_is_refused_by_name(layer, said):
    if said is None:
        assert relevance_of(net(layer), X).relevance.shape == X.shape
    else:
        with pytest.raises(ModelError, match=said):
            relevance_of(net(layer), X)


def state_of(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
        for m in model.modules()
    ]
    flags = [(p.requires_grad, p.grad is None, p._version) for p in (*model.parameters(), *model.buffers())]
    attributes = [sorted(vars(m)) for m in model.modules()]
    return hooks, flags, attributes


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_as_before_after_success_and_failure(method):
    model, x = nets.cnn("vgg")
    before, weights = state_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    given = x.clone()
    relevance_of(model, x, method=method, n_steps=8, window=12)
    assert state_of(model) == before
    assert torch.equal(x, given)
    assert not x.requires_grad

    calls = []

    def breaks(value):  # in the run that the method itself makes, after the plain ones
        calls.append(value)
        model(value[:, :2] if len(calls) > 2 or (method == "lrp" and len(calls) > 1) else value)
        return model(value)

    def twice():
        for _ in range(2):
            relevance_of(model, x, method=method, call=breaks)

    with pytest.raises((RuntimeError, ModelError)):
        twice()
    assert state_of(model) == before
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.relu(torch.ones(1)).grad_fn is None  # no mode is left on


def test_two_models_in_two_threads_do_not_meet():
    pairs = [nets.cnn("resnet", seed) for seed in range(4)]
    alone = [relevance_of(model, x).relevance for model, x in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: relevance_of(*pair).relevance, pairs * 3))
    assert all(torch.equal(a, b) for a, b in zip(alone * 3, together, strict=True))


def test_it_works_wherever_it_is_called_from():
    model, x = nets.cnn("resnet")
    expected = relevance_of(model, x).relevance
    with torch.no_grad():
        assert torch.equal(relevance_of(model, x).relevance, expected)
    with torch.inference_mode():
        assert torch.equal(relevance_of(model, x).relevance, expected)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(relevance_of(model, x).relevance, expected)


def test_in_place_changes_reach_every_alias():
    """The shortcut is the *activated* input, because the activation works in place: as in the model itself."""

    def block(in_place):
        def run(x):
            shortcut = x
            y = F.relu(x, inplace=True) if in_place else x.relu()
            shortcut = shortcut if in_place else y
            y = y * 2
            y[:, 1:3] += shortcut[:, 0:2]
            return y

        return run

    results = [relevance_of(net(Apply(block(way))), X, 0) for way in (True, False)]
    torch.testing.assert_close(results[0].relevance, results[1].relevance)
    assert abs(results[0].conservation.rest) < 1e-6


def test_a_value_written_into_a_buffer_of_the_model_is_refused():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.zeros(1, 4, 22, 22))

        def forward(self, x):
            self.kept.copy_(x)
            return self.kept * 1

    model = net(Keeps())
    with pytest.raises(ModelError, match="copy into a parameter or buffer of the model"):
        relevance_of(model, X)
    assert not model[1].kept.requires_grad


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda m, x: (m.train(), x), ModelError, "training mode"),
        (lambda m, x: (m.half(), x.half()), ModelError, r"float16: relevance needs float32"),
        (lambda m, x: (torch.compile(m), x), ModelError, "compiled or scripted"),
        (lambda m, x: (torch.jit.trace(m, x), x), ModelError, "compiled or scripted"),
        (lambda m, x: (m, x.expand(2, -1, -1, -1)), InputError, r"\[1, …\], got \(2, 3, 24, 24\)"),
        (lambda m, x: (m, x / 0), InputError, "NaN or infinite"),
        (lambda m, x: (m, "cat.jpg"), InputError, "got str"),
        (lambda m, x: ("resnet", x), InputError, "expected a torch.nn.Module, got str"),
        (lambda m, x: (m[:2].eval(), x), ModelError, r"expected logits \[1, classes\]"),
    ],
)
def test_a_wrong_model_or_input_is_answered_in_one_line(change, error, said):
    model, x = change(net(), X)
    with pytest.raises(error, match=said) as raised:
        relevance_of(model, x)
    assert "\n" not in str(raised.value)


def test_a_wrong_target_or_method_is_answered_in_one_line():
    with pytest.raises(InputError, match="target = 3, expected an output from 0 to 2"):
        relevance_of(net(), X, 3)
    with pytest.raises(InputError, match="method = 'shap', expected one of lrp, "):
        relevance_of(net(), X, method="shap")
    with pytest.raises(ModelError, match="do not depend on the input"):
        relevance_of(net(Apply(lambda x: x.detach())), X)


def test_a_random_model_is_refused():
    with pytest.raises(ModelError, match="two runs of the model differ"):
        relevance_of(net(Apply(lambda x: x + torch.randn(1))), X)
