"""Captum's gradient family behind the same interface: one input, one output, one map in the input's shape."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import InputError, ModelError
from probe.explainers._lrp.account import Conservation, Relevance
from probe.explainers._lrp.propagate import Call, explained, logits_of

COMPLETE = ("integrated_gradients", "deeplift")  # Σ R = f(x) − f(baseline) is their promise


class _Scores(nn.Module):
    """A model as captum wants it: a module from an input to logits [B, classes]."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        found = self.call(x)
        logits: Tensor = getattr(found, "logits", found)  # type: ignore[assignment]
        return logits[:, -1] if logits.ndim == 3 else logits


def attribute(
    model: nn.Module,
    inputs: Tensor,
    target: int | None,
    call: Call,
    method: str,
    *,
    baseline: float | Tensor,
    n_steps: int,
    window: int,
    layer: str | None,
) -> Relevance:
    """One of captum's methods; the arguments are those of `relevance_of`.

    Raises:
        InputError: token ids, an unknown layer, a window that is no picture's.
        ModelError: captum cannot treat the model; its own words are quoted.
    """
    if not inputs.is_floating_point():
        raise InputError(f"{method} needs a picture or embeddings, got token ids: use ex.saliency for texts")
    with torch.inference_mode(False), torch.enable_grad():
        with torch.no_grad():
            logits = logits_of(call(inputs))
            index = explained(logits, target)
            start = inputs.new_zeros(inputs.shape) + baseline
            reference = float(logits_of(call(start))[0, index]) if method in COMPLETE else 0.0
        scores = _Scores(model, call)
        x = inputs.detach().clone()
        try:
            with _restored(model):
                found = _METHODS[method](scores, x, index, start, n_steps, window, layer).detach().to(x.dtype)
        except (AssertionError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"captum cannot apply {method} to this model: {error}") from error
    output = float(logits[0, index])
    conservation = Conservation(output, float(found.sum(dtype=torch.float64)), baseline=reference)
    return Relevance(found, index, output, conservation, method, "", conserving=method in COMPLETE)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Take off the modules what captum leaves on them (DeepLift: inputs and outputs of activations)."""
    before = [(module, set(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in set(vars(module)) - names:
                delattr(module, name)


def _saliency(scores: nn.Module, x: Tensor, target: int, *_: Any) -> Tensor:
    from captum.attr import Saliency

    return Saliency(scores).attribute(x.requires_grad_(), target)  # type: ignore[no-any-return]


def _input_x_gradient(scores: nn.Module, x: Tensor, target: int, *_: Any) -> Tensor:
    from captum.attr import InputXGradient

    return InputXGradient(scores).attribute(x.requires_grad_(), target)  # type: ignore[no-any-return]


def _integrated(scores: nn.Module, x: Tensor, target: int, start: Tensor, n_steps: int, *_: Any) -> Tensor:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(scores).attribute(  # type: ignore[no-any-return]
        x, start, target, n_steps=n_steps, internal_batch_size=1
    )


def _deeplift(scores: nn.Module, x: Tensor, target: int, start: Tensor, *_: Any) -> Tensor:
    from captum.attr import DeepLift

    return DeepLift(scores).attribute(x, start, target)  # type: ignore[no-any-return]


def _occlusion(
    scores: nn.Module, x: Tensor, target: int, start: Tensor, _: int, window: int, *__: Any
) -> Tensor:
    from captum.attr import Occlusion

    spatial = [min(window, side) for side in x.shape[2:]]
    shape, stride = (x.shape[1], *spatial), (x.shape[1], *[max(1, side // 2) for side in spatial])
    with torch.no_grad():
        return Occlusion(scores).attribute(x, shape, stride, start, target)  # type: ignore[no-any-return]


def _gradcam(
    scores: nn.Module, x: Tensor, target: int, start: Tensor, n_steps: int, window: int, layer: str | None
) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    del start, n_steps, window
    model: nn.Module = scores.model  # type: ignore[assignment]
    chosen = _layer(model, layer)
    coarse = LayerGradCam(scores, chosen).attribute(x, target, relu_attributions=True)
    if coarse.ndim != x.ndim:
        raise ModelError(
            f"Grad-CAM needs a layer that gives [1, C, H, W], this one gives {tuple(coarse.shape)}"
        )
    return LayerAttribution.interpolate(coarse, tuple(x.shape[2:]), "bilinear")  # type: ignore[no-any-return]


def _layer(model: nn.Module, name: str | None) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name is None:
        name = next((n for n in reversed(modules) if isinstance(modules[n], nn.Conv2d)), None)
        if name is None:
            raise ModelError("the model has no nn.Conv2d for Grad-CAM: name a layer")
    if name not in modules:
        raise InputError(f"layer = {name!r} is no module of the model, e.g. {', '.join(list(modules)[-3:])}")
    return modules[name]


_METHODS: dict[str, Callable[..., Tensor]] = {
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "integrated_gradients": _integrated,
    "gradcam": _gradcam,
    "occlusion": _occlusion,
    "deeplift": _deeplift,
}
