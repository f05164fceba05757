"""The options of `probe explain`, as a person gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.dashboard.explain_options import Places, Words
from probe.dashboard.options import argument, option
from probe.errors import InputError

_PARAMETERS = (
    *("method", "target", "contrast", "answer", "baseline", "n_steps", "layers", "faithfulness", "n_random"),
    *("seed", "batch_size", "max_tokens", "ask"),
)


@dataclass(frozen=True)
class Explain:
    """What is to be explained, how, in which words, and where the result goes."""

    source: str = argument(
        "A text, a file (text or picture), - for standard input; for many, a folder or a .jsonl file.",
        "TEXT|FILE|FOLDER|-",
    )
    model: str = option(
        "A name of `probe models`, a folder, or a hub id; auto: by the kind of source.", "auto"
    )
    method: str | None = option(
        "integrated_gradients, gradient_x_input, occlusion, attention_received, or auto: the most faithful here; "
        "of a picture: see `probe run relevance --help`."
    )
    compare: str | None = option("Methods joined by commas, shown beside each other.", metavar="A,B")
    target: str | None = option("Label or next token to explain; default: the model's own answer.")
    contrast: str | None = option("Explain why the target and not this label or token.")
    answer: int | None = option("Language models: explain the whole answer of up to so many tokens.")
    ask: str | None = option("Of a picture: ask a vision-language model this, and see what it looks at.")
    calibration: Path | None = option("Heads that `probe calibrate` found: run under ACT.", metavar="FILE")
    html: Path | None = option("Write a report that opens offline.", metavar="PATH")
    markdown: Path | None = option("Write the same as Markdown.", metavar="PATH")
    json: bool = option("Print JSON to standard output and nothing else.", False)
    device: str = option("auto, cpu, cuda, cuda:1, …", "auto")
    language: str = option("Of the sentences: en or de.", "en")
    search: str = option("How phrases are found: segments, windows, published.", "segments")
    unit: str = option("What is named: auto, word, phrase, sentence.", "auto")
    verbalizer: str = option("template, or llm: a language model, checked.", "template")
    base_url: str | None = option("llm: an OpenAI-compatible server; its key from OPENAI_API_KEY.")
    llm: str = option("llm: the model's name there; left open: the first.", "")
    prompt: str = option("llm: checked, or published.", "checked")
    strict: int = option("llm: ask again so often where the map disagrees, then use templates.", 0)
    timeout: float = option("llm: seconds for one request.", 60.0)
    cache: bool = option("llm: keep answers, so that a question costs once.", True)
    folder: Path | None = option("Many texts: folder of the results.", metavar="FOLDER", name="--out")
    resume: bool = option("Many texts: go on with a run that was killed.", False)
    on_error: str = option("Many texts: stop or skip.", "stop", "stop|skip")
    baseline: str | None = option("What stands for an absent token: auto, mask, pad, mean, zero.")
    n_steps: int | None = option("Points on the path of integrated gradients.")
    layers: str | None = option("attention_received: mean of all layers, or last.")
    faithfulness: bool | None = option("Measure deletion and insertion against random orders.")
    n_random: int | None = option("Random orders for faithfulness.")
    seed: int | None = option("Seed of the random orders.")
    batch_size: int | None = option("Inputs in one forward pass.")
    max_tokens: int | None = option("Refuse longer texts.")

    @property
    def words(self) -> Words:
        """How the result becomes sentences."""
        return Words(
            self.verbalizer, self.language, self.search, self.unit, self.base_url, self.llm, self.prompt,
            self.strict, self.timeout, self.cache,
        )  # fmt: skip

    @property
    def places(self) -> Places:
        """Where the result goes."""
        return Places(self.html, self.markdown, self.json)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the method, those that were given."""
        asked = {name: getattr(self, name) for name in _PARAMETERS}
        return {name: value for name, value in asked.items() if value is not None}

    def check(self, *, many: bool, picture: bool) -> None:
        """Refuse options that the kind of source does not have.

        Raises:
            InputError: the option, and what it goes with.
        """
        if not many and (self.folder or self.resume or self.on_error != "stop"):
            raise InputError("--out, --resume and --on-error go with a folder or a .jsonl file")
        only_text = {"compare": self.compare, "markdown": self.markdown, "calibration": self.calibration}
        given = [name for name, value in only_text.items() if value is not None]
        if many and (given or self.html):
            raise InputError(f"--{(given or ['html'])[0]} goes with one text")
        if self.ask is not None and not picture:
            raise InputError("--ask goes with a picture")
        if picture and given:
            raise InputError(f"--{given[0]} goes with a text")
        if picture and self.verbalizer != "template":
            raise InputError(f"--verbalizer {self.verbalizer} goes with a text; pictures have templates")
        gradients = [m for m in ("integrated_gradients", "gradient_x_input", "auto") if m == self.method]
        if self.calibration is not None and (gradients or self.compare):
            asked = f"--method {gradients[0]}" if gradients else "--compare"
            raise InputError(
                f"{asked} needs gradients, and none flow through a calibrated head: use occlusion or attention_received "
                "with --calibration"
            )
