"""The report as a document: whole, escaped, small, written in one step."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from plotly.offline import get_plotlyjs

from probe import InputError, viz

EVIL = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Visible text by section, with what would load or run."""

    def __init__(self):
        super().__init__()
        self.stack, self.words, self.scripts, self.urls, self.spans = [], [], 0, [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "link", "br", "img", "input"):
            self.stack.append(tag)
        self.scripts += tag == "script"
        self.urls += [v for k, v in attrs.items() if k in ("src", "href", "srcset", "data", "action") and v]
        if "data-tip" in attrs:
            self.spans.append(attrs)

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader, "".join(reader.words)


def record_with(passed, worst=1e-7):
    checks = xr.Dataset(
        {
            "name": ("check", np.array(["row sums"], dtype=object)),
            "layer": ("check", [3]),
            "worst": ("check", [worst]),
            "tolerance": ("check", [1e-4]),
            "passed": ("check", [passed]),
            "meaning": ("check", np.array(["each row of attention sums to 1"], dtype=object)),
        },
        attrs={"passed": passed},
    )
    root = xr.Dataset(attrs={"schema": 1, "backend": "sdpa", "versions": {"torch": "2.13"}})
    return xr.DataTree.from_dict({"/": root, "/validity": checks})


@pytest.fixture
def written(strip_with_curves, head_table, words, tmp_path):
    return viz.report([strip_with_curves, head_table], tmp_path / "r.html", title="A title", texts=words)


def test_words_come_before_the_coloured_text(written):
    _, text = read(written)
    assert (
        text.index("sentiment says")
        < text.index("speak for it")
        < text.index("[CLS]")
        < text.index("strongest tokens")
    )


def test_what_speaks_for_and_against_leads_and_the_rest_follows(strip_with_curves, words, tmp_path):
    verdict = strip_with_curves.attrs["faithfulness_verdict"]
    said = [
        "It says so.",
        "This speaks for it.",
        "That speaks against.",
        "More.",
        "Still more.",
        "Last.",
        verdict,
    ]
    claims = ["prediction", "top_word", "against", "position", "concentration", "special", "faithfulness"]
    columns = {"text": said, "claim": claims, "value": [0.0] * 7, "tokens": [""] * 7}
    texts = xr.Dataset({name: ("statement", values) for name, values in columns.items()})
    _, text = read(viz.report(strip_with_curves, tmp_path / "r.html", texts=texts))
    lead, coloured = text.index("This speaks for it."), text.index("[CLS]")
    assert lead < text.index("That speaks against.") < coloured < text.index("It says so.")
    assert coloured < text.index("Last.")
    assert [text.count(sentence) for sentence in said] == [1] * 7


def test_the_text_is_real_text_with_its_own_spacing(written):
    _, text = read(written)
    assert "The plot is thin, but the acting is a delight." in text


def test_blank_tokens_and_line_breaks_are_kept(make_strip, tmp_path):
    strip = make_strip(["one", "\n\n", "two", "  ", " three"], [1.0, 0.5, -1.0, 0.2, 0.1])
    _, text = read(viz.report(strip, tmp_path / "r.html"))
    assert "one\n\ntwo   three" in text


def test_plotly_is_inlined_once_and_the_rest_is_small(written):
    source = written.read_text(encoding="utf-8")
    assert source.count(get_plotlyjs()[:2000]) == 1
    assert len(source.encode()) - len(get_plotlyjs().encode()) < 2_000_000


def test_nothing_is_loaded(written):
    reader, _ = read(written)
    assert reader.urls == []
    assert "default-src 'none'" in written.read_text(encoding="utf-8")


def test_a_report_without_figures_carries_no_library(strip, tmp_path):
    path = viz.report(strip, tmp_path / "r.html")
    assert path.stat().st_size < 50_000


def test_everything_from_outside_is_escaped(make_strip, words, tmp_path):
    hostile = make_strip(
        [EVIL, " b", EVIL], [1.0, -1.0, 0.1], model=EVIL, target=EVIL, method=EVIL, title=EVIL
    )
    hostile.attrs |= {"note": EVIL, "references": [EVIL], "parameters": json.dumps({EVIL: EVIL}), EVIL: EVIL}
    path = viz.report(hostile, tmp_path / "r.html", title=EVIL, texts=[EVIL])
    reader, text = read(path)
    assert reader.scripts == 1, "only the page's own script"
    assert text.count("alert(") >= 8
    assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_hostile_texts_stay_inside_figures(head_table, tmp_path):
    head_table.attrs["title"] = EVIL
    head_table["top_token"][:] = "</script>" + EVIL
    path = viz.report(head_table, tmp_path / "r.html")
    assert "<script>alert" not in path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def test_tokens_carry_colour_sign_and_hover(written):
    reader, _ = read(written)
    by_class = {s["class"] for s in reader.spans}
    assert {"t", "t for", "t against", "special"} <= by_class
    thin = next(s for s in reader.spans if "−0.41" in s["data-tip"])
    assert thin["class"] == "t against"
    assert thin["data-tip"] == "−0.41 log-odds · 22% of the text's total · token 5, characters 12–16"


def test_a_passed_record_is_shown_quietly_and_a_failed_one_loudly(strip, tmp_path):
    _, good = read(viz.report(strip, tmp_path / "a.html", record=record_with(True)))
    _, bad = read(viz.report(strip, tmp_path / "b.html", record=record_with(False, worst=0.5)))
    assert "All 1 checks passed." in good
    assert "failed its own checks" not in good
    assert bad.index("failed its own checks") < bad.index("[CLS]")
    assert "1 of 1 checks failed" in bad
    assert "0.5" in bad
    assert "sdpa" in good


def test_provenance_lists_parameters_and_references(written):
    _, text = read(written)
    for part in ("integrated_gradients", "steps 32", "Sundararajan", "Xiao et al.", "smollm2"):
        assert part in text


def test_further_lists_of_a_result_become_tables(head_table, tmp_path):
    head_table = head_table.assign(
        sink_text=("sink", np.array([" the", "."], dtype=object)), sink_count=("sink", [5, 2])
    )
    _, text = read(viz.report(head_table, tmp_path / "r.html"))
    assert "sink text" in text
    assert "␣the" in text


def test_a_text_of_100k_tokens_stays_small_and_says_what_is_left_out(make_strip, tmp_path):
    scores = np.random.default_rng(0).normal(size=100_000)
    path = viz.report(make_strip([" word"] * 100_000, scores), tmp_path / "r.html")
    assert path.stat().st_size < 2_000_000
    _, text = read(path)
    assert "4,000 of 100,000 tokens" in text
    assert "tokens not shown" in text


def test_markup_ids_are_unique(written):
    ids = re.findall(r'<[^>]* id="([^"]+)"', written.read_text(encoding="utf-8").replace(get_plotlyjs(), ""))
    assert len(ids) == len(set(ids))


def test_a_failed_write_leaves_the_old_report_and_no_scraps(strip, tmp_path, monkeypatch):
    path = viz.report(strip, tmp_path / "r.html")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        viz.report(strip, path, title="another")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(("place", "message"), [(".", "is a folder"), ("no/such/r.html", "does not exist")])
def test_places_that_cannot_be_written_are_named(strip, tmp_path, place, message):
    with pytest.raises(InputError, match=message):
        viz.report(strip, tmp_path / place)


def test_an_empty_report_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one result"):
        viz.report([], tmp_path / "r.html")


def test_a_kind_without_figure_is_refused_before_anything_is_written(head_table, tmp_path):
    head_table.attrs["kind"] = "pie"
    with pytest.raises(InputError, match="kind 'pie'"):
        viz.report(head_table, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
