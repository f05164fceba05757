"""RefAM: stop words as magnets that draw background attention away, so that content words show what an expression refers to."""

from typing import TYPE_CHECKING, Annotated, Any

from probe.explainers._refam.maps import detect_gas, emergence, redirect, suppress
from probe.explainers.spec import Choice, Flag, Text, explainer

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["detect_gas", "emergence", "redirect", "refam", "suppress"]


@explainer(
    title="What an expression refers to",
    shape="runs",
    kind="image_overlay",
    references=("Kukleva et al., RefAM, 2025 (arXiv 2509.22650), abstract and project page",),
)
def refam(
    model: Any,
    picture: Any,
    *,
    expression: Annotated[
        str, Text("words that refer to something in the picture")
    ] = "the thing in the middle",
    magnets: Annotated[str, Text("stop words appended, separated by blanks, or none")] = "a the",
    layers: Annotated[
        str, Text("auto (from 20/48 of the depth on), all, first:last, or one number")
    ] = "auto",
    axis: Annotated[
        str,
        Choice(
            "text",
            "pixels",
            help="each place over the tokens (where magnets compete), or each token over places",
        ),
    ] = "text",
    filtered: Annotated[bool, Flag("leave out stop words, magnets and special tokens")] = True,
    spatial: Annotated[bool, Flag("weigh by the side that the expression names")] = False,
) -> "xr.Dataset":
    """Where the content words of an expression look, without what stop words, magnets and special tokens hold.

    The text-to-image rectangle of each chosen layer's attention is computed exactly (never a whole map) in one pass; every
    place is divided among the text tokens; what stop words, magnets and special tokens hold is left out; the rest is added up.
    The paper reads joint attention of diffusion transformers; here a vision-language model's text looks at its picture. A text
    that stands behind its picture is not seen from there: global attention sinks, which need joint attention, cannot occur
    here and are not looked for (`detect_gas`, `emergence`, `suppress` and `redirect` are for joint maps), and magnets change
    no other token's attention, only what each place is divided among.

    Args:
        model: what `probe.load` gave for a vision-language model.
        picture: a file, a picture of Pillow, or an array.
        expression: what is looked for.
        magnets: appended to it; tracked by position. The page names ". a with", a figure adds a colour word.
        layers: of the text model.
        axis: of the softmax across the stack of token maps.
        filtered: without it, all but special tokens are added up.
        spatial: left, right, top, bottom, middle; its form is ours, as the paper's is not published.

    Returns:
        An image_overlay: the heatmap and the map of each token in it; `point` (row, column in shares), role_mass (the share
        of attention to the picture that each role holds).

    Raises:
        InputError: a picture, a layer or an option that cannot be used, or an expression that is not found in the prompt.
        ModelError: no vision-language model, or one whose attention or geometry is not known exactly.
    """
    from probe.explainers._refam.build import build

    return build(model, picture, expression, magnets, layers, axis, filtered=filtered, spatial=spatial)
