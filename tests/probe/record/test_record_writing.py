"""Writing a record: what is in the way stays, and an interrupt, a kill or a full disk leaves nothing that reads as whole."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from record_cases import STATISTICS, edit, leftovers, one_line
from tiny_models import batch, tiny

import probe
from probe import InputError, RecordError
from probe.record import is_record


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def inputs():
    ids, mask = batch([9, 6], 9)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def store(model, inputs, tmp_path):
    probe.capture(model, inputs, stats=STATISTICS, store=tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def test_an_existing_record_stays_unless_asked(model, inputs, store):
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    with pytest.raises(InputError, match=r"exists already; .*overwrite=True") as caught:
        probe.capture(model, inputs, store=store)
    one_line(caught)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before
    assert leftovers(store.parent) == ["run.zarr"]


def test_overwriting_replaces_a_record(model, inputs, store):
    probe.capture(model, inputs, stats="lse", store=store, overwrite=True)
    assert probe.open_record(store).attrs["stats"] == ["lse"]
    assert leftovers(store.parent) == ["run.zarr"]


def test_overwriting_keeps_the_old_record_when_the_new_one_fails(model, inputs, store):
    handle = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        probe.capture(model, inputs, stats="lse", store=store, overwrite=True)
    handle.remove()
    assert probe.open_record(store).attrs["stats"] == list(STATISTICS)
    assert leftovers(store.parent) == ["run.zarr"]


@pytest.mark.parametrize(
    "make", [lambda p: p.write_text("mine"), lambda p: (p.mkdir(), (p / "x").write_text("mine"))]
)
def test_overwriting_touches_nothing_that_is_not_a_record(model, inputs, tmp_path, make):
    make(tmp_path / "mine")
    with pytest.raises(InputError, match="not a record of attention-probe, so it"):
        probe.capture(model, inputs, store=tmp_path / "mine", overwrite=True)
    assert leftovers(tmp_path) == ["mine"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("planted")])
def test_an_interrupted_capture_leaves_nothing(model, inputs, tmp_path, error):
    def fail(done, total, label):
        if done == 1:
            raise error

    with pytest.raises(BaseException, match=r"planted|^$"):
        probe.capture(model, inputs, store=tmp_path / "run.zarr", progress=fail)
    assert leftovers(tmp_path) == []


WRITTEN = [
    "zarr.json",
    "text/zarr.json",
    "text/entropy/zarr.json",
    "text/seen_by/zarr.json",
    "text/entropy/c/0/1",
]


@pytest.fixture
def interrupted_at(monkeypatch):
    """Let SIGINT come while zarr's thread is about to write a file, which it does a little later."""
    from zarr.storage import LocalStore

    put = LocalStore.set

    def arm(file):
        async def late(self, key, value):
            if key.startswith(file) and not sent:
                sent.append(key)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.4)
            await put(self, key, value)

        sent = []
        monkeypatch.setattr(LocalStore, "set", late)
        return sent

    return arm


@pytest.mark.parametrize("file", [*WRITTEN, "text/module/c", "tokens/id/c", "validity/worst/zarr.json"])
def test_an_interrupt_while_zarr_writes_leaves_nothing(model, inputs, tmp_path, interrupted_at, file):
    sent = interrupted_at(file)
    with pytest.raises(KeyboardInterrupt):
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert len(sent) == 1
    assert leftovers(tmp_path) == []
    time.sleep(0.6)
    assert leftovers(tmp_path) == [], "written after the removal"


@pytest.mark.filterwarnings("ignore:coroutine")
def test_an_interrupt_while_zarr_starts_its_thread_leaves_nothing(model, inputs, tmp_path, monkeypatch):
    """zarr would then wait for a loop that never runs: the folder must not depend on it."""
    from zarr.core import sync

    def interrupted(thread):
        raise KeyboardInterrupt

    monkeypatch.setattr(sync, "loop", [None])
    monkeypatch.setattr(sync, "iothread", [None])
    monkeypatch.setattr(sync.threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert leftovers(tmp_path) == []


def test_the_removal_does_not_wait_for_ever(tmp_path, monkeypatch):
    from zarr.core import sync

    from probe.record import folders
    from probe.record.zarr_writer import ZarrWriter

    loop = asyncio.new_event_loop()
    monkeypatch.setattr(sync, "loop", [loop])
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    (tmp_path / "run.zarr.partial").mkdir()
    writer = ZarrWriter.__new__(ZarrWriter)
    writer.resume = False
    writer.partial = tmp_path / "run.zarr.partial"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the coroutine that nobody ran
        writer._abandon()
        loop.close()
    assert leftovers(tmp_path) == []


def test_an_interrupt_at_the_last_file_leaves_nothing_or_all(model, inputs, tmp_path, monkeypatch):
    move = Path.rename

    def interrupted(self, target):
        os.kill(os.getpid(), signal.SIGINT)
        return move(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("moved", [1, 2])
def test_an_interrupt_while_overwriting_keeps_one_whole_record(model, inputs, store, monkeypatch, moved):
    move, done = Path.rename, []

    def interrupted(self, target):
        move(self, target)
        done.append(target)
        if len(done) == moved:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe.capture(model, inputs, stats="lse", store=store, overwrite=True)
    assert leftovers(store.parent) == ["run.zarr"]
    assert probe.open_record(store).attrs["stats"] == (list(STATISTICS) if moved == 1 else ["lse"])


def test_a_removal_that_was_cut_short_is_taken_up_again(model, inputs, store, monkeypatch):
    """The root file goes last, so that what is left is still known as ours."""
    partial = store.rename(f"{store}.partial")
    edit(partial, lambda attrs: attrs.update(status="writing"))
    remove = shutil.rmtree

    def once(path, **options):
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: 1 / 0)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", once)
    with pytest.raises(ZeroDivisionError):
        probe.capture(model, inputs, store=store)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert is_record(partial)
    probe.capture(model, inputs, store=store)
    assert leftovers(store.parent) == ["run.zarr"]


@pytest.mark.parametrize(
    ("file", "layers"),
    [("zarr.json", 0), ("text/entropy/zarr.json", 0), ("text/entropy/c/0/1", 1), ("tokens/id/c", 2)],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(model, inputs, tmp_path, monkeypatch, file, layers):
    from zarr.storage import LocalStore

    put = LocalStore.set

    async def full(self, key, value):
        if key.startswith(file):
            raise OSError(28, "No space left on device")
        return await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", full)
    said = f"cannot be written: No space left on device; {layers} of 2 layers were done, nothing is kept"
    with pytest.raises(RecordError, match=said) as caught:
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    one_line(caught)
    assert leftovers(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(model, inputs, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="cannot be written") as caught:
        probe.capture(model, inputs, store=tmp_path / "file" / "run.zarr")
    one_line(caught)


KILLED = """
import sys, time
sys.path.insert(0, {support!r})
from tiny_models import batch, tiny
import probe
ids, mask = batch([9, 6], 9)
def stop(done, total, label):
    print("layer", done, flush=True)
    time.sleep(600)
probe.capture(tiny("llama"), {{"input_ids": ids, "attention_mask": mask}}, store={store!r}, progress=stop)
"""


def test_a_killed_capture_never_reads_as_whole(model, inputs, tmp_path):
    store = tmp_path / "run.zarr"
    support = str(os.path.dirname(sys.modules["tiny_models"].__file__))
    code = KILLED.format(support=support, store=str(store))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "layer 1\n"
        with pytest.raises(InputError, match=rf"process {process.pid} is writing this record"):
            probe.capture(model, inputs, store=store)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert leftovers(tmp_path) == ["run.zarr.partial"]
    with pytest.raises(RecordError, match="no such record"):
        probe.open_record(store)
    with pytest.raises(RecordError, match=r"did not finish: [01] of 2 layers were written"):
        probe.open_record(tmp_path / "run.zarr.partial")
    probe.capture(model, inputs, store=store)
    assert leftovers(tmp_path) == ["run.zarr"]


def test_a_partial_folder_of_someone_else_stays(model, inputs, tmp_path):
    (tmp_path / "run.zarr.partial").mkdir()
    (tmp_path / "run.zarr.partial" / "notes").write_text("mine")
    with pytest.raises(InputError, match="is in the way and is not an unfinished record"):
        probe.capture(model, inputs, store=tmp_path / "run.zarr")
    shutil.rmtree(tmp_path / "run.zarr.partial")
    (tmp_path / "run.zarr.partial").mkdir()  # a run killed before it wrote anything
    probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert is_record(tmp_path / "run.zarr")


def test_a_run_that_began_at_the_same_moment_stays(model, inputs, store, monkeypatch):
    from probe.record import folders

    partial = Path(f"{store}.partial")
    monkeypatch.setattr(folders, "clear_stale", lambda path: shutil.copytree(store, path))
    with pytest.raises(InputError, match="another run has just begun this record") as caught:
        probe.capture(model, inputs, store=store, overwrite=True)
    one_line(caught)
    probe.open_record(partial)


def test_a_run_killed_at_its_first_file_is_replaced(model, inputs, tmp_path):
    (tmp_path / "run.zarr.partial").mkdir()
    (tmp_path / "run.zarr.partial" / "zarr.0123456789abcdef.partial").write_text('{"attr')
    probe.capture(model, inputs, store=tmp_path / "run.zarr")
    assert leftovers(tmp_path) == ["run.zarr"]


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_writer_takes_more_layers_than_expected(kind, tmp_path):
    model = tiny("albert-shared", num_hidden_layers=5)
    ids, _ = batch([7], 7)
    store = None if kind == "memory" else tmp_path / "run.zarr"
    tree = probe.capture(model, {"input_ids": ids}, stats="entropy", store=store)
    assert tree["text/layer"].values.tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(tree["text/entropy"].values).all()
