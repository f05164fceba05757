"""The options of `probe capture`, as a person gives them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from probe.dashboard.options import option
from probe.errors import InputError


def stats_of(text: str) -> list[str]:
    """The statistics that an option names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def layers_of(text: str | None) -> list[int | str] | None:
    """The layers that an option names: numbers, or patterns of module names; None for all."""
    if text is None:
        return None
    return [int(part) if part.isdecimal() else part for part in map(str.strip, text.split(","))]


@dataclass(frozen=True)
class Capture:
    """What is to be captured, of which model, and where the record goes."""

    model: str = option("A name of `probe models`, a folder, or a hub id.", MISSING)
    out: Path = option("Folder of the record to write.", MISSING, "RECORD")
    text: list[str] | None = option("A text; may be repeated, a sample each.")
    text_file: list[Path] | None = option("A text file; may be repeated.", metavar="FILE")
    stats: str = option("Statistics, joined by commas.", "entropy,received")
    layers: str | None = option("Numbers or patterns of module names, joined by commas.")
    grid: int = option("Cells per side of pooled, the map on a grid.", 512)
    keep: list[str] | None = option(
        "Heads whose q, k, v are kept for zooming; may be repeated.", metavar="LAYER:HEADS"
    )
    keep_bits: int | None = option("Bits of mantissa to store, of 23 (7: off by at most 2⁻⁸).", metavar="N")
    generate: int = option("Let the model go on for so many tokens, and record them too.", 0, "N")
    jsonl: Path | None = option("Many inputs, a JSON object a line; --out is a folder then.", metavar="FILE")
    batch: int = option("With --jsonl: inputs of similar length in one pass.", 1)
    keep_records: bool = option("With --jsonl: keep every input's record.", False)
    on_error: str = option("With --jsonl: stop or skip.", "stop", "stop|skip")
    resume: bool = option("Go on with the same capture that was killed.", False)
    overwrite: bool = option("Replace a record that is there.", False)
    calibration: Path | None = option("Heads that `probe calibrate` found: run under ACT.", metavar="FILE")
    device: str = option("auto, cpu, cuda, cuda:1, …", "auto")
    json: bool = option("Print JSON to standard output and nothing else.", False)

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            InputError: the options, and what they belong to.
        """
        many = self.batch != 1 or self.keep_records or self.on_error != "stop"
        if self.jsonl is None and many:
            raise InputError("--batch, --keep-records and --on-error belong to --jsonl")
        one = self.text or self.text_file or self.overwrite or self.keep or self.generate
        if self.jsonl is not None and one:
            raise InputError("--jsonl goes without --text, --text-file, --keep, --generate and --overwrite")
