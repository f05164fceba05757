"""What is refused before the model sees any input of a corpus, and how lines of a file are named."""

import pytest
from tiny_models import tiny

from probe import InputError
from probe.corpus import capture_corpus, read_jsonl
from probe.corpus.inputs import read_items


@pytest.fixture(scope="module")
def model():
    return tiny("llama", "sdpa")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("one text", "got str, expected several"),
        ([], "got none"),
        ([3], "input 1: got int"),
        (["a", {"text": " "}], "input 2: text: got ' ', expected at least one word"),
        ([{"text": "a", "input_ids": [1]}], "input 1: got both"),
        ([{"txt": "a"}], "input 1: got only txt, expected either"),
        ([{"input_ids": [1, -2]}], "input 1: input_ids: got"),
        ([{"input_ids": [[1, 2]]}], "input 1: input_ids: got"),
        ([{"input_ids": []}], "input 1: input_ids: got"),
        ([{"text": "a", "id": 1.5}], "input 1: id: got 1.5"),
        ([{"text": "a", "id": "2"}, {"text": "b"}], "input 1 and input 2: both have the id '2'"),
        ([{"text": "a", "label": {1, 2}}], "input 1: labels: got"),
    ],
)
def test_inputs_are_checked_before_anything_runs(model, tmp_path, inputs, message):
    with pytest.raises(InputError, match=message):
        capture_corpus(model, inputs, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stats": ("nonsense",)}, "stats: got 'nonsense'"),
        ({"stats": ("pooled",)}, "stats: got maps only"),
        ({"batch": 0}, "batch: got 0"),
        ({"on_error": "ignore"}, "on_error: got 'ignore'"),
    ],
)
def test_options_are_checked_before_anything_runs(model, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        capture_corpus(model, [{"input_ids": [1, 2]}], out=tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_lines_of_a_file_that_are_no_inputs_are_named_by_number(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"text": "a"}\n\n{"text": }\n["b"]\n{"words": "c"}\n{"text": "d", "n": NaN}\n', encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_jsonl(path)
    message = str(caught.value)
    for part in (
        "line 3: not JSON (Expecting value, column 10)",
        "line 4: got list",
        "line 5: got only words",
        "line 6: labels",
    ):
        assert part in message
    assert "line 1" not in message
    path.write_text(
        "\ufeff" + '{"text": "a"}\n\n{"input_ids": [1, 2], "id": 7, "x": [1]}\n', encoding="utf-8"
    )
    one, two = read_items(read_jsonl(path))
    assert (one.name, one.where, one.text, dict(one.labels)) == ("1", "p.jsonl line 1", "a", {})
    assert (two.name, two.where, two.ids, dict(two.labels)) == ("7", "p.jsonl line 3", (1, 2), {"x": [1]})
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_jsonl(path)
    with pytest.raises(InputError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl")
