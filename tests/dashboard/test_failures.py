"""Bad input, bad luck, interruption: one clear line, a non-zero exit, nothing half-written taken as whole."""

import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

from probe import open_record
from probe.dashboard.failure import guarded
from probe.errors import InputError, RecordError

SENTENCE = "The plot is thin, but the acting is a delight."


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text(fails, text):
    assert "is empty: give at least one word" in fails("explain", text)


@pytest.mark.usefixtures("sentiment_folder")
def test_only_unknown_characters(fails):
    assert "unknown to the model's vocabulary" in fails("explain", "𓀀𓀁 𓂀")


@pytest.mark.usefixtures("sentiment_folder")
def test_100k_characters(fails):
    line = fails("explain", "a very long review " * 5300)
    assert "tokens" in line
    assert len(line) < 400


def test_a_folder_instead_of_a_file(fails, tmp_path):
    assert "say where the results go, --out FOLDER" in fails("explain", tmp_path)


def test_a_binary_file(fails, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\0\1\2")
    assert "is binary" in fails("explain", tmp_path / "a.txt")


def test_a_picture(fails, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    assert "is no picture that can be read" in fails("explain", tmp_path / "photo.jpg")


def test_an_unknown_model(fails):
    line = fails("explain", SENTENCE, "--model", "smolm")
    assert "no model named 'smolm': did you mean smollm2" in line


def test_an_unknown_method(fails, sentiment_folder):
    assert "method = 'guesswork', expected one of" in fails("explain", SENTENCE, "--method", "guesswork")


def test_a_hub_model_without_network(fails, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    line = fails("explain", SENTENCE, "--model", "someone/some-model")
    assert "someone/some-model" in line


def test_installing_an_unknown_model(fails):
    assert "no model named 'gpt-9' to install" in fails("models", "install", "gpt-9")


@pytest.fixture
def nan_folder(sentiment_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(sentiment_folder, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    weights = load_file(folder / "model.safetensors")
    name = max(weights, key=lambda n: weights[n].numel())
    weights[name].view(-1)[7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_nan_weights(fails, nan_folder, tmp_path):
    assert "NaN" in fails("explain", SENTENCE, "--model", nan_folder)
    assert "NaN" in fails("capture", "--model", nan_folder, "--text", "x", "--out", tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("sentiment_folder")
def test_a_file_that_may_not_grow_leaves_no_report(separate, tmp_path):
    """A file-size limit makes the write fail half-way, like a full disk."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    line = ("explain", SENTENCE, "--html", tmp_path / "r.html")
    ended = separate(*line, preexec_fn=limited, PYTHONDONTWRITEBYTECODE="1")
    assert ended.returncode == 1
    assert ended.stdout == b""
    assert ended.stderr.decode().splitlines() == ["error: File too large"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.usefixtures("sentiment_folder")
def test_a_full_disk(fails, tiny_disk):
    assert "No space left on device" in fails("explain", SENTENCE, "--html", tiny_disk / "r.html")
    assert list(tiny_disk.iterdir()) == []
    (tiny_disk / "fill").write_bytes(b"x" * 50_000)
    text = "A long film. " * 12
    line = fails("capture", "--model", "sentiment", "--text", text, "--out", tiny_disk / "r.zarr")
    assert "No space left on device" in line
    assert [path.name for path in tiny_disk.iterdir()] == ["fill"]


@pytest.fixture
def interrupted(started, slow_model, tmp_path):
    """Send a signal to a running capture as soon as a file of its record is there; gives the process."""

    def run(number, file):
        text = tmp_path / "long.txt"
        text.write_text("the film was a delight and the plot was thin " * 300, encoding="utf-8")
        process = started("capture", "--model", slow_model, "--text-file", text, "--out", tmp_path / "r.zarr")
        awaited, deadline = tmp_path / "r.zarr.partial" / file, time.monotonic() + 120
        while not awaited.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        return process

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "file"),
    [
        (signal.SIGINT, ""),
        (signal.SIGINT, "text"),
        (signal.SIGINT, "text/entropy/zarr.json"),
        (signal.SIGINT, "text/entropy/c"),
        (signal.SIGTERM, "text/seen_by"),
    ],
)
def test_interrupting_a_capture_leaves_nothing(interrupted, tmp_path, number, file):
    code, said = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}[number]
    process = interrupted(number, file)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", f"{said}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["long.txt"]


@pytest.mark.slow
def test_a_killed_capture_is_replaced_by_the_next(interrupted, probe, slow_model, tmp_path):
    process = interrupted(signal.SIGKILL, "text/entropy/zarr.json")
    process.communicate(timeout=60)
    store, partial = tmp_path / "r.zarr", tmp_path / "r.zarr.partial"
    assert partial.exists()
    for path in (store, partial):
        with pytest.raises(RecordError):
            open_record(path)
    ended = probe("capture", "--model", slow_model, "--text", "A short text.", "--out", store)
    assert ended.code == 0, ended.err
    assert not partial.exists()
    assert open_record(store)["tokens"].sizes["token"] < 10


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("two\nlines"), 1, "error: two lines"),
        (RecordError("x"), 1, "error: x"),
        (OSError(28, "No space left on device", "/a/b"), 1, "error: /a/b: No space left on device"),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 70, "error: unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_every_end_has_its_line_and_code(capsys, error, code, line):
    def action():
        raise error

    assert guarded(action, debug=lambda: False) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert len(said.err.splitlines()) == 1


def test_debug_shows_the_traceback_and_the_hint_names_it(capsys):
    def action():
        raise ZeroDivisionError("division by zero")

    guarded(action, debug=lambda: True)
    assert "Traceback" in capsys.readouterr().err
    guarded(action, debug=lambda: False)
    assert "probe --debug" in capsys.readouterr().err


def test_own_warnings_are_one_line_and_others_are_dropped(capsys):
    import warnings

    from probe.dashboard import failure

    with warnings.catch_warnings():
        failure.show_own_warnings(debug=False)
        own = os.path.join(os.path.dirname(os.path.dirname(failure.__file__)), "probe", "_capture.py")
        warnings.showwarning("checks\nfailed", UserWarning, own, 1)
        warnings.showwarning("library chatter", UserWarning, "/usr/lib/python3/site.py", 1)
    assert capsys.readouterr().err == "warning: checks failed\n"
