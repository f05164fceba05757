"""Context-aware saliency: known answers, symmetry, and every shape of picture."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from probe import InputError
from probe.explainers import Rules, context_saliency

SIDE = 96


def disc(row=38, column=60, radius=8):
    """A bright disc on a texture of sines, and where the disc is."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    return 0.2 * np.sin(x / 3) * np.sin(y / 4) + inside, inside


def speckle(seed=0):
    """Single bright pixels: many in a square, few elsewhere; and where the square is."""
    draw = np.random.default_rng(seed)
    square = np.zeros((128, 128), dtype=bool)
    square[40:70, 50:80] = True
    hit = draw.random(square.shape) < np.where(square, 0.3, 0.003)
    return hit * draw.random(square.shape), square


def overlap(map_, square):
    """Intersection over union of the strongest pixels, as many as the square has, with the square."""
    top = np.zeros(map_.size, dtype=bool)
    top[np.argsort(-map_.ravel(), kind="stable")[: square.sum()]] = True
    top = top.reshape(map_.shape)
    return (top & square).sum() / (top | square).sum()


def test_a_constant_picture_has_no_saliency():
    for value in (0.0, 3.3, -1e6):
        assert (context_saliency(np.full((40, 50), value)) == 0).all()


def test_a_disc_stands_out_of_a_texture():
    picture, inside = disc()
    with_foci = context_saliency(picture)
    without = context_saliency(picture, Rules(foci="off"))
    for map_ in (with_foci, without):
        assert inside[np.unravel_index(map_.argmax(), map_.shape)]
        assert map_[inside].mean() > 10 * map_[~inside].mean()
    assert with_foci[~inside].mean() < without[~inside].mean(), "weight is drawn to the focus"


def test_an_area_of_speckle_becomes_one_area():
    """SR's claim in one number; and the control: a plain blur does as well here."""
    relevance, square = speckle()
    assert overlap(relevance, square) < 0.35
    assert overlap(context_saliency(relevance, Rules(size=128)), square) > 0.8
    assert overlap(gaussian_filter(relevance, 3), square) > 0.8


TURNS = ((np.fliplr, np.fliplr), (np.flipud, np.flipud), (np.rot90, lambda m: np.rot90(m, -1)))


@pytest.mark.parametrize("foci", ["scale", "once", "off"])
def test_a_mirrored_or_turned_picture_has_the_mirrored_map(foci):
    """Exactly where patches fill the sides (7 + 3 n pixels); elsewhere up to the pixel by which the patches shift."""
    picture = np.random.default_rng(1).random((40, 61))
    exact = Rules(foci=foci, scales=(1.0,), factors=(1.0,))
    texture, _ = disc()
    for there, back in TURNS:
        apart = back(context_saliency(there(picture), exact)) - context_saliency(picture, exact)
        assert np.abs(apart).max() < 1e-4
        both = [
            back(context_saliency(there(texture), Rules(foci=foci))),
            context_saliency(texture, Rules(foci=foci)),
        ]
        assert np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 90), (20, 20, 3), (9, 30, 1), (7, 7)])
def test_every_shape(shape):
    map_ = context_saliency(np.random.default_rng(0).random(shape))
    assert map_.shape == shape[:2]
    assert np.isfinite(map_).all()
    assert map_.min() >= 0
    assert map_.max() <= 1


def test_more_neighbours_than_there_are():
    picture, _ = disc()
    map_ = context_saliency(picture[20:50, 40:70], Rules(nearest=256))
    assert map_.max() > 0


def test_every_open_point_is_an_option():
    picture, inside = disc()
    plain = context_saliency(picture)
    for rules in (Rules(patch=0), Rules(threshold=0.5), Rules(relative=True, threshold=0.99), Rules(foci="once"),
                  Rules(size=48), Rules(falloff=0.0), Rules(nearest=8), Rules(scales=(1.0,))):  # fmt: skip
        map_ = context_saliency(picture, rules)
        assert inside[np.unravel_index(map_.argmax(), map_.shape)], rules
        assert np.abs(map_ - plain).max() > 1e-3, rules


def test_colours_are_compared_in_lab():
    """Two greens of one RGB distance as red and orange: Lab tells them apart otherwise."""
    picture = np.full((60, 60, 3), (0.2, 0.6, 0.2))
    picture[25:35, 25:35] = (0.2, 0.4, 0.2)
    picture[:, :3] = (0.9, 0.6, 0.2)
    lab, rgb = (context_saliency(picture, Rules(lab=on)) for on in (True, False))
    assert np.abs(lab - rgb).max() > 0.01


def test_refusals():
    for picture, message in (
        (np.zeros((4, 4, 2)), r"got shape \(4, 4, 2\)"),
        (np.zeros(4), r"got shape \(4,\)"),
        (np.zeros((0, 4)), r"got shape \(0, 4\)"),
        (np.full((4, 4), np.nan), "NaN or infinity"),
    ):
        with pytest.raises(InputError, match=message):
            context_saliency(picture)


@pytest.mark.parametrize("length", range(7, 16))
def test_patches_stand_equally_far_from_both_ends(length):
    """Up to the one pixel by which an odd rest cannot be halved."""
    from probe.explainers._relevance.cas import _starts

    starts = _starts(length, 7, 3)
    before, after = int(starts[0]), length - 7 - int(starts[-1])
    assert abs(before - after) <= 1
    assert before + after < 3
