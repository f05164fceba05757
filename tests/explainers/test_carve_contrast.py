"""The arithmetic of CARVE against planted truths: contrast, pairing, masks, regions, boxes, complexity."""

import numpy as np
import pytest

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._carve import contrast as c

N = 24


@pytest.fixture(scope="module")
def planted():
    """General attention (log-normal noise), a semantic factor with three regions, and the question's attention of both."""
    rng = np.random.default_rng(0)
    visual = np.exp(rng.normal(0, 1, (N, N)))
    semantic = np.ones((N, N))
    truth = np.zeros((N, N), bool)
    for rows, columns, height in (
        (slice(2, 7), slice(3, 8), 9),
        (slice(14, 20), slice(2, 6), 7),
        (slice(9, 15), slice(15, 21), 5),
    ):
        semantic[rows, columns], truth[rows, columns] = height, True
    general = visual / visual.sum() * 0.3
    question = visual * semantic
    return general, question / question.sum() * 0.3, semantic, truth


def precision(map_, truth):
    mask = c.kept(map_, truth.mean())
    return (mask & truth).sum() / mask.sum()


def test_without_lambda_the_ratio_is_the_semantic_factor_up_to_one_constant(planted):
    general, question, semantic, truth = planted
    found = c.contrast(question, general, 0.0)
    assert np.allclose(found / semantic, (found / semantic).mean(), rtol=1e-12)
    assert precision(found, truth) == 1.0


def test_a_large_lambda_leaves_the_question_alone(planted):
    general, question, _, truth = planted
    found = c.contrast(question, general, 1e12)
    assert np.allclose(found * 1e12, question, rtol=1e-11)
    assert precision(found, truth) == precision(question, truth) < 0.8


def test_between_them_more_lambda_means_less_of_the_factor(planted):
    general, question, semantic, _ = planted
    lams = (0, 1e-5, 1e-4, 1e-3, 1e-2, 1)
    with_factor = [
        np.corrcoef(np.log(c.contrast(question, general, lam)).ravel(), np.log(semantic).ravel())[0, 1]
        for lam in lams
    ]
    assert with_factor == sorted(with_factor, reverse=True)
    assert with_factor[0] == pytest.approx(1)


def test_the_contrast_is_the_minimiser_that_it_claims_to_be(planted):
    general, question, _, _ = planted
    lam, rng = 1e-3, np.random.default_rng(1)

    def objective(x):
        return ((x * general - question) ** 2).sum() + lam * (x**2 * general).sum()

    best = c.contrast(question, general, lam)
    for size in 10.0 ** rng.uniform(-6, 0, 200):
        assert objective(best) < objective(best * (1 + size * rng.normal(size=best.shape)))


def test_scale_of_the_question_is_scale_of_the_contrast_and_normalising_takes_it_away(planted):
    general, question, _, _ = planted
    layers = np.stack([question.ravel(), question.ravel()[::-1]]), np.stack([general.ravel()] * 2)
    once = c.contrast(*layers, 1e-4)
    heavy = layers[0] * np.array([[7.0], [1.0]])
    assert np.allclose(c.contrast(heavy, layers[1], 1e-4), once * [[7.0], [1.0]])
    assert (c.kept(7 * once[0], 0.2) == c.kept(once[0], 0.2)).all()
    fused = [c.contrast(x, layers[1], 1e-4).sum(0) for x in (layers[0], heavy)]
    assert (c.kept(fused[0], 0.2) != c.kept(fused[1], 0.2)).any()
    even = [c.contrast(x, layers[1], 1e-4, normalise=True).sum(0) for x in (layers[0], heavy)]
    assert np.allclose(*even)


def test_the_error_bound_of_the_decomposition(planted):
    general, question, semantic, _ = planted
    scale = (c.contrast(question, general, 0.0) / semantic).mean()
    for delta in (0.01, 0.1, 0.3):
        wrong = general * np.random.default_rng(2).uniform(1 - delta, 1 + delta, general.shape)
        error = abs(c.contrast(question, wrong, 0.0) / scale - semantic).max()
        assert error <= delta / (1 - delta) * semantic.max() * (1 + 1e-9)
        assert error > delta / 4  # the perturbation was felt


def test_a_ratio_without_value_is_refused():
    with pytest.raises(InputError, match="lam = 0"):
        c.contrast(np.ones(3), np.array([1.0, 0, 1]), 0.0)
    with pytest.raises(InputError, match="no attention at all"):
        c.contrast(np.zeros(3), np.ones(3), 0.1, normalise=True)


def test_steps_are_paired_as_asked():
    assert c.paired(3, 5, "first") == [(0, 0, 1.0)]
    assert c.paired(3, 5, "last") == [(2, 4, 1.0)]
    assert c.paired(3, 5, "all") == [(0, 0, 1.0), (1, 1, 2.0), (2, 2, 3.0)]
    assert c.paired(3, 5, "all", 1) == [(1, 1, 1.0), (2, 2, 2.0)]
    with pytest.raises(InputError, match="at least 4 of both"):
        c.paired(3, 5, "all", 3)


def blobs():
    """Three blobs of sums 30, 20 and 12, the last of which touches the second diagonally."""
    map_ = np.zeros((12, 12))
    map_[1:4, 1:6], map_[6:8, 6:11], map_[8:10, 3:6] = 2.0, 2.0, 2.0
    return map_


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_strongest_regions_stay(count):
    map_ = blobs()
    areas, found = c.regions(map_, map_ > 0, c.RegionRule(count=count))
    assert [round(r.share * map_.sum()) for r in found] == [30, 20, 12][:count]
    assert [(r.top, r.left, r.bottom, r.right) for r in found] == [
        (1, 1, 4, 6),
        (6, 6, 8, 11),
        (8, 3, 10, 6),
    ][:count]
    assert [(areas == n + 1).sum() for n in range(count)] == [15, 10, 6][:count]


def test_neighbours_order_smallest_and_minimum():
    map_ = blobs()
    assert len(c.regions(map_, map_ > 0, c.RegionRule(9, connectivity=8))[1]) == 2
    bright = map_.copy()
    bright[8, 3] = 90.0
    by_sum, by_size = (c.regions(bright, bright > 0, c.RegionRule(1, order=o))[1][0] for o in ("sum", "size"))
    assert (by_sum.top, by_size.top) == (8, 1)
    assert len(c.regions(map_, map_ > 0, c.RegionRule(9, smallest=0.25))[1]) == 2
    assert len(c.regions(map_, map_ > 0, c.RegionRule(1, rule="least", keep=0.7))[1]) == 2  # 70 % of three


def test_all_pixels_stay_with_a_share_of_one_and_ties_stay():
    values = np.random.default_rng(0).random((9, 7))
    assert c.kept(values, 1.0).all()
    assert c.kept(np.ones((4, 4)), 0.1).all()
    values[0, 0] = np.nan
    assert c.kept(values, 0.2).sum() == round(0.2 * 62 + 0.5)
    assert not c.kept(values, 1.0)[0, 0]


def test_mask_and_regions_follow_flips_and_enlarging():
    map_ = np.random.default_rng(3).random((10, 14))
    areas, _ = c.regions(map_, c.kept(map_, 0.3), c.RegionRule(2))
    flipped, _ = c.regions(map_[:, ::-1], c.kept(map_[:, ::-1], 0.3), c.RegionRule(2))
    assert (flipped[:, ::-1] == areas).all()
    large = np.kron(map_, np.ones((3, 3)))
    grown, _ = c.regions(large, c.kept(large, 0.3), c.RegionRule(2))
    assert (grown[::3, ::3] == areas).mean() > 0.97  # a quantile may fall between two other pixels


def test_the_box_has_its_margin_stays_inside_and_is_no_strip():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 20:40] = True
    assert c.box_around(mask, 0.0) == (10, 20, 20, 40)
    assert c.box_around(mask, 0.1) == (8, 18, 22, 42)
    assert c.box_around(mask, 2.0) == (0, 0, 40, 60)
    mask[:] = False
    mask[5, :] = True
    top, left, bottom, right = c.box_around(mask, 0.0)
    assert (left, right) == (0, 60)
    assert bottom - top == 13  # a quarter of 60, cut at the picture's edge


def test_the_window_that_stands_out_most():
    map_ = np.full((30, 40), 0.1)
    map_[12:18, 22:28] = 3.0
    top, left, bottom, right = c.sharpest_window(map_, (6, 6))
    assert (top, left, bottom, right) == (12, 22, 18, 28)


def test_entropy_in_nats_and_spread():
    assert c.entropy(np.full(256, 3.0)) == pytest.approx(np.log(256))
    assert c.entropy(np.eye(5)[2]) == 0
    assert c.entropy([0.5, 0.25, 0.25]) == pytest.approx(1.5 * np.log(2))
    assert c.spread(np.full((3, 3), 0.7)) == 0
    assert c.spread([1.0, 3.0]) == 1


def test_complexity_of_plain_pictures():
    grey = np.full((40, 50, 3), 90, np.uint8)
    assert ex.texture_complexity(grey) == 0
    assert np.isnan(ex.colour_complexity(grey))
    red = grey.copy()
    red[..., 0] = 200
    assert ex.colour_complexity(red) == 0
    from skimage.color import hsv2rgb

    hue = np.tile((np.arange(180) + 0.5) / 180, (4, 1))
    every = hsv2rgb(np.stack([hue, np.ones_like(hue), np.ones_like(hue)], -1))
    assert ex.colour_complexity(every) == pytest.approx(1, abs=0.02)  # 8 bits move some hues to the next bin
    half = red.copy()
    half[:, :25] = (90, 200, 90)
    assert ex.colour_complexity(half) == pytest.approx(np.log(2) / np.log(180))
    assert ex.texture_complexity(half) > 0
