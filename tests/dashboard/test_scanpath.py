"""`probe scanpath` from the command line: a picture of scikit-image, boxes, a recorded trial, and what is refused."""

import json
from pathlib import Path

import pytest

import probe
from probe.dashboard.cli import run_line
from probe.dashboard.scanpath_options import Scanpath
from probe.errors import InputError

STI = Path(probe.__file__).resolve().parents[2] / "shared" / "data" / "sti-amazon-scanpaths"


@pytest.fixture(scope="module")
def coffee(tmp_path_factory):
    import skimage.data
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "coffee.png"
    Image.fromarray(skimage.data.coffee()).resize((150, 100)).save(path)
    return path


def test_free_viewing_and_its_report(coffee, tmp_path, capsys):
    assert run_line(["scanpath", str(coffee), "--count", "12", "--html", str(tmp_path / "r.html")]) == 0
    shown = capsys.readouterr().out
    assert "looks about freely" in shown
    assert shown.count("model, draw") == 8
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Scanpath over objects" in page
    assert "step by step" in page


def test_search_among_boxes_as_json(coffee, tmp_path, capsys):
    boxes = [[5, 5, 40, 40], [60, 20, 60, 60], [100, 60, 40, 30], [100, 60, 40, 30]]  # the last two are one
    (tmp_path / "b.json").write_text(json.dumps([{"bbox": b} for b in boxes]))
    line = ["scanpath", str(coffee), "--objects", str(tmp_path / "b.json"), "--target", "1", "--json"]
    assert run_line(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["result"]["attributes"]["target_object"] == 1
    assert any(s["claim"] == "found" for s in found["sentences"])
    assert run_line([*line[:-3], "--target", "4"]) == 1
    assert "target 4, expected a number from 0 to 3" in capsys.readouterr().err


def test_one_object_gives_a_path_of_that_object_alone(coffee, tmp_path, capsys):
    (tmp_path / "b.csv").write_text("x,y,width,height\n20,20,50,50\n")
    assert run_line(["scanpath", str(coffee), "--objects", str(tmp_path / "b.csv"), "--target", "0"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert set(last.partition(": ")[2].split()) == {"0"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [({}, "expected a picture, or --data"), ({"table": "x"}, "expected one of search"),
     ({"table": "sti"}, "needs --data"), ({"picture": Path("p"), "table": "search"}, "takes --data, --limit"),
     ({"data": Path("d"), "target": 1}, "its own objects"), ({"picture": Path("p"), "trial": "1"}, "belongs to --data"),
     ({"table": "search", "limit": 1}, "at least 2"), ({"table": "search", "data": Path("d")}, "leave --data out"),
     ({"table": "search", "tell_place": True}, "takes --data, --limit"),
     ({"picture": Path("p"), "limit": 3}, "belongs to --table"), ({"data": Path("d"), "way": "beam"}, "leave --way out"),
     ({"picture": Path("p"), "objects": Path("o"), "count": 9}, "without --objects")],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        Scanpath(**asked).check()


@pytest.mark.skipif(not STI.is_dir(), reason="the recordings of shared/ are not here")
def test_a_recorded_trial_shows_people_beside_the_model(capsys):
    assert run_line(["scanpath", "--data", str(STI), "--trial", "7.jpg", "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("person ") == 6
    assert "Shown: 3 predicted paths and 6 people's paths." in shown
    assert run_line(["scanpath", "--data", str(STI), "--trial", "x.jpg"]) == 1


@pytest.mark.skipif(not STI.is_dir(), reason="the recordings of shared/ are not here")
def test_people_s_recordings_have_the_figures_of_the_specification():
    from itertools import combinations

    import numpy as np

    from probe.explainers._scanpath.measures import behaviour, edit_distance, sequence_score
    from probe.gaze.trials import sti_trials

    trials = sti_trials(STI)
    pairs = [(a.path, b.path) for (m, a), (n, b) in combinations(trials, 2) if m == n]
    assert (len(trials), len(pairs)) == (585, 1425)
    assert np.mean([sequence_score(a, b) for a, b in pairs]) == pytest.approx(0.207, abs=5e-4)
    assert np.mean([edit_distance(a, b) for a, b in pairs]) == pytest.approx(14.24, abs=5e-3)
    means = {
        k: np.mean([behaviour(t.path, t.scene.target)[k] for _, t in trials])
        for k in ("hit", "length", "revisit")
    }
    assert means == pytest.approx({"hit": 0.850, "length": 12.89, "revisit": 0.045}, abs=5e-3)


def test_the_table_of_simulated_search(capsys):
    assert run_line(["scanpath", "--table", "search", "--limit", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "another searcher" in json.dumps(found)
