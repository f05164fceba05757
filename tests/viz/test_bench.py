"""The figure of `probe bench`: multiples of one forward pass, few curves that can be told apart, goals where they belong."""

import itertools

import pytest

from probe.dashboard.bench.summary import complete
from probe.viz._bench import draw_bench

K = 1024
LENGTHS = (8 * K, 32 * K, 128 * K)
MILLISECONDS = {
    "rows": (0.64, 9.0, 141.2),
    "columns": (0.68, 8.9, 147.8),
    "rows-all": (1.27, 17.9, 290.9),
    "map": (2.81, 21.7, 303.1),
    "map-lse": (2.16, 13.2, 161.3),
    "tile": (0.2, 0.2, 0.25),
    "flash": (1.74, 25.6, 435.0),
    "cudnn": (0.89, 14.4, 248.0),
    "eager": (9.1,),
}
PEERS = ("flash", "cudnn", "eager")


@pytest.fixture
def document():
    """One H100 run of November 2026, as far as a figure needs it; cuDNN has no windows here."""
    measured = [
        {"pattern": pattern, "n": n, "name": name, "label": f"<{name}>", "kind": "peer" if name in PEERS else "statistic",
         "seconds": time / 1e3, "tflops": 400.0, "extra_bytes": 1 << 28}
        for pattern in ("causal", "window")
        for name, times in MILLISECONDS.items()
        for n, time in zip(LENGTHS, times, strict=False)
        if (pattern, name) != ("window", "cudnn")
    ]  # fmt: skip
    return complete(
        {
            "created": "2026-11-24T00:00:00",
            "partial": False,
            "device": {"type": "cuda", "name": "NVIDIA H100 80GB HBM3"},
            "versions": {"torch": "2.11"},
            "shape": {"batch": 1, "heads": 32, "key_heads": 8, "head_size": 128, "dtype": "bf16"},
            "patterns": ["causal", "window"],
            "measurements": measured,
        }
    )


def curves(figure, panel):
    return {t.meta: t for t in figure.data if t.xaxis == panel}


def test_times_are_multiples_of_the_forward_pass_that_the_title_names(document):
    figure = draw_bench(document)
    titles = [a.text for a in figure.layout.annotations[:2]]
    assert titles == ["causal: time ÷ cuDNN's forward", "window: time ÷ flash's forward"]
    causal, window = curves(figure, "x"), curves(figure, "x2")
    assert "cudnn" not in causal
    assert "flash" not in window
    assert list(causal["map"].x) == list(LENGTHS)
    assert list(causal["map"].y) == pytest.approx([2.81 / 0.89, 21.7 / 14.4, 303.1 / 248])
    assert list(window["map"].y) == pytest.approx([2.81 / 1.74, 21.7 / 25.6, 303.1 / 435])


def test_few_curves_are_drawn_and_no_two_look_alike(document):
    figure = draw_bench(document)
    drawn = [t for t in figure.data if t.xaxis == "x" and t.visible is True and not t.meta.startswith("goal")]
    assert {t.meta for t in drawn} == {"rows", "columns", "map", "map-lse", "flash"}
    looks = [(t.line.color, t.line.dash, t.marker.symbol) for t in drawn]
    assert len(set(looks)) == len(looks)
    assert {t.meta for t in figure.data if t.visible == "legendonly"} == {"rows-all", "tile", "eager"}


def test_names_stand_at_the_ends_and_apart(document):
    figure = draw_bench(document)
    names = [a for a in figure.layout.annotations if a.xref == "x"]
    assert sorted(a.text for a in names) == ["cols", "cols + map", "flash", "rows", "rows + cols + map"]
    low, high = figure.layout.yaxis.range
    heights = sorted(a.y for a in names)
    assert all(b - a > 0.04 * (high - low) for a, b in itertools.pairwise(heights))
    assert low < heights[0]
    assert heights[-1] <= high


def test_goals_are_bars_at_their_place_in_the_colour_of_their_curve(document):
    figure = draw_bench(document)
    bars = [t for t in figure.data if t.meta.startswith("goal")]
    places = {(t.xaxis, t.meta, t.x[0], t.y[0]) for t in bars}
    assert places == {
        ("x", "goal map", 8 * K, 1.2),
        ("x", "goal map", 32 * K, 1.1),
        ("x", "goal map", 128 * K, 1.0),
        ("x", "goal map-lse", 128 * K, 0.7),
    }
    for bar in bars:
        assert bar.marker.line.color == curves(figure, "x")[bar.meta.removeprefix("goal ")].line.color
    assert "not met" in bars[0].hovertemplate


def test_labels_are_no_markup_and_a_run_without_a_forward_has_no_panel(document):
    assert all("<map>" not in (t.name or "") for t in draw_bench(document).data)
    document["measurements"] = [m for m in document["measurements"] if m["kind"] == "statistic"]
    assert len(draw_bench(document).data) == 0
