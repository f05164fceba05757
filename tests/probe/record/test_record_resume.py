"""Resuming: what a killed run had written is taken up, nothing half-written is trusted, and the record comes out the same."""

import json
import os
import subprocess
import sys

import pytest
import record_cases
from record_cases import assert_same, edit, leftovers, one_line, write_all

import probe
from probe import InputError, ModelError, RecordError
from probe.record.target import writer

SUPPORT = os.path.dirname(record_cases.__file__)


def start(store, **options):
    return writer(3, store, **{"resume": True, "request": "r1"} | options)


def stop_after(store, layers, **options):
    """A run that dies after some layers: its folder stays, its writer's process is no more."""

    def run():
        with start(store, **options) as target:
            add = target.add

            def counted(*args, **kwargs):
                if len(target.written) == layers:
                    raise KeyboardInterrupt
                add(*args, **kwargs)

            target.add = counted
            write_all(target)

    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.fixture
def whole():
    with writer(3, None) as target:
        return write_all(target)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_resumed_run_writes_only_what_is_missing(whole, tmp_path, layers):
    store = tmp_path / "run.zarr"
    stop_after(store, layers)
    assert leftovers(tmp_path) == ["run.zarr.partial"]
    with start(store) as target:
        assert [target.has("text", 0), target.has("text", 1), target.has("vision", 4)] == [
            True,
            layers > 1,
            False,
        ]
        assert [c.layer for c in target.checks] == [0, 1][:layers]
        assert target.facts("rule") == ["causal 0", "causal 1"][:layers]
        tree = write_all(target)
    assert leftovers(tmp_path) == ["run.zarr"]
    assert_same(tree, whole)


def test_nothing_to_resume_is_a_fresh_start(whole, tmp_path):
    with start(tmp_path / "run.zarr") as target:
        assert_same(write_all(target), whole)


def test_without_resuming_what_is_left_is_cleared(whole, tmp_path):
    stop_after(tmp_path / "run.zarr", 2)
    with start(tmp_path / "run.zarr", resume=False) as target:
        assert not target.has("text", 0)
        assert_same(write_all(target), whole)


def test_without_resuming_an_interrupt_leaves_nothing(tmp_path):
    stop_after(tmp_path / "run.zarr", 2, resume=False)
    assert leftovers(tmp_path) == []


def test_an_interrupt_before_the_first_layer_leaves_nothing(tmp_path):
    stop_after(tmp_path / "run.zarr", 0)
    assert leftovers(tmp_path) == []


def test_a_request_that_differs_is_refused_and_touches_nothing(whole, tmp_path):
    store = tmp_path / "run.zarr"
    stop_after(store, 2)
    with pytest.raises(
        InputError, match=r"unfinished record of the request 'r1', expected 'r2'; .* without"
    ) as caught:
        start(store, request="r2")
    one_line(caught)
    with start(store) as target:
        assert len(target.written) == 2


def test_an_unfinished_record_of_an_older_schema_is_refused(tmp_path):
    stop_after(tmp_path / "run.zarr", 2)
    edit(tmp_path / "run.zarr.partial", lambda attrs: attrs.update(schema=1))
    with pytest.raises(InputError, match="unfinished record of schema 1, expected 2"):
        start(tmp_path / "run.zarr")


def test_what_a_living_process_writes_is_refused(tmp_path):
    store = tmp_path / "run.zarr"
    stop_after(store, 2)
    alive = {"pid": os.getppid(), "host": __import__("socket").gethostname()}
    edit(tmp_path / "run.zarr.partial", lambda attrs: attrs.update(writer=alive))
    with pytest.raises(InputError, match=f"process {os.getppid()} is writing this record"):
        start(store)


def test_resuming_needs_a_store():
    with pytest.raises(InputError, match="resume: got no store"):
        start(None)


def test_a_layer_is_written_once(tmp_path):
    values = record_cases.layer_values("text", 0)
    with start(tmp_path / "run.zarr") as target:
        target.add("text", 0, "a", values)
        with pytest.raises(RecordError, match="layer 0 of /text stands in the record already"):
            target.add("text", 0, "a", values)


def test_a_resumed_tower_takes_only_layers_like_its_own(tmp_path):
    stop_after(tmp_path / "run.zarr", 1)
    values = record_cases.layer_values("text", 1)
    values["entropy"] = values["entropy"][:, :3]
    with (
        start(tmp_path / "run.zarr") as target,
        pytest.raises(ModelError, match=r"entropy is \(2, 3, 5\), but"),
    ):
        target.add("text", 1, "b", values, facts={"rule": ""})


def test_data_without_its_mark_is_not_trusted(whole, tmp_path):
    """A layer whose values are there, but whose mark is not, is written again."""
    store = tmp_path / "run.zarr"
    stop_after(store, 2)
    partial = tmp_path / "run.zarr.partial"
    edit(partial, lambda attrs: attrs.update(written=attrs["written"][:1], layers_written=1))
    chunk = partial / "text/entropy/c/0/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[:5])
    (partial / "text/entropy/c/0/1/0/0.0123.partial").write_bytes(b"half")
    (partial / "vision").mkdir()
    with start(store) as target:
        assert not target.has("text", 1)
        tree = write_all(target)
    assert_same(tree, whole)
    assert not list((tmp_path / "run.zarr").rglob("*.partial"))


def test_a_full_disk_keeps_what_is_written(whole, tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    put = LocalStore.set

    async def full(self, key, value):
        if key.startswith("text/entropy/c/0/1"):
            raise OSError(28, "No space left on device")
        return await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", full)
    said = r"No space left on device; 1 of 3 layers are kept in .*run\.zarr\.partial"
    with pytest.raises(RecordError, match=said) as caught, start(tmp_path / "run.zarr") as target:
        write_all(target)
    one_line(caught)
    monkeypatch.undo()
    with start(tmp_path / "run.zarr") as target:
        assert target.has("text", 0)
        assert_same(write_all(target), whole)


def test_a_record_that_is_none_is_not_published(tmp_path):
    """What fails the schema never gets the record's name, and an old record stays."""
    store = tmp_path / "run.zarr"
    with start(store) as target:
        write_all(target)

    def run():
        with writer(1, store, overwrite=True) as target:
            target.add("text", 0, "a", record_cases.layer_values("text", 0))
            target.finish(record_cases.groups_of([]), {"stats": ["entropy"]})

    with pytest.raises(RecordError, match=r"record: model, .* is missing"):
        run()
    assert leftovers(tmp_path) == ["run.zarr"]
    assert probe.open_record(store).attrs["model"] == "made up"


KILL = """
import json, os, sys, traceback
sys.path.insert(0, {support!r})
from pathlib import Path
import record_cases, probe, torch, xarray, zarr
import probe.deepzoom.zoom
from probe import RecordError
from probe.record.target import writer

folder, first, step = Path(sys.argv[1]), *map(int, sys.argv[2:])
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")

def child(do, *args, **options):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        do(*args, **options)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)

def die_at(n):
    left = [n]
    def hook(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in CHANGES) and str(folder) in str(args[0]):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
    sys.addaudithook(hook)

def write(store, **options):
    with writer(3, store, request="r", **options) as target:
        return record_cases.write_all(target, keep=True)

def killed(store, n, **options):
    die_at(n)
    write(store, **options)

def whole_or_refused(store):
    for path in (store, Path(str(store) + ".partial")):
        try:
            got = probe.open_record(path)
        except RecordError:
            continue
        record_cases.assert_same(got, WHOLE)

def resumed(store):
    got = probe.open_record(store) if store.exists() else write(store, resume=True)
    record_cases.assert_same(got, WHOLE)
    assert not Path(str(store) + ".partial").exists()
    assert not list(store.rglob("*.partial"))

WHOLE = write(None)
n, kills, status = first, 0, 9
while status:
    store = folder / f"{{n}}.zarr"
    status = child(killed, store, n)
    assert status in (0, 9), f"ended with {{status}} at {{n}}"
    assert child(whole_or_refused, store) == 0, f"reads as whole, killed at {{n}}"
    if n % 2 and not store.exists():  # killed once more, while it resumes
        assert child(killed, store, 1 + 5 * n % 61, resume=True) in (0, 9), f"resumed after {{n}}"
        assert child(whole_or_refused, store) == 0, f"reads as whole, killed at {{n}} and again"
    assert child(resumed, store) == 0, f"killed at {{n}}"
    kills, n = kills + (status == 9), n + step
print(json.dumps({{"kills": kills, "last": n}}))
"""


def killed_everywhere(folder, first, step):
    command = [sys.executable, "-c", KILL.format(support=SUPPORT), str(folder), str(first), str(step)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=550, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_run_killed_at_some_writes_is_completed(tmp_path):
    assert killed_everywhere(tmp_path, 120, 133)["kills"] >= 4


@pytest.mark.slow
def test_a_run_killed_at_any_write_is_completed(tmp_path):
    assert killed_everywhere(tmp_path, 1, 29)["kills"] > 20
