"""The store shows one folder, whole records only, and keeps no more than its limit."""

import json
import os
import threading

import numpy as np
import pytest

from probe.dashboard.explorer.store import Store, _Bounded
from probe.errors import InputError, RecordError


def test_records_are_listed_with_what_their_attributes_say(store):
    entry = store.entry("first.zarr")
    assert (entry.model, entry.validity, entry.kept) == ("sentiment", "passed", True)
    tree = store.open("first.zarr")
    assert dict(dict(entry.towers)["text"]) == {
        d: tree["text"].sizes[d] for d in ("sample", "layer", "query", "key", "head")
    }
    assert entry.tokens == tree["text"].sizes["query"]
    assert not store.entry("second.zarr").kept


def test_a_half_written_record_is_not_shown_as_whole(store):
    assert store.entry("half.zarr").validity == "unfinished"
    with pytest.raises(RecordError, match="unfinished"):
        store.open("half.zarr")


def test_a_record_that_failed_its_checks_says_so(runs, tmp_path):
    import shutil

    copy = tmp_path / "r.zarr"
    shutil.copytree(runs / "second.zarr", copy)
    root = copy / "validity" / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["passed"] = False
    root.write_text(json.dumps(document))
    assert Store(tmp_path).entry("r.zarr").validity == "failed"


@pytest.mark.parametrize(
    "name", ["../first.zarr", "/etc", "first.zarr/text", ".", "", "first.zarr/../second.zarr", "FIRST.ZARR"]
)
def test_nothing_but_a_listed_record_can_be_named(store, name):
    with pytest.raises(InputError, match="no record"):
        store.open(name)


def test_a_link_that_leads_out_of_the_folder_is_not_followed(runs, tmp_path):
    os.symlink(runs / "first.zarr", tmp_path / "out.zarr")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    os.symlink(runs, tmp_path / "deep" / "all")
    assert Store(tmp_path).records() == {}


def test_the_folder_of_one_record_shows_that_one(runs):
    assert list(Store(runs / "first.zarr").records()) == ["first.zarr"]


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Store(tmp_path / "none")


def test_the_cache_is_bounded_and_forgets_the_oldest():
    cache, made = _Bounded(3 * 5000), []

    def make(key):
        made.append(key)
        return np.zeros(500, dtype=np.uint8)

    for key in (1, 2, 3, 1, 4, 1, 2):
        cache.get(key, lambda key=key: make(key))
        assert cache.size <= cache.limit
    assert made == [1, 2, 3, 4, 2]


def test_a_value_above_the_limit_is_given_and_not_kept():
    cache = _Bounded(100)
    assert cache.get("a", lambda: np.zeros(1000)).nbytes == 8000
    assert cache.size == 0


def test_several_that_ask_at_a_time_make_it_once():
    cache, made, gate = _Bounded(1 << 20), [], threading.Event()

    def make():
        gate.wait(5)
        made.append(1)
        return np.zeros(1)

    threads = [threading.Thread(target=lambda: cache.get("a", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_failure_is_not_kept():
    cache = _Bounded(1 << 20)

    def fail():
        raise InputError("no")

    with pytest.raises(InputError):
        cache.get("a", fail)
    assert cache.get("a", lambda: np.ones(1))[0] == 1
