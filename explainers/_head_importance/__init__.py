"""Head importance: how much of the model's answer each attention head carries, and whether removing it shows."""

from typing import TYPE_CHECKING, Annotated

from probe.explainers.spec import Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr

    from probe.models.load import LoadedModel

__all__ = ["head_importance"]


@explainer(
    title="Head importance",
    shape="runs",
    kind="head_table",
    references=(
        "Michel, Levy, Neubig, Are Sixteen Heads Really Better than One?, NeurIPS 2019 (arXiv 1905.10650), eq. 2",
    ),
)
def head_importance(
    model: "LoadedModel",
    text: str,
    *,
    target: Annotated[str | None, Text("label, or next token; left open: the model's own prediction")] = None,
    ablate: Annotated[float, Interval(0.01, 0.5, "share of the heads that is removed in the test")] = 0.1,
    n_random: Annotated[int, Interval(5, 1000, "random sets of as many heads")] = 20,
    seed: Annotated[int, Interval(0, 2**31 - 1, "of these sets")] = 0,
    max_tokens: Annotated[int, Interval(1, 131_072, "refuse longer inputs")] = 512,
) -> "xr.Dataset":
    """What each head adds to the score of the model's answer, to first order, tested by removing heads.

    Every head's output is multiplied by a gate of 1 before the heads are joined; importance is the derivative of the
    score (see `saliency`) by the gate, in nats: positive where the head speaks for the answer. Michel et al. take its
    absolute value; the sign is kept here. The test removes the heads of largest |importance| (gate 0, all at once) and
    measures the change of the score, |f − f'|, beside random sets of the same number of heads.

    Args:
        model: from `probe.load`: a classifier or a causal language model.
        text: the input, not empty.
        target: label name or id, or next token.
        ablate: share of all heads, at least one head.
        n_random: random sets.
        seed: of these sets.
        max_tokens: longer inputs are refused.

    Returns:
        head_table: importance(layer, head) [nat]. Attributes: heads_removed, change_important, change_random and
        change_random_sd [nat], random_larger (random sets that change the score more), target, score_value.

    Raises:
        InputError: an unusable text or target.
        ModelError: no attention layers whose heads can be told apart, or as `saliency`.
    """
    from probe.explainers._head_importance.gates import importance_of

    return importance_of(model, text, target, ablate, n_random, seed, max_tokens)
