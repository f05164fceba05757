"""Concentration, UMAP and overlay of records with known attention."""

import numpy as np
import pytest
from mil_records import mil_record

from probe import explainers as ex
from probe.errors import InputError, RecordError
from probe.explainers._mil import layout, measures


def test_cumulative_of_even_and_of_single_attention():
    np.testing.assert_allclose(measures.cumulative(np.full(20, 1 / 20), 30)[:20], np.arange(1, 21) / 20)
    one = np.zeros(20)
    one[3] = 1
    np.testing.assert_array_equal(measures.cumulative(one, 30), np.ones(30))
    a = np.random.default_rng(0).dirichlet(np.full(50, 0.1))
    curve = measures.cumulative(a, 60)
    assert (np.diff(curve) >= 0).all()
    assert curve[49] == 1
    assert curve[4] == pytest.approx(sum(sorted(a)[-5:]))


def test_entropy_effective_and_activated():
    even, one = np.full(8, 1 / 8), np.eye(8)[0]
    assert measures.normalised_entropy(even) == pytest.approx(1)
    assert measures.effective_instances(even) == pytest.approx(8)
    assert not measures.activated(even).any()
    assert measures.normalised_entropy(one) == 0
    assert measures.effective_instances(one) == 1
    assert measures.activated(one).tolist() == [True] + [False] * 7
    assert np.isnan(measures.normalised_entropy(np.ones(1)))
    half = np.array([0.5, 0.25, 0.25, 0])
    assert measures.entropy(half) == pytest.approx(1.5 * np.log(2))


def test_overlap_of_branches():
    assert measures.overlap(measures.branch_cosines(np.tile([0.2, 0.8], (3, 1)))) == pytest.approx(1)
    assert measures.overlap(measures.branch_cosines(np.eye(4))) == 0
    assert np.isnan(measures.overlap(measures.branch_cosines(np.ones((1, 2)))))


def test_percentiles_hide_how_strong_attention_is():
    """The reason for showing both: nearly even and sharp attention have the same percentiles."""
    sharp, flat = np.array([0.97, 0.02, 0.01]), np.array([0.3334, 0.3333, 0.3332])
    np.testing.assert_array_equal(measures.percentiles(sharp), measures.percentiles(flat))
    np.testing.assert_allclose(measures.percentiles(np.ones(4)), 50)


def two_bags():
    """Two branches; the second bag has one instance."""
    first = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    return mil_record(
        [first, np.ones((2, 1))], annotation=[np.array([1, 2, 2, 0]), np.array([0])], labels=[1, 0]
    )


def test_concentration_averages_branches_first():
    got = ex.concentration(two_bags())
    np.testing.assert_allclose(got["cumulative"].values[0, :5], [0.4, 0.8, 0.9, 1, 1])
    assert (got["cumulative"].values[1] == 1).all()
    assert got["activated"].values.tolist() == [2, 0]
    assert got["instances"].values.tolist() == [4, 1]
    np.testing.assert_allclose(got["effective"].values, [np.exp(-(0.8 * np.log(0.4) + 0.2 * np.log(0.1))), 1])
    assert np.isnan(got["entropy"].values[1])
    cosine = (2 * 0.07 + 0.02) / (0.49 + 0.03)
    assert float(got["overlap"].values[0]) == pytest.approx(cosine)
    assert got["recall"].values.tolist() == [1.0, 0.5], "a bag without the pattern does not count"
    assert got["pattern_bags"].values.tolist() == [1, 1]
    assert got["label"].values.tolist() == ["tumour", "benign"]


def test_concentration_in_words():
    text = ex.verbalize(ex.concentration(two_bags()))
    assert "Over 2 bags, the 10 strongest instances hold 100% of the attention on average" in text
    assert "Of the instances annotated 2, 50% get more than an even share (1 bag)." in text
    single = ex.verbalize(ex.concentration(mil_record([np.full((1, 40), 1 / 40)], names=["case <7>"])))
    assert (
        "In “case <7>”, the 10 strongest instances hold 25% of the attention, where an even share is 25%."
        in single
    )
    assert "The model has one branch of attention." in single


def clustered(seed=0):
    """A bag of two far apart knots of features, attention on the second alone."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 5)) + np.repeat([[0.0], [30.0]], 30, 0)
    a = np.r_[np.full(30, 1e-4), np.full(30, 1.0)]
    return mil_record(
        [np.tile(a / a.sum(), (2, 1))], features=[x], annotation=[np.r_[np.zeros(30), np.ones(30)]]
    )


@pytest.mark.slow
def test_knots_of_features_stay_apart_and_the_seed_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "a"))
    first = ex.instance_map(clustered())
    p = first["position"].values
    within = np.linalg.norm(p[:30] - p[:30].mean(0), axis=1).max()
    assert np.linalg.norm(p[:30].mean(0) - p[30:].mean(0)) > 2 * within
    np.testing.assert_allclose(first["attention"].values[30:], 2, rtol=1e-3)
    assert first["activated"].values.tolist() == [False] * 30 + [True] * 30
    (kept,) = (tmp_path / "a" / "umap").glob("*.npy")
    np.save(kept, np.zeros((60, 2)))
    assert (ex.instance_map(clustered())["position"].values == 0).all(), "laid out once"
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "b"))
    np.testing.assert_array_equal(ex.instance_map(clustered())["position"].values, p)
    assert not np.array_equal(ex.instance_map(clustered(), seed=1)["position"].values, p)


def test_a_large_bag_is_sampled_and_says_so(monkeypatch):
    monkeypatch.setattr("probe.explainers._mil.embedding.umap_layout", lambda x, **_: x[:, :2])
    rng = np.random.default_rng(0)
    a = rng.dirichlet(np.full(1000, 0.05))
    got = ex.instance_map(mil_record([a[None]], features=[rng.normal(size=(1000, 3))]), limit=300)
    shown = got["instance"].values
    assert len(set(shown.tolist())) == 300
    assert set(np.argsort(-a)[:200].tolist()) <= set(shown.tolist())
    assert "300 of 1,000 instances" in got.attrs["note"]
    np.testing.assert_allclose(got["attention"].values, a[shown] * 1000, rtol=1e-5, atol=1e-30)


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path))
    monkeypatch.setattr(layout, "_compute", lambda x, _s: x[:, :2])
    for seed in range(layout.KEPT + 5):
        layout.umap_layout(np.ones((8, 3)), neighbors=3, min_dist=0.1, seed=seed)
    assert len(list((tmp_path / "umap").glob("*.npy"))) == layout.KEPT


def test_bags_whose_features_follow_the_label_have_v_measure_one(monkeypatch):
    monkeypatch.setattr("probe.explainers._mil.embedding.umap_layout", lambda x, **_: x[:, :2])
    rng = np.random.default_rng(0)
    labels = [i % 2 for i in range(12)]
    attention = [rng.dirichlet(np.ones(5), 1) for _ in labels]
    apart = [rng.normal(size=(5, 3)) + 20 * y for y in labels]
    got = ex.bag_map(mil_record(attention, features=apart, labels=labels))
    assert got.attrs["v_measure"] == pytest.approx(1)
    np.testing.assert_allclose(got["position"].values[3], (attention[3] @ apart[3])[0, :2], rtol=1e-5)
    mixed = ex.bag_map(
        mil_record(attention, features=[rng.normal(size=(5, 3)) for _ in labels], labels=labels)
    )
    assert mixed.attrs["v_measure"] < 0.5
    assert "v_measure" not in ex.bag_map(mil_record(attention, features=apart)).attrs


def grid(side=4, size=16.0):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * size


def test_overlay_marks_the_corner_that_is_looked_at():
    a = np.full(16, 0.01)
    a[[0, 1, 4]] = 0.2
    a[15] = 0.3
    a /= a.sum()
    record = mil_record([a[None]], coords=[grid()], patch_size=16.0)
    got = ex.slide_overlay(record)
    np.testing.assert_allclose(got["attention"].values, a * 16, rtol=1e-5)
    assert got["region"].values[[0, 1, 4]].tolist() == [0, 0, 0]
    assert got["region"].values[15] == 1
    assert (np.delete(got["region"].values, [0, 1, 4, 15]) == -1).all()
    assert got["region_patches"].values.tolist() == [3, 1]
    np.testing.assert_allclose(got["region_mass"].values, [a[[0, 1, 4]].sum(), a[15]], rtol=1e-5)
    assert ex.slide_overlay(record, threshold=100.0)["region_patches"].size == 0
    text = ex.verbalize(got)
    assert "Above the threshold lie two regions" in text
    assert "(x 48, y 48)" in text


def test_overlay_of_one_branch_and_a_size_from_the_grid():
    branches = np.array([np.eye(16)[2], np.eye(16)[5]])
    record = mil_record([branches], coords=[grid()])
    assert ex.slide_overlay(record).attrs["patch_size"] == 16
    assert ex.slide_overlay(record, branch=2)["attention"].values.argmax() == 5
    assert ex.slide_overlay(record, patch_size=32.0).attrs["patch_size"] == 32


def test_overlay_on_a_picture(tmp_path):
    from skimage.io import imsave

    path = str(tmp_path / "p.png")
    imsave(path, np.full((64, 64, 3), 200, dtype=np.uint8), check_contrast=False)
    record = mil_record([np.full((1, 16), 1 / 16)], coords=[grid()], patch_size=16.0)
    got = ex.slide_overlay(record, picture=path, longest=64)
    assert got["picture"].shape == (64, 64, 3)
    assert (got.attrs["width"], got.attrs["height"], got.attrs["downsample"]) == (64, 64, 1)
    wrong = mil_record([np.full((1, 16), 1 / 16)], coords=[grid() * 10], patch_size=160.0)
    with pytest.raises(InputError, match="is it the slide of this bag"):
        ex.slide_overlay(wrong, picture=path)


def test_refusals():
    plain = mil_record([np.full((2, 9), 1 / 9)], names=["case 4"])
    with pytest.raises(RecordError, match="case 4: the record has no coords"):
        ex.slide_overlay(plain)
    with pytest.raises(RecordError, match="has no features"):
        ex.instance_map(plain)
    with pytest.raises(InputError, match="the record has the bags 0 to 0, called case 4"):
        ex.instance_map(plain, bag="case 5")
    with pytest.raises(InputError, match="branch: got 3, the model has 2"):
        ex.slide_overlay(mil_record([np.full((2, 9), 1 / 9)], coords=[grid(3)]), branch=3)
    with pytest.raises(InputError, match="UMAP needs at least 6 points, got 3"):
        ex.instance_map(mil_record([np.full((1, 3), 1 / 3)], features=[np.ones((3, 2))]))
    with pytest.raises(RecordError, match="the record has no bags"):
        ex.concentration(plain.drop_nodes("mil"))
    with pytest.raises(RecordError, match="not finite"):
        ex.concentration(mil_record([np.full((1, 3), np.nan)]))
