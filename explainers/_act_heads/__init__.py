"""Head search of ACT: which heads' later sinks are worth shrinking on a task, and whether that holds on unseen items."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from probe.explainers.spec import Choice, Flag, Interval, Text, explainer

if TYPE_CHECKING:
    import xarray as xr

    from probe.explainers._tasks.items import Task
    from probe.models.load import LoadedModel

__all__ = ["act_heads"]


_SEARCH = Choice(
    "halving", "full", help="all heads on few items and the better third on three times more, or on all"
)
_SELECT = Choice(
    "greedy", "beats", help="put heads together one by one while it helps, or take all that help alone"
)
_METRIC = Choice(
    "auto", "accuracy", "loss", help="what heads are judged by; auto: loss below 300 calibration items"
)


@explainer(
    title="Heads worth calibrating (ACT)",
    shape="searches",
    kind="head_table",
    references=(
        "Yu et al., Unveiling and Harnessing Hidden Attention Sinks (ACT), ICML 2024 (arXiv 2406.15765)",
        "Karnin, Koren, Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013: sequential halving",
        "McNemar, Psychometrika 12 (1947) 153; Agresti and Min, Statistics in Medicine 24 (2005) 729: paired proportions",
        "Efron, Journal of the American Statistical Association 82 (1987) 171: BCa bootstrap",
    ),
)
def act_heads(
    model: "LoadedModel",
    task: "Task | str | Path | Iterable[Mapping[str, Any]]",
    progress: Callable[[int, int, str], None] | None = None,
    journal: str | Path | None = None,
    *,
    search: Annotated[str, _SEARCH] = "halving",
    select: Annotated[str, _SELECT] = "greedy",
    metric: Annotated[str, _METRIC] = "auto",
    least_z: Annotated[
        float, Interval(0, 10, "standard errors by which a head alone must beat the model")
    ] = 0.0,
    layers: Annotated[
        str | None, Text("layers to search, such as 2-28 or 3,5,9; left open: all but the first two")
    ] = None,
    held_out: Annotated[float, Interval(0.1, 0.9, "share of the items that the search never sees")] = 0.5,
    n_random: Annotated[int, Interval(20, 1000, "held-out control: sets of as many random heads")] = 20,
    normalise: Annotated[
        str, Choice("sum", "token", "byte", help="log-likelihood of an answer: whole, per token, per byte")
    ] = "sum",
    shots: Annotated[int, Interval(0, 64, "answered items before every prompt")] = 0,
    seed: Annotated[
        int, Interval(0, 2**31 - 1, "of the split, the shots, the random heads, the bootstrap")
    ] = 0,
    batch_size: Annotated[int, Interval(1, 4096, "prompts in one forward pass")] = 16,
    beta: Annotated[float, Interval(0, 1, "ACT: share of its weight that a sink keeps")] = 0.4,
    alpha: Annotated[float, Interval(0, 1e6, "ACT: how far above the threshold a sink lies")] = 5.0,
    threshold: Annotated[
        str, Choice("relative", "absolute", "corrected", help="ACT: what alpha is measured against (see act)")
    ] = "relative",
    min_queries: Annotated[int, Interval(1, 1_000_000, "ACT: keys that fewer queries see are no sinks")] = 1,
    protect_first: Annotated[bool, Flag("ACT: the first token is never a sink")] = True,
    targets: Annotated[str, Choice("all", "no_first", help="ACT: who shares the freed weight")] = "all",
) -> "xr.Dataset":
    """Search the heads whose calibration helps a task, and test them on held-out items against random heads.

    The items are split at random. On the calibration items each head is calibrated alone, and its gain is what the loss
    falls by (the loss is −log of the right answer's share among the choices), or what accuracy rises by. ACT keeps all
    heads that beat the model ("beats"); "greedy" goes through them, the best first, and keeps each that raises the gain of
    those kept so far, because gains do not add up. "halving" tries all heads on a ninth of the items, the better third on a
    third, and the better third of these on all: a gain is then that of the items a head was tried on. Everything is done
    with one loaded model; where all answers are single tokens, a trial computes only the layers from its lowest
    head on, if that gives the model's own scores bit by bit.

    A search always finds heads that help where it looked. Whether they help is said by the held-out items alone: the
    change in accuracy and in loss with 95 % intervals, and the share of equally many random heads that do as well. The
    verdict is "gain" only if the interval of the metric lies above 0 and at most 5 % of all sets, their own included, do as
    well; "harm" if it lies below 0; else "not shown".

    Args:
        model: from `probe.load`, of the task text-generation.
        task: from `read_task`, or what it takes.
        progress: called with (done, expected, name) after each trial.
        journal: a file in which every trial is kept until the search is finished: called again with it, a search that was
            killed goes on where it was.
        search: "halving" or "full".
        select: "greedy" or "beats".
        metric: "auto", "accuracy" or "loss".
        least_z: 0 as published; 1 or 2 leaves out heads whose gain may be chance.
        layers: ACT never edits the first two; a model of two layers is searched whole.
        held_out: share of the items.
        n_random: sets.
        normalise: see `score_task`.
        shots: these items are taken out of both parts.
        seed: one number for all draws.
        batch_size: memory grows with it.
        beta: see `act`, as the following.
        alpha: see `act`.
        threshold: see `act`.
        min_queries: see `act`.
        protect_first: see `act`.
        targets: see `act`.

    Returns:
        head_table: gain(layer, head) [nat, or 1 for accuracy; NaN where a head was no candidate], z, items, chosen.
            Attributes: verdict, and `calibration`, a JSON document with heads, settings, model, task, held-out figures
            and cost; `write_calibration` writes it, `calibration` makes `act`'s arguments of it.

    Raises:
        InputError: fewer than 16 items, a journal of another search, layers that the model does not have, or a
            task that cannot be scored (see `score_task`).
        ModelError: a model that cannot be scored or steered.
    """
    from probe.explainers._act_heads.build import searched
    from probe.explainers._act_heads.search import Plan

    plan = Plan(search, select, metric, least_z)
    steering = {
        "beta": beta,
        "alpha": alpha,
        "threshold": threshold,
        "min_queries": min_queries,
        "protect_first": protect_first,
        "targets": targets,
    }
    scoring = {"normalise": normalise, "batch_size": batch_size}
    drawn = {"held_out": held_out, "n_random": n_random, "shots": shots, "seed": seed, "layers": layers}
    return searched(
        model, task, plan, steering, scoring, drawn, progress, None if journal is None else Path(journal)
    )
