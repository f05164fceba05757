"""Bags from every format that people have them in, and clear words for all others."""

import numpy as np
import pytest
import torch
from mil_models import Gated, seeded

import probe
from probe.bags import Bag, in_memory, read_bags
from probe.errors import InputError


def some(name="slide.1", n=5, seed=0, **more):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    grid = np.stack([np.arange(n) * 256.0, np.zeros(n)], 1)
    return Bag(
        name, x, **({"label": 1, "coords": grid, "patch_size": 256.0, "annotation": np.arange(n) % 2} | more)
    )


def equal(a, b):
    assert torch.equal(a.features, b.features)
    assert a.label == b.label
    assert a.patch_size == b.patch_size
    for part in ("coords", "annotation"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


def clam(path, bag, leading=False):
    """As CLAM writes it: no sizes beside features, or size and level beside coords."""
    import h5py

    with h5py.File(path, "w") as file:
        file["features"] = bag.features.numpy().astype(np.float16)[None] if leading else bag.features.numpy()
        file["coords"] = bag.coords.astype(np.int64)[None] if leading else bag.coords.astype(np.int64)
        file["coords"].attrs.update({"patch_size": 128, "patch_level": 1, "downsample": np.array([2.0, 2.0])})


@pytest.mark.parametrize("suffix", [".h5", ".pt", ".npz", ".csv"])
def test_one_bag_a_file(tmp_path, suffix):
    bag, path = some(), tmp_path / f"slide.1{suffix}"
    if suffix == ".h5":
        bag.save(path)
    elif suffix == ".pt":
        parts = {
            "features": bag.features,
            "coords": torch.from_numpy(bag.coords),
            "annotation": torch.arange(5) % 2,
        }
        torch.save(parts | {"label": 1, "patch_size": 256}, path)
    elif suffix == ".npz":
        np.savez(
            path, features=bag.features, coords=bag.coords, annotation=bag.annotation, label=1, patch_size=256
        )
    else:
        rows = np.column_stack([np.ones(5), bag.coords, bag.annotation, np.full(5, 256), bag.features])
        names = "label,x,y,annotation,patch_size," + ",".join(f"f{i}" for i in range(6))
        np.savetxt(path, rows, "%.9g", ",", header=names, comments="")
    (got,) = read_bags(path)
    assert got.name == "slide.1"
    equal(got, bag)


def test_the_layouts_of_clam_and_trident(tmp_path):
    for leading in (False, True):
        clam(tmp_path / "a.h5", some(), leading)
        (got,) = read_bags(tmp_path / "a.h5")
        assert got.patch_size == 256
        assert got.features.dtype == torch.float32
        assert torch.allclose(got.features, some().features, atol=5e-3)
        np.testing.assert_array_equal(got.coords, some().coords)


def test_plain_arrays_and_tensors(tmp_path):
    np.save(tmp_path / "a.npy", some().features)
    torch.save(some().features, tmp_path / "b.pt")
    for name in ("a.npy", "b.pt"):
        (got,) = read_bags(tmp_path / name)
        assert torch.equal(got.features, some().features)
        assert (got.label, got.coords, got.patch_size) == (None, None, None)


def test_many_bags_in_one_file(tmp_path):
    x = np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "a.npz", instances=x, bag=[0, 0, 1, 1, 1, 2], label=[1, 0, 1])
    rows = np.column_stack([[1, 1, 0, 0, 0, 1], [7, 7, 8, 8, 8, 9], x])
    np.savetxt(tmp_path / "b.csv", rows, "%g", ",")
    for name in ("a.npz", "b.csv"):
        got = read_bags(tmp_path / name)
        assert [len(b.features) for b in got] == [2, 3, 1]
        assert got.labels == [1, 0, 1]
        np.testing.assert_array_equal(torch.cat([b.features for b in got]).numpy(), x)
    assert got.names == ["7", "8", "9"]


def test_a_folder_with_labels_reads_bags_when_they_are_asked_for(tmp_path):
    for number in range(3):
        some(f"s{number}", seed=number, label=None).save(tmp_path / f"s{number}.h5")
    (tmp_path / "labels.csv").write_text("slide_id,label\ns0.h5,tumour\ns1,normal\ns2,tumour\n")
    bags = read_bags(tmp_path)
    assert (bags.names, bags.labels, bags.classes) == (["s0", "s1", "s2"], [1, 0, 1], ["normal", "tumour"])
    (tmp_path / "s1.h5").write_bytes(b"no longer")
    assert bags[2].label == 1
    assert torch.equal(bags[1:][1].features, some(seed=2).features)
    with pytest.raises(InputError, match=r"s1\.h5: cannot be read as \.h5"):
        bags[1]
    (tmp_path / "labels.csv").write_text("name,label\ns0,a\ns1,b\ns2,a\ns9,b\n")
    with pytest.warns(RuntimeWarning, match="1 bags without a file"):
        read_bags(tmp_path)


class Thing:
    pass


def pickled(path):
    torch.save({"features": torch.ones(2, 2), "more": Thing()}, path / "a.pt")
    return path / "a.pt"


def folder_of(path, labels):
    some(label=None).save(path / "s.h5")
    (path / "labels.csv").write_text(labels)
    return path


def written(path, name, **parts):
    np.savez(path / name, **parts)
    return path / name


def text(path, name, content):
    (path / name).write_text(content)
    return path / name


def nan(path):
    return written(path, "slide_7.npz", features=np.array([[1.0, 2], [3, 4], [5, np.nan]]))


REFUSED = {
    "absent": (lambda p: p / "nothing.h5", "there is no file"),
    "other format": (lambda p: text(p, "a.xlsx", ""), r"not a format of bags; expected \.h5"),
    "empty folder": (lambda p: p, r"no file of bags in it; expected \.h5"),
    "pickled objects": (pickled, "nothing is unpickled here"),
    "no features": (lambda p: written(p, "a.npz", embedding=np.ones((2, 2))), "holds embedding; expected an array"),
    "NaN": (nan, r"slide_7: NaN or infinity in the features of instance 2 \(of 3\)"),
    "coords of others": (lambda p: written(p, "a.npz", features=np.ones((3, 2)), coords=np.ones((2, 2))), "its coords are"),
    "no instance": (lambda p: written(p, "a.npz", features=np.ones((0, 2))), "N and D at least 1"),
    "odd label": (lambda p: written(p, "a.npz", features=np.ones((1, 2)), label=0.5), "its label is 0.5"),
    "labels of others": (lambda p: folder_of(p, "name,label\nt,1\n"), "no label for 1 bags, s first"),
    "no column": (lambda p: folder_of(p, "case,label\ns,1\n"), "expected name"),
    "two labels": (lambda p: text(p, "a.csv", "0,1,5\n1,1,6\n"), "several labels"),
    "damaged": (lambda p: text(p, "a.h5", "x"), r"a\.h5: cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_file_and_say_what_to_do(tmp_path, case):
    make, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        list(read_bags(make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_record_keeps_what_is_known_of_bags(tmp_path):
    model = seeded(Gated())
    bags = in_memory(
        [some("one"), some("two", n=3, coords=None, label=None, annotation=None, patch_size=None)], ["a", "b"]
    )
    probe.capture_mil(model, bags, attention="score", features="features", store=tmp_path / "r.zarr")
    tree = probe.open_record(tmp_path / "r.zarr")
    facts = tree["bags"].to_dataset()
    assert list(facts["name"].values) == ["one", "two"]
    assert facts["label"].values.tolist() == [1, -1]
    assert facts.attrs["classes"] == ["a", "b"]
    np.testing.assert_array_equal(facts["coords"].values[0], some().coords)
    assert np.isnan(facts["coords"].values[1]).all()
    assert np.isnan(facts["annotation"].values[1]).all()
    plain = probe.capture_mil(model, [b.features for b in bags], attention="score")
    np.testing.assert_array_equal(tree["mil/attention"].values, plain["mil/attention"].values)
    assert "bags" not in plain.children
    one = probe.capture_mil(model, some(), attention="score")
    assert one["mil/attention"].shape == (1, 1, 5)


def test_real_files_of_the_field():
    from pathlib import Path

    place = Path(probe.__file__).resolve().parents[2] / "shared" / "data"
    if not (place / "mil-musk2").is_dir():
        pytest.skip("needs ../shared/data/mil-musk2 and mil-animals")
    musk = read_bags(place / "mil-musk2" / "musk2.csv.gz")
    sizes = [len(b.features) for b in musk]
    assert (len(musk), sum(musk.labels), sum(sizes), min(sizes), max(sizes)) == (102, 39, 6598, 1, 1044)
    fox = read_bags(place / "mil-animals" / "fox.npz")
    assert (len(fox), sum(fox.labels), sum(len(b.features) for b in fox)) == (200, 100, 1320)
