"""The journal of a search: every finished trial is a line, so that a search that was killed goes on where it was."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError

_START = b'{"search": '
Head = tuple[int, int]
Heads = tuple[Head, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a part of the task went: the loss of each item [nat], and whether its answer was right."""

    loss: NDArray[np.float64]
    correct: NDArray[np.bool_]


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Several parts as one."""
    return Outcome(np.concatenate([o.loss for o in outcomes]), np.concatenate([o.correct for o in outcomes]))


class Journal:
    """Outcomes by heads and part, in memory and, with a path, in a file of one JSON object a line.

    Args:
        path: of the file; None keeps nothing beyond this process.
        key: says which search this is; a file with another key is refused.

    Raises:
        InputError: the file belongs to another search or is no journal.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self._found = path, dict[tuple[Heads, str], Outcome]()
        self.replayed = 0
        if path is None:
            return
        if path.exists():
            self._read(path, key)
        else:
            self._write({"search": key})

    def get(self, heads: Heads, part: str) -> Outcome | None:
        """What is known of these heads on this part."""
        return self._found.get((heads, part))

    def put(self, heads: Heads, part: str, outcome: Outcome) -> None:
        """Keep an outcome; it is on disk when this returns."""
        self._found[heads, part] = outcome
        if self.path is not None:
            told = {
                "heads": heads,
                "part": part,
                "loss": outcome.loss.tolist(),
                "correct": outcome.correct.tolist(),
            }
            self._write(told)

    def close(self) -> None:
        """The search is finished: the file is no longer needed."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _read(self, path: Path, key: str) -> None:
        whole = path.read_bytes()
        good = whole[: whole.rfind(b"\n") + 1]  # what was being written when the search was killed is dropped
        try:
            if not good and whole[: len(_START)] != _START[: len(whole)]:
                raise ValueError
            first, *lines = [json.loads(line) for line in good.splitlines()] or [{"search": key}]
            known = first["search"]
            for line in lines:
                heads = tuple((int(layer), int(head)) for layer, head in line["heads"])
                outcome = Outcome(
                    np.array(line["loss"], dtype=np.float64), np.array(line["correct"], dtype=bool)
                )
                self._found[heads, line["part"]] = outcome
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is no journal of a head search; name another file or remove it"
            ) from error
        if known != key:
            raise InputError(
                f"{path}: is the journal of a search with another model, task or other settings; give those again, or remove it"
            )
        path.write_bytes(good or (json.dumps({"search": key}) + "\n").encode())
        self.replayed = len(self._found)
