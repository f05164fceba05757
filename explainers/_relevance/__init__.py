"""Salient relevance: which areas of a picture a network's answer rests on."""

from typing import TYPE_CHECKING, Annotated, Any

from probe.explainers._lrp.composites import COMPOSITES
from probe.explainers._relevance.context import Rules, context_saliency
from probe.explainers._relevance.contrast import relevance_contrast
from probe.explainers.spec import Choice, Flag, Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr
    from torch import nn

    from probe.models.load import LoadedModel

__all__ = ["Rules", "context_saliency", "relevance", "relevance_contrast"]

GRADIENTS = ("saliency", "input_x_gradient", "integrated_gradients", "gradcam", "occlusion", "deeplift")
METHODS = (*COMPOSITES, "epsilon_gamma_box", *GRADIENTS)


@explainer(
    title="Salient relevance",
    shape="runs",
    kind="image_overlay",
    references=(
        "Li, Tian, Mueller and Chen, Beyond Saliency: Understanding CNNs from Saliency Prediction on LRP, Image and Vision "
        "Computing 83, 2019 (arXiv 1712.08268): the SR map",
        "Goferman, Zelnik-Manor and Tal, Context-Aware Saliency Detection, CVPR 2010",
        "Bach et al., On Pixel-Wise Explanations by Layer-Wise Relevance Propagation, PLOS ONE 2015: LRP",
        "Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019: composites",
        "Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv 1610.02391)",
        "Kokhlikyan et al., Captum, 2020 (arXiv 2009.07896): the gradient family",
        "Petsiuk et al., RISE, BMVC 2018 (arXiv 1806.07421): deletion and insertion",
    ),
)
def relevance(
    model: "LoadedModel | nn.Module",
    picture: Any,
    *,
    method: Annotated[
        str, Choice(*METHODS, help="a composite of LRP, or one of captum's gradient family")
    ] = "epsilon_plus",
    target: Annotated[
        str | None, Text("name or number of the class to explain; left open: the network's own answer")
    ] = None,
    positive: Annotated[bool, Flag("evidence for the class alone goes into SR and blur")] = True,
    channels: Annotated[
        str, Choice("sum", "each", help="add the colours before SR, or keep them as the published code does")
    ] = "sum",
    outline: Annotated[
        str, Choice("sr", "blurred", help="the map whose areas are outlined and tested")
    ] = "sr",
    foci: Annotated[
        str,
        Choice(
            "scale", "once", "off", help="SR: weight drawn to the foci of each scale, of their mean, or not"
        ),
    ] = "scale",
    threshold: Annotated[float, Interval(0.05, 1.0, "SR: foci lie above it")] = 0.8,
    relative: Annotated[bool, Flag("SR: the threshold is a part of the map's maximum")] = False,
    size: Annotated[
        int, Interval(16, 1024, "SR: longest side while the map is compared with itself, pixels")
    ] = 250,
    nearest: Annotated[int, Interval(1, 256, "SR: neighbours of a patch that count")] = 64,
    falloff: Annotated[float, Interval(0, 100, "SR: how much distance makes two patches alike")] = 3.0,
    patch: Annotated[
        str, Choice("paper", "shrinking", help="SR: 7 pixels at every scale, or 7, 5, 3, 3")
    ] = "paper",
    sigma: Annotated[float, Interval(0.5, 128, "width of the blur beside the SR map, pixels")] = 8.0,
    faithfulness: Annotated[bool, Flag("measure deletion and insertion against random orders")] = True,
    stand_in: Annotated[
        str, Choice("blur", "mean", "inpaint", help="faithfulness: what a removed part is replaced by")
    ] = "blur",
    cells: Annotated[int, Interval(2, 32, "faithfulness: parts of the picture a side")] = 7,
    n_random: Annotated[int, Interval(20, 1000, "faithfulness: random orders")] = 20,
    seed: Annotated[int, Interval(0, 2**31 - 1, "faithfulness: seed of the random orders")] = 0,
) -> "xr.Dataset":
    """Which areas of a picture speak for a network's answer: relevance, its blur, and its salient areas.

    Relevance says how much each pixel counts for the class (by LRP its logit is shared out, layer by layer). Single pixels are
    hard to read, so the SR map rates areas: context-aware saliency of the relevance map, which weighs what stands out and what
    lies near it. A plain Gaussian blur of the same relevance is always given beside it: on people's gaze it did at least as
    well as SR (see the README), so read what SR shows and the blur does not with care.

    Args:
        model: from `probe.load`, for pictures; or a bare module with a prepared tensor as picture.
        picture: a file, a picture of Pillow, an array [H, W(, C)], or a prepared tensor [1, C, H, W].
        method: the composites of LRP, "saliency" to "deeplift" by captum, "gradcam" at the last convolution.
        target: a class's name ("tabby") or number.
        positive: False passes on the size of the relevance, whatever its sign, as the published code does.
        channels: see above.
        outline: see above.
        foci: see above.
        threshold: absolute after scaling to [0, 1].
        relative: see above.
        size: the distances of all pairs of patches are computed at this size; cost grows with its fourth power.
        nearest: K of context-aware saliency.
        falloff: c of context-aware saliency.
        patch: see above.
        sigma: of the blur.
        faithfulness: add the curves of `faithfulness_curves` for the outlined map, over cells × cells parts.
        stand_in: a strong blur, the mean colour, or a fill from the surroundings.
        cells: see above.
        n_random: random orders beside the map's own.
        seed: of these orders.

    Returns:
        image_overlay: relevance(map, row, column) with name(map) and signed(map): the relevance [logit], the SR map and the
        blur (both 0 to 1), on the part of the picture that the network sees, picture(row, column, colour); area_of(row,
        column), the number of the outlined area (0: none), with area_top … area_right [pixel], area_size (of the picture) and
        area_share (of the positive relevance) over `area`. Attributes beyond the kind's: prediction, score_value,
        conservation (where the score went), conservation_ratio, sound, seen (the part of the picture, in its pixels).

    Raises:
        InputError: a picture, a target or an option that cannot be used.
        ModelError: a network that takes no pictures, is in training mode, or has a layer without a rule.
    """
    from probe.explainers._relevance.build import explain_picture, rules_of

    rules = rules_of(
        {
            "size": size, "nearest": nearest, "falloff": falloff, "patch": patch, "threshold": threshold,
            "relative": relative, "foci": foci,
        }
    )  # fmt: skip
    orders = {"stand_in": stand_in, "cells": cells, "n_random": n_random, "seed": seed}
    settings = {
        "positive": positive, "channels": channels, "outline": outline, "sigma": sigma, "rules": rules,
        "faithfulness": orders if faithfulness else None,
    }  # fmt: skip
    return explain_picture(model, picture, target, method, settings)
