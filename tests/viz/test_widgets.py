"""The notebook's widgets: what the browser asks, the kernel answers."""

import numpy as np
import pytest
import xarray as xr

from probe import InputError, viz
from probe.viz import _widgets

pytest.importorskip(
    "anywidget", reason="anywidget is not installed (pip install 'attention-probe[notebook]')"
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    from long_record import write

    return write(300, tmp_path_factory.mktemp("r") / "r.zarr", progress=lambda _: None)


def asked(record, *questions):
    widget, said = viz.deep_zoom(record, layer=0, head=0), []
    widget.send = lambda message, buffers=None: said.append((message, buffers))
    for question in questions:
        widget._handle_custom_msg(question, [])
    return said


def test_the_kernel_answers_what_the_map_asks(record):
    about, tile, cell, curve = asked(
        record,
        {"id": 1, "what": "about", "args": []},
        {"id": 2, "what": "tile", "args": ["mean", 1, 0, 0]},
        {"id": 3, "what": "cell", "args": [200, 10]},
        {"id": 4, "what": "curve", "args": ["keys", 1, 0]},
    )
    assert about[0]["value"]["queries"] == 300
    assert tile[1][0].startswith(b"\x89PNG")
    from probe.viz._tiles import Tiles

    assert cell[0] == {"id": 3, "value": Tiles(record, layer=0, head=0).cell(200, 10)}
    assert len(curve[1][0]) == 4 * 256


@pytest.mark.parametrize(
    "message",
    [
        None,
        {},
        {"what": "__class__"},
        {"what": "tile", "args": [1]},
        {"what": "cell", "args": [9999, 0]},
        {"what": "cell", "args": 3},
    ],
)
def test_a_malformed_question_gets_one_line(record, message):
    ((reply, buffers),) = asked(record, message)
    assert reply["error"]
    assert buffers is None


def test_the_module_of_the_widget_is_the_explorers(record):
    widget = viz.deep_zoom(record, layer=0, head=0)
    assert "export class DeepZoom" in widget._esm
    assert "export default { render }" in widget._esm
    assert "http" not in widget._esm.split("export function httpSource")[0]


def test_the_strip_carries_texts_scores_and_colours(strip, head_table):
    widget = viz.token_strip(strip)
    assert [token[0] for token in widget.tokens] == [str(t) for t in strip["text"].values]
    assert widget.tokens[11][1] == pytest.approx(0.55)
    assert widget.tokens[11][2] != widget.tokens[4][2]
    with pytest.raises(InputError, match="expected a result of kind token_strip, got 'head_table'"):
        viz.token_strip(head_table)


def test_a_token_without_a_score_has_no_colour():
    strip = xr.Dataset({"score": ("token", np.array([np.nan, 1.0])), "text": ("token", ["a", "b"])})
    strip.attrs = {"kind": "token_strip", "value": "score", "signed": False, "unit": "1"}
    assert viz.token_strip(strip).tokens[0] == ["a", None, None]


def test_without_anywidget_it_says_what_to_install(monkeypatch, record):
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r"pip install 'attention-probe\[notebook\]'"):
        _widgets.deep_zoom(record, layer=0, head=0)
