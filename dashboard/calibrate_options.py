"""The options of `probe calibrate`: where things are, and the parameters of `ex.act_heads`, left open for its defaults."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from probe.dashboard.options import option


@dataclass(frozen=True)
class Search:
    """The options as a person gives them."""

    model: str = option("A name of `probe models`, a folder, or a hub id.", MISSING)
    task: str = option("A JSON object a line: prompt, choices, answer; or text, label.", MISSING, "FILE")
    out: str = option("The calibration to write, a small JSON file.", MISSING, "FILE")
    search: str | None = option("halving (few items first) or full (all heads on all items).")
    select: str | None = option("greedy (together, while it helps) or beats (all that help alone).")
    metric: str | None = option("auto, accuracy or loss; auto: loss below 300 calibration items.")
    least_z: float | None = option("Standard errors by which a head alone must beat the model [0].")
    layers: str | None = option("Such as 2-28 or 3,5,9; default: all but the first two.")
    held_out: float | None = option("Share of the items that the search never sees [0.5].")
    n_random: int | None = option("Sets of as many random heads to compare with [20].")
    normalise: str | None = option("Score of an answer: sum, token or byte.")
    shots: int | None = option("Answered items before every prompt [0].")
    seed: int | None = option("Of every draw [0].")
    batch_size: int | None = option("Prompts in one pass [16].")
    beta: float | None = option("ACT: share of its weight that a sink keeps [0.4].")
    alpha: float | None = option("ACT: how far above the threshold a sink lies [5].")
    threshold: str | None = option("ACT: relative, absolute or corrected.")
    min_queries: int | None = option("ACT: keys that fewer queries see are no sinks [1].")
    protect_first: bool | None = option("ACT: the first token is never a sink [yes].")
    targets: str | None = option("ACT: all or no_first: who shares the freed weight.")
    html: str | None = option("Write a report that opens offline.", metavar="PATH")
    resume: bool = option("Go on with the same search that was killed.", False)
    overwrite: bool = option("Replace a calibration that is there, forget a search that was killed.", False)
    device: str = option("auto, cpu, cuda, cuda:1, …", "auto")
    json: bool = option("Print JSON to standard output and nothing else.", False)
