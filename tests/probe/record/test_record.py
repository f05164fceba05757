"""The record: the same in memory and on disk, and nothing unfinished, damaged or foreign read as whole."""

import time
import warnings

import numpy as np
import pytest
import xarray as xr
from record_cases import STATISTICS, edit, leftovers, one_line
from tiny_models import batch, tiny

import probe
from probe import RecordError
from probe.record import SCHEMA, chunk_shape, validate


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


def test_disk_and_memory_hold_the_same(model, inputs, tmp_path):
    memory = probe.capture(model, inputs, stats=STATISTICS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disk = probe.capture(model, inputs, stats=STATISTICS, store=tmp_path / "run.zarr")
        again = probe.open_record(tmp_path / "run.zarr")
    assert leftovers(tmp_path) == ["run.zarr"]
    for tree in (disk, again):
        assert [n.path for n in tree.subtree] == [n.path for n in memory.subtree]
        for node in memory.subtree:
            there = tree[node.path].to_dataset()
            xr.testing.assert_identical(
                there.drop_attrs(deep=False), node.to_dataset().drop_attrs(deep=False)
            )
            assert list(there.data_vars) == list(node.to_dataset().data_vars)
        assert set(tree.attrs) == set(memory.attrs)
        assert {n: v for n, v in tree.attrs.items() if n != "created"} == {
            n: v for n, v in memory.attrs.items() if n != "created"
        }


def test_dimensions_coordinates_and_units(store):
    text = probe.open_record(store)["text"].to_dataset()
    assert dict(text.sizes) == {"sample": 2, "layer": 2, "head": 4, "query": 9, "key": 9}
    assert text["entropy"].dims == ("sample", "layer", "head", "query")
    assert text["received"].dims == ("sample", "layer", "head", "key")
    assert text["entropy"].attrs["unit"] == "nat"
    assert text["module"].values.tolist() == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert text["max_key"].dtype == np.int32


def test_a_record_opens_lazily_and_quickly(store):
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        tree = probe.open_record(store)
        took.append(time.perf_counter() - begin)
    assert min(took) < 1
    assert not tree["text/entropy"].variable._in_memory


def test_attributes_say_what_was_captured(store):
    attrs = probe.open_record(store).attrs
    assert attrs["schema"] == SCHEMA == 2
    assert attrs["status"] == "complete"
    assert attrs["stats"] == list(STATISTICS)
    assert attrs["backend"] == "sdpa"
    assert attrs["dtype"] == "float32"
    assert attrs["rules"] == ["causal", "causal"]
    assert attrs["versions"]["torch"]
    assert "manifest" not in attrs


def test_a_folder_holds_chunks_by_layer(store):
    chunks = sorted(
        p.relative_to(store / "text/entropy").as_posix()
        for p in (store / "text/entropy/c").rglob("*")
        if p.is_file()
    )
    assert chunks == ["c/0/0/0/0", "c/0/1/0/0"]


def test_chunks_stay_of_useful_size():
    sizes = {"sample": 3, "head": 32, "query": 131072, "key": 131072}
    assert chunk_shape("entropy", sizes) == (1, 1, 32, 32768)
    assert chunk_shape("keys_seen", sizes) == (3, 1, 131072)
    assert chunk_shape("entropy", {"sample": 64, "head": 12, "query": 100, "key": 100}) == (64, 1, 12, 100)


def damage_cut(store):
    path = store / "text/entropy/c/0/1/0/0"
    path.write_bytes(path.read_bytes()[:-3])
    return "text/entropy/c/0/1/0/0 has .* bytes, expected"


def damage_remove(store):
    (store / "text/received/c/0/0/0/0").unlink()
    return "text/received/c/0/0/0/0 is missing"


def damage_metadata(store):
    (store / "tokens/zarr.json").unlink()
    return "tokens/zarr.json is missing"


def damage_root(store):
    path = store / "zarr.json"
    path.write_text(path.read_text()[:-20])
    return "zarr.json cannot be read"


def damage_status(store):
    edit(store, lambda attrs: attrs.update(status="writing", layers_written=1, layers_expected=2))
    return "did not finish: 1 of 2 layers were written"


def damage_schema(store):
    edit(store, lambda attrs: attrs.update(schema=99))
    return "got schema 99, expected 2; read it with the version of attention-probe that wrote it"


def damage_old_schema(store):
    edit(store, lambda attrs: attrs.update(schema=1))
    return "got schema 1, expected 2; capture again"


def damage_manifest(store):
    edit(store, lambda attrs: attrs.pop("manifest"))
    return "no list of its files"


def damage_format(store):
    edit(store, lambda attrs: attrs.pop("format"))
    return "not a record of attention-probe"


def damage_statistics(store):
    edit(store, lambda attrs: attrs.update(stats=["entropy", "max_key"]))
    return "/text has received, which the root does not name"


def damage_attributes(store):
    edit(store, lambda attrs: attrs.pop("model"))
    return "model is missing"


@pytest.mark.parametrize("damage", [v for n, v in sorted(globals().items()) if n.startswith("damage_")])
def test_damage_is_found_on_opening(store, damage):
    said = damage(store)
    with pytest.raises(RecordError, match=said) as caught:
        probe.open_record(store)
    assert "run.zarr" in one_line(caught) or said.startswith(("/text", "model"))


def test_a_changed_byte_is_found_on_reading(store):
    path = store / "text/entropy/c/0/1/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    tree = probe.open_record(store)
    with pytest.raises(Exception, match=r"(?i)corrupt|checksum|zstd|decompress"):
        tree["text/entropy"].load()


def test_what_is_not_a_record_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no such record") as caught:
        probe.open_record(tmp_path / "nothing.zarr")
    one_line(caught)
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(RecordError, match="got a file, expected the folder of a record"):
        probe.open_record(tmp_path / "file.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecordError, match=r"not a record .it has no zarr\.json"):
        probe.open_record(tmp_path / "folder")
    import zarr

    zarr.create_group(tmp_path / "foreign.zarr", zarr_format=3)
    with pytest.raises(RecordError, match="a zarr folder, but not a record"):
        probe.open_record(tmp_path / "foreign.zarr")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.attrs.update(schema=1), "got schema 1, expected 2; capture again"),
        (lambda t: t.attrs.update(status="writing"), "status is 'writing'"),
        (lambda t: t.attrs.pop("versions"), "versions is missing"),
        (lambda t: t.children["input"].orphan(), "/input is missing"),
        (lambda t: t.children["tokens"].orphan(), "/text names 'tokens' as its queries, but there is no such group"),
        (lambda t: t["text"].attrs.update(keys="source"), "/text names 'source' as its keys"),
        (lambda t: t["text"].attrs.pop("stats"), "/text does not say which statistics it has"),
        (lambda t: t.children["text"].orphan(), "a group with statistics is missing"),
        (lambda t: t.attrs.update(stats=["entropy", "unheard"]), "/ claims the unknown statistic 'unheard'"),
        (lambda t: t["text"].attrs.update(stats=["entropy", "unheard"]), "/text claims the unknown .* 'unheard'"),
        (lambda t: t.attrs.update(stats=["entropy", "lse"]), "/text has received, which the root does not"),
        (lambda t: replace(t, "text", lambda d: d.drop_vars("received")), "/text has no received"),
        (lambda t: replace(t, "text", wider), "entropy is float64"),
        (lambda t: replace(t, "text", lambda d: d.transpose("head", ...)), "over .*expected float32 over"),
        (lambda t: replace(t, "text", lambda d: d.drop_vars("module")), "no coordinate module"),
        (lambda t: replace(t, "tokens", lambda d: d.drop_vars("role")), "/tokens has no role"),
        (lambda t: replace(t, "tokens", lambda d: d.isel(sample=[0])), "expected {'sample': 2, 'token': 9} as the"),
        (lambda t: replace(t, "tokens", lambda d: d.isel(token=slice(3))), "as the queries of /text"),
    ],
)  # fmt: skip
def test_validation_names_what_is_wrong(model, inputs, change, said):
    tree = probe.capture(model, inputs)
    validate(tree)
    change(tree)
    with pytest.raises(RecordError, match=said) as caught:
        validate(tree)
    one_line(caught)


def wider(dataset):
    return dataset.assign(entropy=dataset["entropy"].astype("float64"))


def replace(tree, group, change):
    tree[group].dataset = change(tree[group].to_dataset())
