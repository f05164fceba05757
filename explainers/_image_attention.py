"""Where in the picture each word of a vision-language model's answer looked."""

from typing import TYPE_CHECKING, Annotated, Any

from probe.explainers.spec import Choice, Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["image_attention"]


@explainer(
    title="Where each word of the answer looks",
    shape="runs",
    kind="image_overlay",
    references=(
        "Zhang et al., MLLMs Know Where to Look, ICLR 2025 (arXiv 2502.17422), §3",
        "Ben Melech Stan et al., LVLM-Interpret, CVPR workshops 2024 (arXiv 2404.03118)",
    ),
)
def image_attention(
    model: Any,
    picture: Any,
    *,
    ask: Annotated[str, Text("question about the picture")] = "What is in this image?",
    layers: Annotated[str, Text("all, auto (as of carve), first:last, or one number")] = "all",
    by: Annotated[
        str, Choice("word", "layer", help="one map for each word of the answer, or for each layer")
    ] = "word",
    max_new_tokens: Annotated[int, Interval(1, 1024, "of the answer")] = 32,
) -> "xr.Dataset":
    """Where in the picture each word of the answer looked, and which heads look at the picture most.

    The word's map is the attention of the position that predicts it, mean over heads and chosen layers, spread over the
    picture's own pixels by the model's true grid. Attention is where the model reads; whether it used it is another question.

    Args:
        model: what `probe.load` gave for a vision-language model.
        picture: a file, a picture of Pillow, or an array.
        ask: the question.
        layers: of the text model.
        by: what a map stands for.
        max_new_tokens: of the answer.

    Returns:
        An image_overlay with a slider over words or layers; map_mass, the share of attention on the picture; map_entropy in
        nats; head_mass (hidden_layer, head).

    Raises:
        InputError: a picture, a layer or an option that cannot be used, or a prompt without image tokens.
        ModelError: no vision-language model, or one whose attention or geometry is not known exactly.
    """
    from probe.explainers._carve.words import build

    return build(model, picture, ask, layers, by, max_new_tokens)
