"""`probe calibrate` on a model with one harmful head, and what runs under its file."""

import json

import pytest
from planted_head import lines, planted

import probe as package
from probe.dashboard import calibrate_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "planted"
    subject = planted()
    subject.model.save_pretrained(place)
    subject.processor.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "answers.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines(48)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def heads(folder, task, tmp_path_factory):
    """A calibration, made with the functions that the command calls."""
    from probe import explainers as ex

    place = tmp_path_factory.mktemp("calibrations") / "heads.json"
    return ex.write_calibration(ex.act_heads(package.load(str(folder)), task, layers="2"), place)


def test_it_finds_says_and_writes(probe, folder, task, tmp_path):
    out, page = tmp_path / "heads.json", tmp_path / "heads.html"
    ended = probe(
        "calibrate", "--model", folder, "--task", task, "--out", out, "--layers", "2", "--html", page
    )
    assert ended.code == 0, ended
    assert "Gain: calibrating this head improves the loss on 24 held-out items." in ended.out
    assert f"calibration written: {out}" in ended.err
    found = json.loads(out.read_text())
    assert found["heads"] == {"2": [1]}
    assert found["model"]["revision"].startswith("sha256:")
    assert found["task"]["name"] == "answers.jsonl"
    assert found["settings"]["layers"] == "2"
    assert "Gain: calibrating this head" in page.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["heads.html", "heads.json"]


def test_what_stands_in_the_way_is_named(fails, folder, task, heads, tmp_path):
    line = ("calibrate", "--model", folder, "--task", task)
    assert fails(*line, "--out", heads).endswith("exists already: choose another name, or give --overwrite")
    assert "expected a file name in a folder that exists" in fails(*line, "--out", tmp_path / "no" / "x.json")
    (tmp_path / "h.json.journal").write_text("x")
    said = fails(*line, "--out", tmp_path / "h.json")
    assert "holds a search that was not finished: go on with --resume, or begin anew with --overwrite" in said
    assert "is no journal of a head search" in fails(*line, "--out", tmp_path / "h.json", "--resume")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "x"}\n')
    assert "line 1: label: got None" in fails(
        "calibrate", "--model", folder, "--task", bad, "--out", tmp_path / "b"
    )
    assert "act_heads: beta = 2.0, expected 0 to 1" in fails(*line, "--out", tmp_path / "c", "--beta", "2")


def test_an_interrupted_search_says_how_to_go_on(probe, folder, task, tmp_path, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def stopping(_title):
        def step(done, _expected, _name):
            if done == 2:
                raise KeyboardInterrupt

        yield step

    line = (
        "calibrate",
        "--model",
        folder,
        "--task",
        task,
        "--out",
        tmp_path / "h.json",
        "--layers",
        "2",
        "--json",
    )
    monkeypatch.setattr(calibrate_command, "working", stopping)
    ended = probe(*line)
    assert ended.code == 130
    assert "2 trials are done and kept in" in ended.err
    assert "--resume goes on" in ended.err
    monkeypatch.undo()
    ended = probe(*line, "--resume")
    assert ended.code == 0, ended
    told = json.loads(ended.out)
    assert told["calibration"]["cost"]["trials_from_journal"] == 2
    assert told["sentences"][0]["claim"] == "verdict"
    assert [p.name for p in tmp_path.iterdir()] == ["h.json"]


PROMPT = "w1 junk w2 w3 w4 w5 good w6 w7 w8 ask"


def test_explain_runs_under_a_calibration(probe, fails, folder, heads):
    line = ("explain", PROMPT, "--model", folder, "--target", "yes", "--json", "--no-faithfulness")
    plain, steered = (json.loads(probe(*line, *more).out) for more in ((), ("--calibration", heads)))
    assert plain["prediction"]["text"].strip() == "no"
    assert steered["prediction"]["text"].strip() == "yes"
    assert "computed under ACT on 1 head of heads.json" in steered["provenance"]["calibration"]
    assert "calibration" not in plain["provenance"]
    said = fails(*line, "--calibration", heads, "--method", "integrated_gradients")
    assert "--method integrated_gradients needs gradients" in said


def test_capture_runs_under_a_calibration_and_the_record_says_so(probe, folder, heads, tmp_path):
    line = ("capture", "--model", folder, "--text", PROMPT, "--stats", "received,entropy")
    records = []
    for name, more in (("plain", ()), ("steered", ("--calibration", heads))):
        ended = probe(*line, "--out", tmp_path / name, *more)
        assert ended.code == 0, ended
        records.append(package.open_record(tmp_path / name))
    plain, steered = records
    assert bool(steered["validity"].attrs["passed"])
    assert "edits" not in plain.attrs
    assert "act(1 heads" in str(steered.attrs["edits"])
    received = [record["text/received"].values for record in records]
    assert (received[0][:, :3] == received[1][:, :3]).all(), "layers up to the steered one are as they were"
    assert (received[0][:, 3] != received[1][:, 3]).any()
    jsonl = tmp_path / "in.jsonl"
    jsonl.write_text(json.dumps({"text": PROMPT}) + "\n")
    many = (
        "capture",
        "--model",
        folder,
        "--jsonl",
        jsonl,
        "--out",
        tmp_path / "many",
        "--calibration",
        heads,
    )
    assert probe(*many).code == 0


def test_a_calibration_of_another_model_and_one_without_gain_are_told(probe, fails, folder, heads, tmp_path):
    said = fails("explain", "A film.", "--model", "sentiment", "--calibration", heads)
    assert "heads.json: was made for" in said
    assert "heads mean nothing in another model" in said
    weak = json.loads(heads.read_text())
    weak["held_out"]["verdict"] = "not shown"
    path = tmp_path / "weak.json"
    path.write_text(json.dumps(weak))
    ended = probe("explain", PROMPT, "--model", folder, "--calibration", path, "--no-faithfulness")
    assert ended.code == 0
    assert "no gain on held-out items was shown for 1 head (verdict: not shown)" in ended.err
