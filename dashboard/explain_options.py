"""What `probe explain` was asked beyond the parameters of the method: words, compared methods, places."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

#: The model of `--model auto`, for texts.
TEXT_MODEL = "sentiment"
_SECRET = re.compile(r"(?<=//)[^/@\s]+@")


@dataclass(frozen=True)
class Words:
    """How a result becomes sentences.

    Attributes:
        verbalizer: `template`, or `llm` for a language model behind a server.
        language: Code of a language file.
        search: How phrases are found (`ex.verbalization`).
        unit: What is named (`ex.verbalization`).
        base_url: Of the server.
        llm: Name of the model there, empty for the first.
        prompt: `checked` or `published`.
        strict: How often the model is asked again before the templates speak.
        timeout: Seconds for one request.
        cache: Whether answers are kept.
    """

    verbalizer: str = "template"
    language: str = "en"
    search: str = "segments"
    unit: str = "auto"
    base_url: str | None = None
    llm: str = ""
    prompt: str = "checked"
    strict: int = 0
    timeout: float = 60.0
    cache: bool = True

    def check(self) -> None:
        """Refuse before any work what cannot be done.

        Raises:
            InputError: An unknown verbalizer or prompt, `llm` without an address, an address without `llm`.
        """
        if self.verbalizer not in ("template", "llm"):
            raise InputError(f"--verbalizer {self.verbalizer}, expected template or llm")
        if self.prompt not in ("checked", "published"):
            raise InputError(f"--prompt {self.prompt}, expected checked or published")
        if self.verbalizer == "llm" and not self.base_url:
            raise InputError(
                "--verbalizer llm needs the server's address: --base-url http://localhost:8000/v1"
            )
        if self.verbalizer == "template" and self.base_url:
            raise InputError("--base-url belongs to --verbalizer llm")

    def writer(self) -> Callable[[xr.Dataset], xr.Dataset]:
        """The function from a result to its words; a server is made once and serves all results."""
        from probe import explainers as ex

        if self.verbalizer == "template":
            return lambda result: ex.verbalization(
                result, language=self.language, search=self.search, unit=self.unit
            )
        from probe.explainers._verbalize.llm.cache import default_folder

        server = ex.LanguageServer(str(self.base_url), self.llm, timeout=self.timeout)
        options: dict[str, Any] = {"prompt": self.prompt, "strict": self.strict, "language": self.language}
        options["cache"] = default_folder() if self.cache else None
        return lambda result: ex.llm_verbalization(result, server, **options)


@dataclass(frozen=True)
class Places:
    """Where results go: a report, Markdown, standard output as JSON, a folder for many."""

    html: Path | None = None
    markdown: Path | None = None
    as_json: bool = False
    folder: Path | None = None

    def check(self) -> None:
        """Refuse, before any work, a place where nothing can be written.

        Raises:
            InputError: A folder, or a file in a folder that does not exist.
        """
        for option, path, name in (
            ("--html", self.html, "report.html"),
            ("--markdown", self.markdown, "report.md"),
        ):
            if path is None:
                continue
            if path.is_dir():
                raise InputError(f"{option} {path} is a folder, expected a file name such as {path / name}")
            if not path.absolute().parent.is_dir():
                raise InputError(
                    f"{option} {path}: the folder {path.absolute().parent} does not exist: make it first"
                )


def command_line(arguments: list[str]) -> str:
    """The command that was given, ready to be run again; user names and passwords of addresses are left out."""
    return shlex.join(["probe", *(_SECRET.sub("", argument) for argument in arguments)])
