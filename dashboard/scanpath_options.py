"""What `probe scanpath` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from probe.dashboard.options import option
from probe.errors import InputError

TABLES = ("search", "sti", "osie")


@dataclass(frozen=True)
class Scanpath:
    """The options as a person gives them."""

    picture: Path | None = field(
        default=None, metadata={"help": "File of the picture.", "metavar": "PICTURE", "argument": True}
    )
    objects: Path | None = option(
        "Objects: COCO JSON, or CSV with x, y, width, height[, name] in pixels.", metavar="FILE"
    )
    propose: str = option("Without --objects: slic, regions or grid.", "slic")
    count: int = option("Without --objects: about how many.", 40)
    target: int | None = option("Number of the object searched, from 0; left open: free viewing.")
    tell_place: bool = option("Tell the model where the target is.", False)
    way: str = option("First path: typical (of the draws), greedy, sampled or beam.", "typical")
    samples: int = option("Further paths drawn from the model.", 8)
    seed: int = option("Of the draws.", 0)
    data: Path | None = option("Recorded data: STI for a trial; STI or OSIE for --table.", metavar="PATH")
    trial: str | None = option("With --data: name of the collage; left open: the first.", metavar="NAME")
    table: str | None = option("Print an evaluation instead: search, sti or osie.", metavar="NAME")
    limit: int | None = option("With --table: only so many pictures or trials.")
    html: Path | None = option("Write a report that opens offline.", metavar="PATH")
    json: bool = option("Print JSON to standard output and nothing else.", False)

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: with one line that says what to give.
        """
        if self.table is not None:
            if self.table not in TABLES:
                raise InputError(f"--table {self.table}, expected one of {', '.join(TABLES)}")
            own = Scanpath(table=self.table, data=self.data, limit=self.limit, seed=self.seed, json=self.json)
            if self != own:
                raise InputError(
                    "--table prints an evaluation: it takes --data, --limit, --seed and --json alone"
                )
            if self.table == "search" and self.data is not None:
                raise InputError("--table search simulates its trials: leave --data out")
            if self.table != "search" and self.data is None:
                raise InputError(
                    f"--table {self.table} needs --data PATH with its recordings, which are not part of the package"
                )
            if self.limit is not None and self.limit < 2:
                raise InputError(f"--limit {self.limit}, expected at least 2")
            return
        if self.limit is not None:
            raise InputError("--limit belongs to --table")
        if (self.picture is None) == (self.data is None):
            raise InputError("expected a picture, or --data PATH with recorded trials (or --table NAME)")
        if self.data is not None and (self.objects is not None or self.target is not None):
            raise InputError(
                "a recorded trial has its own objects and target: leave --objects and --target out"
            )
        if self.data is not None and self.way != "typical":
            raise InputError("a recorded trial is shown beside the typical path: leave --way out")
        if self.objects is not None and (self.propose, self.count) != ("slic", 40):
            raise InputError("--propose and --count are for pictures without --objects")
        if self.trial is not None and self.data is None:
            raise InputError("--trial belongs to --data")
