"""ACT: the later attention sinks of chosen heads shrink while the model runs, input by input, without training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from probe.explainers.spec import Choice, Flag, Interval, Text, explainer

if TYPE_CHECKING:
    import torch

    from probe.explainers._act.steering import Steering
    from probe.models.load import LoadedModel

__all__ = ["act"]

#: Which heads of which layers: {layer: heads}, or (layer, head) pairs.
Heads = Mapping[int, Sequence[int]] | Iterable[tuple[int, int]]


@explainer(
    title="ACT calibration",
    shape="steers",
    kind="head_table",
    references=(
        "Yu et al., Unveiling and Harnessing Hidden Attention Sinks (ACT), ICML 2024 (arXiv 2406.15765)",
        "Gu et al., When Attention Sink Emerges in Language Models, ICLR 2025 (arXiv 2410.10781): α_k",
    ),
)
def act(
    model: "LoadedModel | torch.nn.Module",
    heads: Heads,
    *,
    beta: Annotated[float, Interval(0, 1, "share of its weight that a sink keeps; 1 changes nothing")] = 0.4,
    alpha: Annotated[float, Interval(0, 1e6, "sink factor a: how far above the threshold a sink lies")] = 5.0,
    threshold: Annotated[
        str,
        Choice(
            "relative",
            "absolute",
            "corrected",
            help="a sink receives more than alpha/T, alpha itself, or alpha × a uniform map's share",
        ),
    ] = "relative",
    min_queries: Annotated[int, Interval(1, 1_000_000, "keys that fewer queries see are no sinks")] = 1,
    protect_first: Annotated[bool, Flag("the first token is never a sink")] = True,
    targets: Annotated[
        str, Choice("all", "no_first", help="who shares the freed weight: all others, or not the first token")
    ] = "all",
    decoding: Annotated[
        str,
        Choice(
            "running",
            "frozen",
            help="sinks follow each new token, or stay those of the prompt (the first pass)",
        ),
    ] = "running",
    prompt: Annotated[
        int | None,
        Interval(1, 1 << 30, "frozen: decide on this many first tokens; left open: on the whole first pass"),
    ] = None,
    tower: Annotated[
        str | None, Text("tower whose layers are meant; left open: the model's own text")
    ] = None,
    implementation: Annotated[
        str, Choice("auto", "reference", "triton", help="of the kernels: by device, plain torch or Triton")
    ] = "auto",
) -> "Steering":
    """Shrink the later attention sinks of chosen heads in everything that the model computes inside the context.

    ::

        with ex.act(model, heads={3: [0, 5], 7: [2]}, beta=0.4) as steering:
            output = model.generate(**inputs)
        report = steering.report()

    Args:
        model: what `probe.load` gave, or a bare transformers model in eval mode.
        heads: {layer: heads} or (layer, head) pairs; only these heads change.
        beta: what a sink keeps of its weight; 0 removes sinks.
        alpha: a of the rule α_k > a/T.
        threshold: "relative" (a/T, the paper), "absolute" (a, the reference scripts: 0.1), "corrected" (a × E_k).
        min_queries: tokens that fewer queries see are no candidates; 1 as published.
        protect_first: by position: the first token that is no padding.
        targets: whether the first token shares the freed weight ("all", as published) or keeps what it has.
        decoding: "running" or "frozen".
        prompt: with "frozen", the number of first tokens of each sample that decide; later tokens are never sinks.
        tower: "text", "decoder", "encoder", "vision", "audio".
        implementation: of the kernels.
    """
    from probe.explainers._act.rule import Options
    from probe.explainers._act.steering import Steering

    options = Options(beta, alpha, threshold, min_queries, protect_first, targets, decoding)
    return Steering(model, heads, options, prompt, tower, implementation)
