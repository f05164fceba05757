"""`probe mil`: from a folder of bags to a model, its figures, and pages; every refusal is one line."""

import json

import numpy as np
import pytest
import torch
from mil_bags import planted

from probe.bags import Bag

FAST = ("--epochs", 2, "--hidden", 8, "--branches", 2, "--lr", 0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of HDF5 bags with labels."""
    folder = tmp_path_factory.mktemp("bags")
    lines = ["slide_id,label"]
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) * 8.0
    for number, bag in enumerate(planted(6, instances=16, width=6, each=3)):
        placed = Bag(bag.name, bag.features, None, grid, 8.0, bag.annotation)
        placed.save(folder / f"s{number:02d}.h5")
        lines.append(f"s{number:02d},{'tumour' if bag.label else 'normal'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def trained(probe, data, tmp_path):
    ended = probe("mil", "train", data, *FAST, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    return tmp_path / "run", ended


def test_train_tests_on_unseen_bags_and_writes_what_it_found(trained):
    folder, ended = trained
    assert "acmil: one split" in ended.out
    assert "macro f1" in ended.out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["classes"] == ["normal", "tumour"]
    assert metrics["tested_bags"] == len(metrics["bags"]) == 2
    assert set(metrics["measures"]) == {"accuracy", "macro_f1", "auc", "log_loss"}
    assert (folder / "model.safetensors").is_file()


def test_a_training_is_not_overwritten_and_can_be_resumed(probe, fails, data, trained):
    folder, first = trained
    assert "go on with resume" in fails("mil", "train", data, *FAST, "--out", folder)
    again = probe("mil", "train", data, *FAST, "--out", folder, "--resume")
    assert (again.code, again.out) == (0, first.out)


def test_cross_validation_as_json(probe, data, tmp_path):
    ended = probe(
        "mil", "train", data, "--method", "abmil", *FAST, "--folds", 3, "--out", tmp_path / "cv", "--json"
    )
    document = json.loads(ended.out)
    assert document["tested_bags"] == 12
    assert sorted(p.name for p in (tmp_path / "cv").iterdir()) == [
        "fold-1",
        "fold-2",
        "fold-3",
        "metrics.json",
    ]
    assert len(document["best_epochs"]) == 3


def test_explain_writes_page_geojson_and_png(probe, data, trained, tmp_path, monkeypatch):
    from skimage.io import imsave

    monkeypatch.setattr("probe.explainers._mil.embedding.umap_layout", lambda x, **_: x[:, :2])
    imsave(tmp_path / "s.png", np.full((32, 32, 3), 200, dtype=np.uint8), check_contrast=False)
    files = {kind: tmp_path / f"out.{kind}" for kind in ("html", "geojson", "png")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    slide = tmp_path / "s.png"
    ended = probe("mil", "explain", data / "s01.h5", "--model", trained[0], "--slide", slide, *options)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("The model's answer for s01 is ")
    assert any(line.startswith("The strongest of 16 patches in “s01”") for line in lines)
    assert all(path.stat().st_size > 100 for path in files.values())
    assert "linked-data" in files["html"].read_text()


def test_a_bag_without_places_has_a_report_and_no_slide(probe, fails, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("probe.explainers._mil.embedding.umap_layout", lambda x, **_: x[:, :2])
    torch.save(torch.ones(7, 6), tmp_path / "case.pt")
    ended = probe(
        "mil", "explain", tmp_path / "case.pt", "--model", trained[0], "--html", tmp_path / "a.html", "--json"
    )
    assert ended.code == 0, ended.err
    assert set(json.loads(ended.out)) == {"bag", "prediction", "sentences", "concentration"}
    line = fails("mil", "explain", tmp_path / "case.pt", "--model", trained[0], "--png", tmp_path / "a.png")
    assert "has no coords" in line


def test_concentration_of_bags_and_of_a_record(probe, data, trained, tmp_path):
    first = probe(
        "mil",
        "concentration",
        data,
        "--model",
        trained[0],
        "--out",
        tmp_path / "r.zarr",
        "--html",
        tmp_path / "c.html",
    )
    assert first.code == 0, first.err
    assert "Over 12 bags, the 10 strongest instances hold" in first.out
    assert "Of the instances annotated 2" in first.out
    again = probe("mil", "concentration", tmp_path / "r.zarr")
    assert again.out == first.out
    by_name = probe("run", "concentration", tmp_path / "r.zarr", "--longest", 20)
    assert (by_name.code, by_name.out) == (0, first.out)


def test_refusals(fails, data, trained, tmp_path):
    (tmp_path / "a.xlsx").write_text("")
    np.save(tmp_path / "nan.npy", np.full((3, 6), np.nan))
    for words, arguments in {
        "bags need --model": ("concentration", data),
        "there is no model at": ("explain", data, "--model", tmp_path),
        "not a format of bags": ("train", tmp_path / "a.xlsx"),
        "nan: NaN or infinity in the features of instance 0": (
            "explain",
            tmp_path / "nan.npy",
            "--model",
            trained[0],
        ),
        "--bag s99: ": ("explain", data, "--bag", "s99", "--model", trained[0]),
        "expected one of ('abmil'": ("train", data, "--method", "clam"),
        "folds: got 9": ("train", data, "--folds", 9, "--out", tmp_path / "x"),
    }.items():
        assert words in fails("mil", *arguments)
