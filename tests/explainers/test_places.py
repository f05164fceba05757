"""Measures of place against their definitions and known answers; the table of gaze on made-up data."""

import numpy as np
import pytest
from picture_cases import disc, network, picture
from PIL import Image

from probe import InputError
from probe import explainers as ex


def slow_auc(map_, fixations):
    """By the definition: every fixated value against every pixel."""
    wins = [np.mean((map_ < map_[r, c]) + 0.5 * (map_ == map_[r, c])) for r, c in fixations]
    return np.mean(wins)


def test_auc_and_nss_by_their_definitions():
    rng = np.random.default_rng(0)
    map_ = rng.integers(0, 9, (13, 17)).astype(float)
    places = np.stack([rng.integers(0, 13, 40), rng.integers(0, 17, 40)], 1)
    assert ex.fixation_auc(map_, places) == pytest.approx(slow_auc(map_, places), abs=1e-12)
    at = np.array([map_[r, c] for r, c in places])
    assert ex.nss(map_, places) == pytest.approx((at.mean() - map_.mean()) / map_.std(), abs=1e-12)


def test_chance_and_perfection():
    flat, peak = np.ones((20, 20)), np.zeros((20, 20))
    peak[7, 3] = 1.0
    there, everywhere = np.array([[7, 3]]), np.stack(np.mgrid[:20, :20], -1).reshape(-1, 2)
    assert ex.nss(flat, there) == 0.0
    assert ex.fixation_auc(flat, there) == 0.5
    assert ex.fixation_auc(peak, everywhere) == pytest.approx(0.5)
    assert ex.nss(peak, everywhere) == pytest.approx(0.0, abs=1e-12)
    assert ex.fixation_auc(peak, there) > 0.99
    assert ex.nss(-peak, there) < -19


def test_measures_do_not_depend_on_scale():
    rng = np.random.default_rng(1)
    map_, places = rng.random((20, 20)), rng.integers(0, 20, (30, 2))
    assert ex.nss(5 * map_ - 3, places) == pytest.approx(ex.nss(map_, places))
    assert ex.fixation_auc(np.exp(map_), places) == ex.fixation_auc(map_, places)


def test_pointing_game():
    map_, mask = np.zeros((50, 50)), np.zeros((50, 50), bool)
    mask[10:20, 10:20] = True
    map_[19, 33] = 1.0
    assert not ex.pointing_game(map_, mask, tolerance=13)
    assert ex.pointing_game(map_, mask, tolerance=14)
    map_[12, 12] = 2.0
    assert ex.pointing_game(map_, mask, tolerance=0)


def test_relevance_in_mask():
    map_, mask = np.full((10, 10), -1.0), np.zeros((10, 10), bool)
    mask[:5] = True
    assert np.isnan(ex.relevance_in_mask(map_, mask))
    map_[0, 0], map_[9, 9] = 3.0, 1.0
    assert ex.relevance_in_mask(map_, mask) == 0.75


def test_refusals():
    map_ = np.ones((5, 5))
    for call, message in (
        (lambda: ex.nss(map_, np.zeros((0, 2), int)), "at least one"),
        (lambda: ex.nss(map_, np.array([[5, 0]])), "outside the map"),
        (lambda: ex.fixation_auc(map_[0], np.array([[0, 0]])), r"map \(5,\)"),
        (lambda: ex.fixation_auc(map_ * np.nan, np.array([[0, 0]])), "finite"),
        (lambda: ex.pointing_game(map_, np.zeros((5, 5), bool)), "nothing is marked"),
        (lambda: ex.relevance_in_mask(map_, np.ones((4, 5), bool)), r"mask \(4, 5\)"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_random_network_gives_another_map_and_the_users_stays():
    import torch
    from explainer_cases import same_state, snapshot

    model = network().model
    with torch.no_grad():
        kept = model.conv.weight.clone()
        model.conv.weight.mul_(torch.linspace(-1, 2, kept.numel()).view_as(kept))
    try:
        before = snapshot(model)
        found = ex.randomisation_check(network(), picture(), layers=3)
        assert same_state(before, snapshot(model))
    finally:
        with torch.no_grad():
            model.conv.weight.copy_(kept)
    assert found["similarity"].values[0] == 1.0
    assert found["fraction"].values.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert found["similarity"].values[-1] < 0.9, "every layer is random"


@pytest.fixture
def osie(tmp_path):
    """Three pictures of a disc, 10 people who all look at it after a first fixation in the middle."""
    from scipy.io import savemat

    (tmp_path / "stimuli").mkdir()
    rng = np.random.default_rng(0)
    records = []
    for number, (row, column) in enumerate([(12, 12), (30, 34), (14, 32)]):
        Image.fromarray(picture(row, column)).save(tmp_path / "stimuli" / f"{number}.png")
        people = []
        for _ in range(10):
            x, y = (np.append(24.0, centre + rng.normal(0, 1.5, 6)) for centre in (column, row))
            people.append({"fix_x": x, "fix_y": y, "fix_duration": np.ones(7)})
        records.append({"img": f"{number}.png", "subjects": np.array(people, dtype=object)})
    records.append({"img": "absent.png", "subjects": records[0]["subjects"]})
    savemat(tmp_path / "fixations.mat", {"fixations": np.array(records, dtype=object)})
    return tmp_path


def test_the_table_of_gaze(osie):
    photos = ex.osie_pictures(osie)
    assert [len(p.held_out) for p in photos] == [48] * 3, "8 people, 6 fixations each: the first is left out"
    assert [len(p.others) for p in photos] == [12] * 3
    seen = []
    table = ex.gaze_table(network(), osie, size=48, progress=lambda *n: seen.append(n))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    names = [str(n) for n in table["name"].values]
    means = dict(zip(names, table["nss_mean"].values, strict=True))
    assert means["LRP, blurred"] > 1.5
    assert means["SR map"] > 1.5
    assert means["other people"] > 3
    assert means["centre prior (σ a quarter)"] < 1
    assert (table["nss_low"] <= table["nss_mean"]).all()
    assert (table["nss_mean"] <= table["nss_high"]).all()
    apart = table["nss"].values[names.index("SR map")] - table["nss"].values[names.index("LRP, blurred")]
    assert table["sr_minus_blur"].values[0] == pytest.approx(apart.mean())
    one = ex.gaze_table(network(), osie, size=48, limit=1)
    assert one.sizes["picture"] == 1
    assert float(one["nss_low"][0]) == float(one["nss_high"][0])


def test_the_disc_itself_is_where_people_look(osie):
    photo = ex.osie_pictures(osie)[2]
    cells = np.floor(photo.held_out * 48).astype(int)
    assert ex.fixation_auc(disc().astype(float), cells) > 0.9


def test_other_folders_are_refused(tmp_path, osie):
    with pytest.raises(InputError, match=r"holds no OSIE data: expected fixations.mat and stimuli/"):
        ex.osie_pictures(tmp_path / "none")
    for file in (osie / "stimuli").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="holds none of the 4 pictures"):
        ex.osie_pictures(osie)
