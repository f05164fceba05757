"""CARVE: what a question makes a model look at, beyond what any instruction would; and the answer from there."""

from typing import TYPE_CHECKING, Annotated, Any

from probe.explainers._carve.complexity import colour_complexity, entropy_study, texture_complexity
from probe.explainers.spec import Choice, Flag, Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["carve", "colour_complexity", "entropy_study", "texture_complexity"]


#: Domains of parameters that need more than a line.
Method = Annotated[
    str,
    Choice(
        "carve",
        "vicrop",
        "question",
        help="contrast, relative attention, or the question's attention alone",
    ),
]
Layers = Annotated[str, Text("auto (20:25, or that part of the depth), first:last, or one number")]
Steps = Annotated[
    str,
    Choice(
        "first",
        "last",
        "all",
        help="of the answers; last is each one's own last, all weighs later ones more",
    ),
]
Rule = Annotated[
    str, Choice("most", "least", help="at most K (paper), or K or keep of all regions if more (code)")
]
Fill = Annotated[str, Choice("black", "keep", help="what stands in the box outside the regions")]
On = Annotated[
    str, Choice("refined", "both", help="the refined picture (paper), or original and refined (code)")
]


@explainer(
    title="Where the question makes it look",
    shape="runs",
    kind="image_overlay",
    references=(
        "Ge et al., CARVE, 2025 (arXiv 2509.06461 v2), and its released code where a parameter says so",
        "ViCrop: Zhang et al., MLLMs Know Where to Look, ICLR 2025 (arXiv 2502.17422): relative attention",
    ),
)
def carve(
    model: Any,
    picture: Any,
    *,
    ask: Annotated[str, Text("question about the picture")] = "What is in this image?",
    general: Annotated[str, Text("general instruction that the question is held against")] = (
        "Write a general description of the image."
    ),
    method: Method = "carve",
    layers: Layers = "auto",
    steps: Steps = "last",
    start: Annotated[int, Interval(0, 1000, "with all: the first step")] = 0,
    lam: Annotated[float, Interval(0, 1e12, "λ, added to the general weights; the code has 1e-8")] = 1e-8,
    normalise: Annotated[bool, Flag("divide each layer's map by its sum first")] = False,
    keep: Annotated[float, Interval(0.001, 1, "share of the pixels that the mask keeps")] = 0.2,
    regions: Annotated[int, Interval(1, 10_000, "K, how many connected regions stay")] = 3,
    region_rule: Rule = "most",
    region_order: Annotated[str, Choice("sum", "size", help="which regions come first")] = "sum",
    smallest: Annotated[float, Interval(0, 1, "drop regions below this share of the mask")] = 0.0,
    connectivity: Annotated[str, Choice("4", "8", help="neighbours of a pixel")] = "4",
    margin: Annotated[float, Interval(0, 2, "around the box, in shares of its longer side")] = 0.0,
    fill: Fill = "black",
    answer_on: On = "refined",
    max_new_tokens: Annotated[int, Interval(1, 1024, "of each answer")] = 32,
) -> "xr.Dataset":
    """What the question makes the model look at, the part that is cut out for it, and its answer before and after.

    The attention of each answer step to the picture's tokens is taken under the question and under a general instruction; their
    ratio is spread over the picture, its strongest regions are kept, everything else is blacked out, the box around them is
    enlarged, and the question is asked again. Only the last row of each chosen layer is computed; no map is formed.

    Args:
        model: what `probe.load` gave for a vision-language model.
        picture: a file, a picture of Pillow, or an array.
        ask: the question.
        general: the general instruction.
        method: "carve"; "vicrop" (a sliding window; its authors take λ 0 and layer 14 of LLaVA-1.5, 22 of Qwen2.5-VL);
            "question" (no contrast, a baseline).
        layers: of the text model.
        steps: which steps of the answers are compared.
        start: with "all", the first step that counts.
        lam: λ of C = A_Q / (A_G + λ).
        normalise: layers weigh alike.
        keep: the mask's share of the pixels.
        regions: K.
        region_rule: K as a maximum or as a minimum.
        region_order: by the map's sum or by size.
        smallest: regions below this share of the mask are dropped.
        connectivity: of regions.
        margin: of the box.
        fill: outside of the regions.
        answer_on: what the question is asked about again.
        max_new_tokens: of each answer.

    Returns:
        An image_overlay: the fused map and both attentions over the picture, the kept regions as areas, `refined` (what was
        asked about again), the answers, and diagnostics: entropy in nats and visual mass by layer under both instructions.
        Where both give the same map there is nothing to keep: `contrast` is False, no region is kept, and the answer is
        that on the original.

    Raises:
        InputError: a picture, a layer or an option that cannot be used, or a prompt without image tokens.
        ModelError: no vision-language model, or one whose attention or geometry is not known exactly.
    """
    from probe.explainers._carve.build import Settings, build
    from probe.explainers._carve.contrast import RegionRule

    rule = RegionRule(regions, region_rule, region_order, smallest, int(connectivity), keep)
    settings = Settings(
        ask,
        general,
        method,
        layers,
        steps,
        start,
        lam,
        normalise,
        keep,
        rule,
        margin,
        fill,
        answer_on,
        max_new_tokens,
    )
    return build(model, picture, settings)
