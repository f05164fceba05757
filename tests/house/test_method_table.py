"""The README lists every method as its declaration says it."""

from house import ROOT
from method_table import END, START, table


def test_the_readme_holds_the_table_of_methods():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.split(START)[1].split(END)[0].strip() == table()
