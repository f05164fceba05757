"""Layer-wise relevance propagation (LRP) for CNNs and transformers, and captum's gradient family beside it.

This folder is an engine without an explainer of its own; `_relevance.py` makes labelled results of it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from probe.explainers._lrp.account import SOUND, Conservation, Relevance

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

__all__ = ["METHODS", "SOUND", "Conservation", "Relevance", "relevance_of"]


def relevance_of(
    model: "nn.Module",
    inputs: "Tensor",
    target: int | None = None,
    *,
    method: str = "lrp",
    composite: Any = "epsilon_plus",
    call: "Callable[[Tensor], Any] | None" = None,
    **options: Any,
) -> Relevance:
    """The relevance of one input for one output of a model."""
    raise NotImplementedError
