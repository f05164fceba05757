"""The table of methods for the README, made from their declarations: `python tests/support/method_table.py`."""

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

from probe import explainers as ex

HEAD = "| method | what it says | works on | result | source |\n|---|---|---|---|---|"
START, END = "<!-- methods: made by tests/support/method_table.py -->", "<!-- end of methods -->"
SHAPES = {
    "reads": "a record",
    "runs": "a model and an input",
    "steers": "a model, while it runs",
    "searches": "a model and a task",
}


def row(entry):
    """One line: name, first line of its docstring, what it takes, kind of its result, the first paper."""
    paper = entry.references[0]
    author = re.split(r",| and | et al", paper, maxsplit=1)[0]
    year = re.search(r"\b(19|20)\d\d\b", paper)
    number = re.search(r"arXiv \d{4}\.\d{4,5}", paper)
    source = " ".join(part for part in (author, year and year[0], number and f"({number[0]})") if part)
    summary = entry.summary.rstrip(".").replace("|", "\\|")
    return f"| `ex.{entry.name}` | {summary} | {SHAPES[entry.shape]} | {entry.kind} | {source} |"


def table():
    """The whole table."""
    return "\n".join([HEAD, *(row(entry) for _, entry in sorted(ex.registry().items()))])


if __name__ == "__main__":
    readme = Path(__file__).parents[2] / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")
