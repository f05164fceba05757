"""Tasks: questions with a right answer among given ones, and how likely a language model finds each answer."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from probe.explainers._tasks.items import Task
    from probe.models.load import LoadedModel

__all__ = ["read_task", "score_task"]


def read_task(source: str | Path | Iterable[Mapping[str, Any]]) -> "Task":
    r"""Read a task: multiple choice, or classification by label words.

    Each line of a JSONL file (or each mapping) is one of::

        {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1}           multiple choice; or "answer": " 4"
        {"text": "A delight.", "label": "positive"}                            classification
        {"template": "{text}\nSentiment:", "labels": {"positive": " good", "negative": " bad"}}   first line, optional

    Prompt and choice are joined as they stand: the blank between them belongs to the choice. Without a first line that
    says otherwise, a text is asked about by "Text: {text}\nLabel:" and a label is worded as itself after a blank. Other
    fields are ignored.

    Args:
        source: a file, or mappings.

    Raises:
        InputError: no such file, or lines that are no items; they are named by number, and nothing is run.
    """
    from probe.explainers._tasks.items import from_file, from_mappings

    return from_file(Path(source)) if isinstance(source, (str, Path)) else from_mappings(source)


def score_task(
    model: "LoadedModel",
    task: "Task | str | Path | Iterable[Mapping[str, Any]]",
    *,
    normalise: str = "sum",
    shots: int = 0,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int, int, str], None] | None = None,
) -> "xr.Dataset":
    """How likely a language model finds each answer of each item: log p(choice | prompt), whole strings.

    Works the same inside `with ex.act(…)`: sinks are then found in the prompt. (Answers of several tokens need its
    decoding="frozen": each is tried in turn behind the same prompt.)

    Args:
        model: from `probe.load`, of the task text-generation.
        task: from `read_task`, or what it takes.
        normalise: "sum" of the tokens' log-probabilities, mean per "token", or per "byte" of the choice.
        shots: this many items are taken out, at random, and stand with their answers before every prompt.
        seed: of that draw.
        batch_size: prompts in one forward pass.
        progress: called with (done, expected, name) after each batch.

    Returns:
        Dataset over `item` and `choice` (as many as the longest list; NaN beyond an item's own): score [nat], and per item
        answer, prediction (both indices of choices; of equal scores the first), correct, loss (−log of the answer's share
        of exp(score) [nat]). Attributes: accuracy, loss (means), task, task_sha256, model, normalise.

    Raises:
        InputError: an item is too long for the model, an unknown way to normalise, or too few items for the shots.
        ModelError: a model of another task, in training mode, or with scores that are not finite.
    """
    from probe.explainers._tasks.items import Task, with_shots
    from probe.explainers._tasks.score import Scorer, as_dataset

    read = task if isinstance(task, Task) else read_task(task)
    scorer = Scorer(model, with_shots(read, shots, seed), normalise=normalise, batch_size=batch_size)
    return as_dataset(scorer, scorer.scores(progress=progress))
