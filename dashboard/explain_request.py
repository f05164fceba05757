"""The options of `probe explain`, a field each, and which command answers them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probe.errors import InputError

_PARAMETERS = (
    *("method", "target", "contrast", "answer", "baseline", "n_steps", "layers", "faithfulness"),
    *("n_random", "seed", "batch_size", "max_tokens"),
)


def _told(told: str, metavar: str | None = None) -> dict[str, str]:
    return {"help": told} | ({"metavar": metavar} if metavar else {})


@dataclass(frozen=True)
class Request:
    """What was asked; None leaves a parameter of `saliency` to its default."""

    model: str = field(
        default="sentiment", metadata=_told("A name of `probe models`, a folder, or a hub id.")
    )
    method: str | None = field(
        default=None,
        metadata=_told(
            "integrated_gradients, gradient_x_input, occlusion, attention_received, or auto: the most faithful here."
        ),
    )
    compare: str | None = field(
        default=None, metadata=_told("Methods joined by commas, shown beside each other.", "A,B")
    )
    target: str | None = field(
        default=None, metadata=_told("Label or next token to explain; default: the model's own answer.")
    )
    contrast: str | None = field(
        default=None, metadata=_told("Explain why the target and not this label or token.")
    )
    answer: int | None = field(
        default=None, metadata=_told("Language models: explain the whole answer of up to so many tokens.")
    )
    html: Path | None = field(default=None, metadata=_told("Write a report that opens offline.", "PATH"))
    markdown: Path | None = field(default=None, metadata=_told("Write the same as Markdown.", "PATH"))
    json: bool = field(default=False, metadata=_told("Print JSON to standard output and nothing else."))
    device: str = field(default="auto", metadata=_told("auto, cpu, cuda, cuda:1, …"))
    language: str = field(default="en", metadata=_told("Of the sentences: en or de."))
    search: str = field(
        default="segments", metadata=_told("How phrases are found: segments, windows, published.")
    )
    unit: str = field(default="auto", metadata=_told("What is named: auto, word, phrase, sentence."))
    verbalizer: str = field(
        default="template", metadata=_told("template, or llm: a language model, checked.")
    )
    base_url: str | None = field(
        default=None, metadata=_told("llm: an OpenAI-compatible server; its key from OPENAI_API_KEY.")
    )
    llm: str = field(default="", metadata=_told("llm: the model's name there; left open: the first."))
    prompt: str = field(default="checked", metadata=_told("llm: checked, or published."))
    strict: int = field(
        default=0, metadata=_told("llm: ask again so often where the map disagrees, then use templates.")
    )
    timeout: float = field(default=60.0, metadata=_told("llm: seconds for one request."))
    cache: bool | None = field(
        default=None, metadata=_told("llm: keep answers, so that a question costs once (default: yes).")
    )
    out: Path | None = field(default=None, metadata=_told("Many texts: folder of the results.", "FOLDER"))
    resume: bool = field(default=False, metadata=_told("Many texts: go on with a run that was killed."))
    on_error: str = field(default="stop", metadata=_told("Many texts: stop or skip.", "stop|skip"))
    baseline: str | None = field(
        default=None, metadata=_told("What stands for an absent token: auto, mask, pad, mean, zero.")
    )
    n_steps: int | None = field(default=None, metadata=_told("Points on the path of integrated gradients."))
    layers: str | None = field(
        default=None, metadata=_told("attention_received: mean of all layers, or last.")
    )
    faithfulness: bool | None = field(
        default=None, metadata=_told("Measure deletion and insertion against random orders.")
    )
    n_random: int | None = field(default=None, metadata=_told("Random orders for faithfulness."))
    seed: int | None = field(default=None, metadata=_told("Seed of the random orders."))
    batch_size: int | None = field(default=None, metadata=_told("Inputs in one forward pass."))
    max_tokens: int | None = field(default=None, metadata=_told("Refuse longer texts."))


def answer(source: str, asked: Request, arguments: list[str]) -> int:
    """Explain one text or many.

    Args:
        source: A text, a file, `-`, a folder or a `.jsonl` file.
        asked: The options.
        arguments: The command line, kept in results.

    Raises:
        InputError: Options of one text and of many together.
    """
    from probe.dashboard.explain_options import Places, Words, command_line
    from probe.dashboard.inputs import is_many

    given = asdict(asked)
    parameters = {name: given[name] for name in _PARAMETERS}
    names = ("verbalizer", "language", "search", "unit", "base_url", "llm", "prompt", "strict", "timeout")
    words = Words(**{name: given[name] for name in names}, cache=asked.cache is not False)
    line = command_line(arguments)
    if is_many(source):
        if asked.html or asked.markdown or asked.compare:
            raise InputError("--html, --markdown and --compare go with one text")
        from probe.dashboard.explain_many import explain_many

        many: dict[str, Any] = {"resume": asked.resume, "on_error": asked.on_error, "as_json": asked.json}
        return explain_many(
            source, asked.model, asked.device, parameters, words=words, folder=asked.out, command=line, **many
        )
    if asked.out or asked.resume or asked.on_error != "stop":
        raise InputError("--out, --resume and --on-error go with a folder or a .jsonl file")
    from probe.dashboard.explain_command import explain

    places = Places(asked.html, asked.markdown, asked.json)
    return explain(
        source,
        asked.model,
        asked.device,
        parameters,
        words=words,
        places=places,
        compare=asked.compare,
        command=line,
    )
