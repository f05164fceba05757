"""The command on a real language model, from the sentence to the page."""

import json

import pytest

from probe.models import catalog

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _installed():
    if not catalog.is_installed(catalog.find("smollm2")):
        pytest.skip("smollm2 is not installed: probe models install smollm2")


def test_the_capital_of_france(probe, tmp_path):
    page = tmp_path / "out.html"
    ended = probe("explain", "The capital of France is", "--model", "smollm2", "--html", page, "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["prediction"]["text"] == " Paris"
    assert document["prediction"]["probability"] > 0.5
    assert document["provenance"]["task"] == "text-generation"
    source = page.read_text(encoding="utf-8")
    assert "smollm2 continues with" in source
    assert '<span class="next"' in source


def test_capture_then_sinks(probe, tmp_path):
    text, store = tmp_path / "a.txt", tmp_path / "r.zarr"
    text.write_text("Once upon a time there was a fox who lived in the forest. " * 8, encoding="utf-8")
    ended = probe("capture", "--model", "smollm2", "--text-file", text, "--out", store)
    assert ended.code == 0, ended.err
    assert "30 layers × 9 heads" in ended.out
    shown = probe("run", "sinks", store)
    assert shown.code == 0, shown.err
    rows = [
        line.split() for line in shown.out.splitlines() if line.split()[:1] and line.split()[0].isdecimal()
    ]
    means = {int(row[0]): float(row[1]) for row in rows if len(row) == 4}
    assert len(means) == 30
    assert max(means.values()) > 0.5, "some layer sinks on the first token"
    assert min(means.values()) < 0.1, "and some layer does not"
