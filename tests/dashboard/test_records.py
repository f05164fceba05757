"""`probe capture` and `probe run` on real records of the embedded model."""

import json
import re
import shutil

import numpy as np
import pytest

import probe as package

SENTENCE = "The plot is thin, but the acting is a delight."

pytestmark = pytest.mark.usefixtures("sentiment_folder")


def test_capture_writes_a_record_and_shows_its_validity(probe, tmp_path):
    store = tmp_path / "r.zarr"
    ended = probe("capture", "--model", "sentiment", "--text", SENTENCE, "--text", "Dull.", "--out", store)
    assert ended.code == 0, ended.err
    record = package.open_record(store)
    assert record["text"].sizes["sample"] == 2
    assert f"{int(record['tokens/valid'].sum())} tokens" in ended.out
    for name in ("padding", "column sums", "entropy bounds", "eager parity"):
        assert re.search(rf"^{name} .* ok", ended.out, re.MULTILINE)
    assert ended.err == ""


def test_capture_gives_the_same_numbers_as_the_library(probe, record, tmp_path):
    store = tmp_path / "r.zarr"
    probe("capture", "--model", "sentiment", "--text", SENTENCE, "--text", "A dull film.", "--out", store)
    for name in ("entropy", "received"):
        np.testing.assert_array_equal(
            package.open_record(store)["text"][name].values, package.open_record(record)["text"][name].values
        )


def test_options_of_capture(probe, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(SENTENCE, encoding="utf-8")
    store = tmp_path / "r.zarr"
    line = (
        "capture",
        "--model",
        "sentiment",
        "--text-file",
        path,
        "--out",
        store,
        "--stats",
        "entropy, max_prob",
    )
    ended = probe(*line, "--layers", "0", "--json")
    facts = json.loads(ended.out)
    assert facts["stats"] == ["entropy", "max_prob"]
    assert facts["layers"] == 1
    assert facts["passed"] is True
    assert {check["name"] for check in facts["validity"]} >= {"padding", "tokens"}
    assert probe(*line, "--overwrite").code == 0


def test_a_record_is_not_replaced_unasked(fails, record):
    line = fails("capture", "--model", "sentiment", "--text", "x", "--out", record)
    assert "exists already" in line
    assert "--overwrite" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --text TEXT or --text-file FILE"),
        (["--text", " "], "the text is empty"),
        (["--text", "x", "--stats", "speed"], "got 'speed', expected one or more of entropy"),
        (["--text", "x", "--stats", ","], "got none"),
        (["--text-file", "no-such.txt"], "no such file: no-such.txt"),
        (["--text", "x", "--model", "sentimant"], "did you mean sentiment"),
        (["--text", "x", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["--text", "x", "--layers", "99"], "99"),
    ],
)
def test_what_capture_refuses(fails, tmp_path, options, message):
    model = [] if "--model" in options else ["--model", "sentiment"]
    assert message in fails("capture", *model, "--out", tmp_path / "r.zarr", *options)
    assert list(tmp_path.iterdir()) == []


def test_run_shows_words_and_a_line_per_layer(probe, record):
    from probe import explainers as ex

    ended = probe("run", "sinks", record)
    assert ended.code == 0
    for sentence in ex.verbalize(ex.sinks(package.open_record(record))).splitlines():
        assert sentence in ended.out.splitlines()
    assert re.search(r"^ *0 +0\.\d{3} +0\.\d{3} +\d", ended.out, re.MULTILINE)


def test_parameters_are_options(probe, record):
    ended = probe(
        "run", "sinks", record, "--epsilon=0.9", "--min-queries", "2", "--rule", "literal", "--json"
    )
    document = json.loads(ended.out)
    parameters = document["result"]["attributes"]["parameters"]
    assert (parameters["epsilon"], parameters["min_queries"], parameters["rule"]) == (0.9, 2, "literal")
    values = document["result"]["variables"]["first_token"]
    assert values["dims"] == ["layer", "head"]
    assert document["record_passed"] is True


def test_run_leaves_the_record_as_it_is(probe, record):
    before = {path: path.stat().st_mtime_ns for path in record.rglob("*")}
    probe("run", "entropy", record)
    assert {path: path.stat().st_mtime_ns for path in record.rglob("*")} == before


def test_run_writes_a_report_with_the_record_s_validity(probe, record, tmp_path):
    ended = probe("run", "entropy", record, "--html", tmp_path / "r.html")
    assert ended.code == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Was the record measured correctly?" in page
    assert "column sums" in page


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["sinks", "RECORD", "--espilon", "1"], "sinks has no option --espilon; it has --rule"),
        (["sinks", "RECORD", "--epsilon", "2"], "epsilon"),
        (["sinks", "RECORD", "--epsilon", "much"], "epsilon"),
        (["sinks", "RECORD", "--epsilon"], "--epsilon needs a value: 0 to 1"),
        (["sinks", "RECORD", "more"], "unexpected 'more'"),
        (["sunk", "RECORD"], "no explainer named 'sunk'; those that read a record: "),
        (["saliency", "RECORD"], "saliency needs a model"),
        (["sinks", "nowhere.zarr"], "nowhere.zarr: no such record"),
    ],
)
def test_what_run_refuses(fails, record, line, message):
    assert message in fails("run", *[record if word == "RECORD" else word for word in line])


def test_an_unknown_explainer_is_refused_with_all_that_read_a_record(fails, record):
    named = fails("run", "sunk", record).split("those that read a record: ")[1].split(", ")
    assert named == sorted(named)
    assert {"entropy", "sinks", "sink_depth", "concentration"} <= set(named)
    assert not {"saliency", "act", "act_heads"} & set(named)


def test_flags_of_an_explainer_need_no_value():
    from types import SimpleNamespace

    from probe.dashboard.run_command import parse
    from probe.explainers.spec import Flag, Parameter

    flag = Parameter("each_head", bool, False, Flag("per head"), "per head")
    explainer = SimpleNamespace(name="x", parameters=(flag,))
    assert parse(explainer, ["--each-head"]) == {"each_head": True}
    assert parse(explainer, ["--no-each-head"]) == {"each_head": False}
    assert parse(explainer, ["--each_head=no"]) == {"each_head": False}


def damaged(record, tmp_path, harm):
    copy = tmp_path / "damaged.zarr"
    shutil.copytree(record, copy)
    harm(copy)
    return copy


def chunk(store):
    return max(
        (p for p in (store / "text" / "received").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(store):
    path = chunk(store)
    path.write_bytes(path.read_bytes()[:-5])


def corrupt(store):
    path = chunk(store)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def unfinished(store):
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["status"] = "writing"
    (store / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "damaged"),
        (corrupt, "damaged"),
        (lambda store: chunk(store).unlink(), "is missing"),
        (lambda store: (store / "zarr.json").write_text("{"), "cannot be read"),
        (lambda store: (store / "zarr.json").unlink(), "not a record"),
        (unfinished, "did not finish"),
    ],
    ids=["truncated", "corrupt", "file missing", "root broken", "root missing", "unfinished"],
)
def test_damaged_records_are_refused_in_one_line(fails, record, tmp_path, harm, message):
    assert message in fails("run", "sinks", damaged(record, tmp_path, harm))


def test_a_record_that_failed_its_checks_is_shown_with_a_warning(probe, record, tmp_path):
    import zarr

    copy = tmp_path / "bad.zarr"
    shutil.copytree(record, copy)
    group = zarr.open_group(copy / "validity", mode="r+")
    group["passed"][0] = False
    group.attrs["passed"] = False
    root = json.loads((copy / "zarr.json").read_text())
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p != copy / "zarr.json")
    root["attributes"]["manifest"] = {p.relative_to(copy).as_posix(): p.stat().st_size for p in files}
    (copy / "zarr.json").write_text(json.dumps(root))
    ended = probe("run", "sinks", copy, "--html", tmp_path / "r.html")
    assert "failed its own validity checks" in ended.err
    assert "failed its own checks" in (tmp_path / "r.html").read_text(encoding="utf-8")
