"""`probe capture --jsonl`: report, refusals by line, interrupts, and a run that was killed with SIGKILL and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from house import ROOT

from probe.corpus import open_corpus
from probe.dashboard.corpus_command import corpus
from probe.dashboard.failure import guarded

SENTENCE = "The plot is thin, but the acting is a delight."

pytestmark = pytest.mark.usefixtures("sentiment_folder")

DEFAULTS = {
    "model": "sentiment",
    "stats": "entropy, received",
    "layers": None,
    "batch": 1,
    "keep_records": False,
    "resume": False,
    "on_error": "stop",
    "device": "cpu",
    "as_json": False,
}
LINES = [
    {"text": SENTENCE, "id": "plot", "stars": 4},
    {"text": "A dull film.", "stars": 1},
    {"text": "Thin, but a delight!", "note": "short"},
]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"

    def write(lines=LINES):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(capsys, tmp_path):
    """Run the command as the command line does; gives `code`, `out`, `err`."""

    def run(jsonl, **changes):
        capsys.readouterr()
        line = {**DEFAULTS, "folder": tmp_path / "run", **changes}
        code = guarded(lambda: corpus(jsonl=jsonl, **line), debug=lambda: False)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


def test_every_line_is_captured_and_told_in_a_table(run, prompts, tmp_path):
    ended = run(prompts())
    assert (ended.code, ended.err) == (0, "")
    words = {line.split("  ")[0]: line for line in ended.out.splitlines()}
    assert "3 of 3" in words["inputs"]
    assert "3 of 3" in words["passed all checks"]
    assert "of its tolerance" in words["worst check"]
    tree = open_corpus(tmp_path / "run")
    assert f"{int(tree['inputs']['tokens'].sum())}" in words["tokens"]
    assert list(tree["inputs"]["id"].values) == ["plot", "2", "3"]
    np.testing.assert_array_equal(tree["inputs"]["label_stars"].values, [4, 1, np.nan])
    assert list(tree["inputs"]["label_note"].values) == ["", "", "short"]


def test_json_is_the_report_of_the_run(run, prompts, tmp_path):
    ended = run(prompts(), as_json=True, batch=2, layers="0", stats="entropy")
    told = json.loads(ended.out)
    assert (told["done"], told["passed"], told["failures"], told["stats"]) == (3, 3, [], ["entropy"])
    assert told["tokens_per_second"] > 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert {name: told[name] for name in report} == report
    assert open_corpus(tmp_path / "run")["aggregate/text"].sizes["layer"] == 1


def test_a_file_with_bad_lines_does_not_begin(run, prompts, tmp_path):
    path = prompts()
    path.write_text(path.read_text() + '{"text": "cut o\n{"texts": "x"}\n', encoding="utf-8")
    ended = run(path)
    assert ended.code == 1
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert "line 4: not JSON" in ended.err
    assert "line 5: got only texts" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_line_that_fails_stops_the_run_or_is_skipped(run, prompts, tmp_path):
    path = prompts([*LINES, {"text": "word " * 3000, "id": "long"}])
    ended = run(path)
    assert ended.code == 1
    assert ended.err.startswith("error: prompts.jsonl line 4 (long): ")
    assert len(ended.err.splitlines()) == 1
    ended = run(path, resume=True, on_error="skip")
    assert ended.code == 0
    assert "prompts.jsonl line 4 (long): " in ended.out
    assert ended.err == "warning: 1 of 4 inputs were skipped and are in no sum\n"
    assert open_corpus(tmp_path / "run").attrs["report"]["done"] == 3


def test_an_input_that_fails_its_checks_is_an_error(run, prompts, monkeypatch):
    from probe.corpus import run as corpora

    real = corpora.capture

    def broken(model, inputs, **options):
        tree = real(model, inputs, **options)
        if inputs == ["A dull film."]:
            tree["validity"]["passed"][3] = False
        return tree

    monkeypatch.setattr(corpora, "capture", broken)
    ended = run(prompts())
    assert ended.code == 1
    assert "2 of 3" in next(line for line in ended.out.splitlines() if line.startswith("passed"))
    assert "error: 1 inputs failed their own checks (2)" in ended.err


def test_an_interrupt_says_how_to_go_on(run, prompts, tmp_path, monkeypatch):
    from probe.corpus import run as corpora

    real = corpora.capture

    def interrupted(model, inputs, **options):
        if inputs == ["A dull film."]:
            raise KeyboardInterrupt
        return real(model, inputs, **options)

    monkeypatch.setattr(corpora, "capture", interrupted)
    ended = run(prompts())
    assert ended.code == 130
    assert ended.err.splitlines() == [
        f"1 of 3 inputs are done and kept in {tmp_path / 'run'}; the same command with --resume goes on",
        "interrupted",
    ]
    monkeypatch.setattr(corpora, "capture", real)
    assert run(prompts(), resume=True).code == 0


@pytest.mark.slow
def test_killed_halfway_and_resumed_is_as_if_nothing_had_happened(slow_model, prompts, tmp_path):
    path = prompts([{"text": "a film is a film " * (3 + n)} for n in range(6)])

    def start(folder):
        line = {**DEFAULTS, "model": str(slow_model), "resume": True, "as_json": True, "keep_records": True}
        script = (
            "import sys\nfrom pathlib import Path\nfrom probe.dashboard.corpus_command import corpus\n"
            f"sys.exit(corpus(jsonl=Path({str(path)!r}), folder=Path({str(folder)!r}), **{line!r}))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", f"import probe\n{script}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    killed, parts = start(tmp_path / "killed"), tmp_path / "killed" / "parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    done = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert 2 <= len(done) < 6
    resumed, whole = start(tmp_path / "killed"), start(tmp_path / "whole")
    for process in (resumed, whole):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-2000:]
        assert json.loads(out)["done"] == 6
    one, other = (open_corpus(tmp_path / name)["aggregate/text"].to_dataset() for name in ("killed", "whole"))
    assert one.identical(other)
    records = sorted((tmp_path / "killed" / "records").iterdir())
    assert len(records) == 6
    assert records[0].stat().st_mtime_ns < min(done.values())  # what was done was not run again
