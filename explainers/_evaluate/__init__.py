"""One table: how faithful each saliency method is, over many texts, with confidence intervals."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from probe.models.load import LoadedModel

__all__ = ["evaluate"]

METHODS = ("occlusion", "integrated_gradients", "gradient_x_input", "attention_received")


def evaluate(
    model: "LoadedModel",
    texts: Sequence[str],
    *,
    methods: Sequence[str] = METHODS,
    baselines: Sequence[str] = ("auto",),
    sanity: int = 5,
    soft_samples: int = 8,
    named: int = 3,
    n_steps: int = 64,
    seed: int = 0,
    batch_size: int = 16,
    max_tokens: int = 512,
    level: float = 0.95,
    progress: Callable[[int, int, str], None] | None = None,
) -> "xr.Dataset":
    """Measure how faithful saliency methods are on a set of texts; random scores stand beside them as chance.

    Per text: deletion and insertion under each baseline, comprehensiveness and sufficiency, their soft variants with
    the kept amount held equal, rank correlation with leaving one token out; for the first texts whether scores change
    with the weights and with the target; for classifiers whether a bag of words recovers the answer from the words
    named. Every text is explained for the model's own answer.

    Args:
        model: from `probe.load`.
        texts: at least two, none empty.
        methods: of `saliency`; "random" is added.
        baselines: what stands for an absent token (see `saliency`), for deletion and insertion; the first one also for
            everything else.
        sanity: number of texts for the sanity checks (a copy of the model is made), 0 for none.
        soft_samples: draws of the soft variants.
        named: words that an explanation names, for simulatability.
        n_steps: of integrated gradients.
        seed: of the random scores, draws, shuffles, folds and resamples.
        batch_size: inputs in one forward pass.
        max_tokens: longer texts are refused.
        level: of the confidence intervals (percentile bootstrap over texts).
        progress: called with (done, expected, what).

    Returns:
        measure_table: mean(explainer, measure), with low, high (confidence interval), count (texts that have a value),
        values(explainer, measure, text); better(measure) is "higher" or "lower", meaning(measure) a sentence.

    Raises:
        InputError: too few texts, an unknown method, or a text that `saliency` refuses (its number is named).
        ModelError: as `saliency`.
    """
    from probe.explainers._evaluate.run import run
    from probe.explainers._saliency.methods import METHODS as KNOWN

    known = (*KNOWN, "attention_received")
    wrong = [name for name in methods if name not in known]
    if wrong or not methods:
        raise InputError(f"methods = {wrong or 'none'}, expected some of {', '.join(known)}")
    if isinstance(texts, str) or len(texts) < 2:
        raise InputError("expected a list of at least two texts: one has no confidence interval")
    if not 0.5 <= level < 1:
        raise InputError(f"level = {level:g}, expected 0.5 to below 1, such as 0.95")
    settings: dict[str, Any] = {
        "baselines": tuple(dict.fromkeys(baselines)),
        "sanity": sanity,
        "soft_samples": soft_samples,
        "named": named,
        "n_steps": n_steps,
        "seed": seed,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "level": level,
    }
    return run(model, list(texts), list(dict.fromkeys(methods)), settings, progress or (lambda *_: None))
