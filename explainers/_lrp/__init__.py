"""Layer-wise relevance propagation (LRP) for CNNs and transformers, and captum's gradient family beside it.

This folder is an engine without an explainer of its own: `relevance_of` gives one map and its account, explainers make
labelled results of it. Rules and composites are in `rules.py` and `composites.py`.

The README of LXT, by authors of the method, says that LRP is patented and free for personal and scientific use only: ask
a lawyer before any commercial use. This package's licence cannot grant rights to patents of others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from probe.errors import InputError
from probe.explainers._lrp.account import Conservation, Relevance
from probe.explainers._lrp.composites import Composite, composite_named, epsilon_gamma_box

if TYPE_CHECKING:
    from torch import Tensor, nn

METHODS = (
    "lrp",
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "gradcam",
    "occlusion",
    "deeplift",
)

__all__ = ["Composite", "Conservation", "Relevance", "epsilon_gamma_box", "relevance_of"]


def relevance_of(
    model: "nn.Module",
    inputs: "Tensor",
    target: int | None = None,
    *,
    method: str = "lrp",
    composite: str | Composite = "epsilon_plus",
    call: "Callable[[Tensor], Any] | None" = None,
    baseline: "float | Tensor" = 0.0,
    n_steps: int = 64,
    window: int = 16,
    layer: str | None = None,
) -> Relevance:
    """The relevance of one input for one output (a logit) of a model, with its account.

    The model is neither changed nor hooked by LRP; captum's methods hook it while they run.

    Args:
        model: any module in evaluation mode, float32 or float64.
        inputs: one input with its batch dimension: a picture [1, C, H, W], embeddings [1, N, D], or token ids [1, N].
        target: index of the logit; None takes the largest.
        method: "lrp", or one of captum's: "saliency" (|gradient|), "input_x_gradient", "integrated_gradients",
            "gradcam", "occlusion", "deeplift".
        composite: LRP: which rule for which layer, a name of `composites.COMPOSITES` or a `Composite`.
        call: from such an input to logits [1, classes] (or an object with `.logits`; of a language model
            [1, N, vocabulary] the last position counts); None calls the model with the input alone.
        baseline: integrated gradients, DeepLift, occlusion: what stands for "absent", in the input's units.
        n_steps: integrated gradients: points on the path.
        window: occlusion: side of the square that is covered, in pixels; it moves by half of it.
        layer: Grad-CAM: name of a module; None takes the last nn.Conv2d.

    Returns:
        The map and its account; `conservation.ratio` is Σ R / f(x), and a map that is not `conservation.sound` must be
        marked wherever it is shown.

    Raises:
        InputError: unknown method, composite, target or layer; an input of another form.
        ModelError: a layer without a rule, named; a model in training mode, compiled, or in half precision.
    """
    from probe.explainers._lrp.captum_family import attribute
    from probe.explainers._lrp.propagate import check, propagate

    if method not in METHODS:
        raise InputError(f"method = {method!r}, expected one of {', '.join(METHODS)}")
    check(model, inputs)
    run = model if call is None else call
    if method == "lrp":
        return propagate(model, inputs, target, composite_named(composite), run)
    return attribute(
        model, inputs, target, run, method, baseline=baseline, n_steps=n_steps, window=window, layer=layer
    )
