"""Token saliency: what each token counts for a classifier's label or a language model's next token."""

from typing import TYPE_CHECKING, Annotated, Any

from probe.explainers.spec import Choice, Flag, Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr

    from probe.models.load import LoadedModel

__all__ = ["saliency"]


@explainer(
    title="Token saliency",
    shape="runs",
    kind="token_strip",
    references=(
        "Sundararajan, Taly, Yan, Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv 1703.01365)",
        "Shrikumar et al., Not Just a Black Box, 2016 (arXiv 1605.01713): gradient × input",
        "Zeiler, Fergus, Visualizing and Understanding CNNs, ECCV 2014 (arXiv 1311.2901): occlusion",
        "Kokhlikyan et al., Captum, 2020 (arXiv 2009.07896)",
    ),
)
def saliency(
    model: "LoadedModel",
    text: str,
    *,
    method: Annotated[
        str,
        Choice(
            "occlusion",
            "integrated_gradients",
            "gradient_x_input",
            "attention_received",
            "auto",
            help="how tokens are scored; attention_received has no sign; auto: what is most faithful here",
        ),
    ] = "occlusion",
    target: Annotated[
        str | None, Text("label, or next token, to explain; left open: the model's own prediction")
    ] = None,
    contrast: Annotated[
        str | None, Text("label, or next token, to set the target against: why this and not that")
    ] = None,
    answer: Annotated[
        int, Interval(0, 1024, "language models: explain the whole own answer of up to so many tokens")
    ] = 0,
    baseline: Annotated[
        str,
        Choice(
            "auto", "mask", "pad", "mean", "zero", help="what stands for an absent token, in the embedding"
        ),
    ] = "auto",
    n_steps: Annotated[int, Interval(8, 2000, "integrated gradients: points on the path")] = 64,
    layers: Annotated[
        str, Choice("mean", "last", help="attention_received: mean over all layers, or the last one")
    ] = "mean",
    faithfulness: Annotated[bool, Flag("measure deletion and insertion against random orders")] = True,
    n_random: Annotated[int, Interval(20, 1000, "faithfulness: random orders")] = 20,
    seed: Annotated[int, Interval(0, 2**31 - 1, "faithfulness: seed of the random orders")] = 0,
    batch_size: Annotated[int, Interval(1, 4096, "inputs in one forward pass")] = 16,
    max_tokens: Annotated[
        int | None,
        Interval(
            1, 131_072, "refuse longer inputs; left open: 512 for occlusion and faithfulness, else 2048"
        ),
    ] = None,
) -> "xr.Dataset":
    """What each token of a text counts for a classifier's label or a language model's next token.

    The score explained is, for a classifier, the log-odds of the target label (for two labels the difference
    of their logits; for independent labels the logit) and, for a language model, the log-probability of the
    target as next token; both in nats, so positive scores support the target. All methods but
    attention_received go through captum on the token embeddings: gradient × input and integrated gradients
    (Gauss-Legendre path from the baseline) are summed over the embedding; occlusion replaces one token at a
    time by the baseline. Baselines replace text tokens alone; special tokens ([CLS], [SEP], <s>) stay, so
    their integrated-gradients and occlusion scores are 0 by construction. attention_received is the share
    that a token receives over its share under a uniform map of the same visibility, mean over heads: it says
    where the model reads, not what speaks for the target.

    Args:
        model: from `probe.load`.
        text: the input, not empty.
        method: see above; "auto" runs the signed ones and keeps the one with the largest insertion AUC − deletion
            AUC on this text (attribute `tried` has all). It then stands under its own name.
        target: a label name or id for a classifier; for a language model a text that is one token (mind the
            leading space: " Paris").
        contrast: as `target`; the score is then the log-odds of the target against it, log(p / q), and
            faithfulness is measured on p / (p + q).
        answer: the target is what the model writes by greedy decoding; the score is the log-probability of these
            tokens in their order, its probability the geometric mean over them. 0: the next token alone.
        baseline: "auto" takes the mask token, else the mean of all embeddings; "zero" is the zero vector.
        n_steps: points on the path; the attribute `convergence_delta` says what they leave open.
        layers: which layers attention_received averages.
        faithfulness: add the curves of `faithfulness_curves`.
        n_random: random orders beside the method's own.
        seed: of these orders.
        batch_size: embeddings in one forward pass; memory grows with it.
        max_tokens: cost grows with the square of the length, so that longer inputs are refused.

    Returns:
        token_strip: score(token) [nat; 1 for attention_received], with text, role, start, end per token.
            Attributes beyond the kind's: score_explained, score_value, baseline, prediction,
            prediction_probability, convergence_delta (integrated gradients: Σ scores − (f(x) − f(baseline))).

    Raises:
        InputError: empty or too long text, only unknown tokens, unknown target.
        ModelError: a model of another task, in training mode, or with logits that are not finite.
    """
    from probe.explainers._saliency.build import explain_text

    settings: dict[str, Any] = {
        "method": method,
        "contrast": contrast,
        "answer": answer,
        "baseline": baseline,
        "n_steps": n_steps,
        "layers": layers,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
    }
    orders = {"n_random": n_random, "seed": seed} if faithfulness else None
    return explain_text(model, text, target, settings, orders)
