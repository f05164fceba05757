"""What a terminal shows, from results built by hand: colours, marks without colour, no control characters."""

import io
import re

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from probe.dashboard.render import (
    coloured,
    faithfulness_line,
    show_explanation,
    show_head_table,
    show_validity,
)
from probe.dashboard.terminal import clean
from probe.viz import theme
from probe.viz.strip import read_strip


def strip(pieces, scores, roles=None, **attrs):
    roles = roles or ["text"] * len(pieces)
    given = {"text": pieces, "role": roles}
    coords = {name: ("token", np.array(values, dtype=object)) for name, values in given.items()}
    result = xr.Dataset({"score": ("token", np.asarray(scores, dtype=np.float64))}, coords=coords)
    result.attrs = {
        "kind": "token_strip",
        "value": "score",
        "signed": True,
        "target": "positive",
        "target_probability": 0.8,
        "model": "m",
        "method": "occlusion",
    } | attrs
    return result


def printed(show, *arguments, terminal=True, width=80, **options):
    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        **options,
    )
    show(console, *arguments)
    return file.getvalue()


@pytest.fixture
def review():
    roles = ["special", *["text"] * 4, "special"]
    return strip(["[CLS]", "A", " thin", " delight", ".", "[SEP]"], [0, 0.001, -0.4, 0.8, 0.0, 0], roles)


def rgb(colour):
    return ";".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))


def test_each_token_stands_on_the_colour_of_its_score(review):
    text = coloured(read_strip(review))
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["delight"] == f"bold {theme.INK} on {theme.DIVERGING[-1][1]}"
    assert styles["thin"] == f"bold underline {theme.INK} on {theme.interpolate(theme.DIVERGING, 0.25)}"
    assert "A" not in styles
    assert text.plain.strip() == "[CLS] A thin delight. [SEP]"


def test_the_panel_reaches_the_terminal_in_colour(review):
    shown = printed(show_explanation, review, ["It is so."])
    assert f"48;2;{rgb(theme.DIVERGING[-1][1])}" in shown
    assert "m says “positive” (80%)" in shown
    assert "It is so." in shown


def test_without_colour_signs_stay_visible(review):
    shown = printed(show_explanation, review, ["It is so."], no_color=True)
    assert not re.search(r"\x1b\[[0-9;]*(?:[34]8;|[34][0-7]|9[0-7]|10[0-7])", shown)
    assert "\x1b[1;4mthin" in shown
    assert "\x1b[1mdelight" in shown


def test_piped_output_is_plain(review):
    shown = printed(show_explanation, review, ["It is so."], terminal=False)
    assert "\x1b" not in shown
    assert "╭" not in shown
    assert shown.splitlines()[0] == "m says “positive” (80%)"
    assert re.search(r"^thin +−0\.40 +33% +3", shown, re.MULTILINE)


def test_a_text_cannot_drive_the_terminal():
    hostile = strip(["a\x1b[2J", " \x07b\u202e", " c"], [1.0, -1.0, 0.5], target="\x1b[31m", model="\x9b31m")
    shown = printed(show_explanation, hostile, ["\x1b]0;title\x07"])
    assert "\x1b[2J" not in shown
    assert "\x1b]0" not in shown
    for sign in "\x07\u202e\x9b":
        assert sign not in shown
    assert "␛" in shown


def test_rich_markup_in_a_text_is_text():
    shown = printed(
        show_explanation, strip(["[bold]", "[/red]", " :smile:"], [1.0, -1.0, 0.1]), ["[link=x]y[/link]"]
    )
    for part in ("[bold]", "[/red]", ":smile:", "[link=x]y[/link]"):
        assert part in shown


def test_clean_keeps_ordinary_text():
    assert clean("naïve 日本\n\tx") == "naïve 日本\n\tx"


def test_a_long_text_shows_its_strongest_passages():
    scores = np.zeros(5000)
    scores[3000] = 1.0
    text = coloured(read_strip(strip([f" w{i}" for i in range(5000)], scores)))
    assert "w3000" in text.plain
    assert "tokens not shown" in text.plain
    assert len(text.plain.split()) < 600


def test_the_faithfulness_line_names_both_areas():
    attrs = {
        "deletion_auc": 0.25,
        "insertion_auc": 0.9,
        "deletion_auc_random": 0.5,
        "insertion_auc_random": 0.6,
    }
    line = faithfulness_line(strip(["a"], [1.0], **attrs))
    assert line == (
        "faithfulness: deletion area 0.25, random 0.50 (lower is better); "
        "insertion area 0.90, random 0.60 (higher is better)"
    )
    assert faithfulness_line(strip(["a"], [1.0])) == ""


@pytest.fixture
def table():
    values = np.array([[0.1, 0.2], [0.9, np.nan], [np.nan, np.nan]])
    result = xr.Dataset({"rate": (("layer", "head"), values)}, coords={"layer": [3, 4, 7], "head": [0, 1]})
    result.attrs = {"kind": "head_table", "value": "rate", "unit": "1", "title": "A title"}
    return result


def test_a_head_table_has_a_line_per_layer(table):
    shown = printed(show_head_table, table, ["Words."], terminal=False)
    assert re.search(r"^ *3 +0\.150 +0\.200 +1", shown, re.MULTILINE)
    assert re.search(r"^ *4 +0\.900 +0\.900 +0", shown, re.MULTILINE)
    assert re.search(r"^ *7 +none", shown, re.MULTILINE)
    assert "Words." in shown


def test_on_a_terminal_it_has_a_coloured_grid(table):
    shown = printed(show_head_table, table, [])
    assert f"48;2;{rgb(theme.SEQUENTIAL[-1][1])}" in shown
    assert "··" in shown


def record(passed):
    data = {"name": "sums", "meaning": "m", "layer": 2, "worst": 0.5, "tolerance": 0.1, "passed": passed}
    checks = xr.Dataset({name: ("check", np.array([value])) for name, value in data.items()})
    return xr.DataTree.from_dict({"/": xr.Dataset(), "/validity": checks})


def test_the_validity_table_says_what_failed():
    shown = printed(lambda c: show_validity(c, record(False)), terminal=False)
    assert re.search(r"^sums +1 +0\.5 +0\.1 +failed in 1", shown, re.MULTILINE)
    assert "ok" in printed(lambda c: show_validity(c, record(True)), terminal=False)
