"""Painting patches at any magnification, regions and outlines, and pictures of real formats."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from probe import slide
from probe.errors import InputError


def slow_paint(x, y, size, scores, cell, shape):
    """Cell by cell: the mean of the patches that cover its middle."""
    found = np.full(shape, np.nan)
    for row in range(shape[0]):
        for column in range(shape[1]):
            cx, cy = (column + 0.5) * cell, (row + 0.5) * cell
            over = (x <= cx) & (cx < x + size) & (y <= cy) & (cy < y + size)
            if over.any():
                found[row, column] = scores[over].mean()
    return found


@pytest.mark.parametrize("cell", [1.0, 3.0, 7.0])
def test_painting_is_the_mean_of_what_covers_a_cell(cell):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 40, (2, 30)) + 0.25
    scores = rng.normal(size=30)
    shape = (int(60 / cell), int(55 / cell))
    got = slide.paint(x, y, 9.0, scores, cell, shape)
    np.testing.assert_allclose(got, slow_paint(x, y, 9.0, scores, cell, shape), atol=1e-12)


def test_a_patch_smaller_than_a_cell_is_still_there():
    got = slide.paint(np.array([10.0]), np.array([0.0]), 2.0, np.array([5.0]), 16.0, (2, 2))
    assert got[0, 1] == 5 or got[0, 0] == 5
    assert np.isfinite(got).sum() == 1


def test_regions_join_along_edges_and_not_at_corners():
    x, y = np.array([0, 16, 48, 64, 0, 100.0]), np.array([0, 0, 0, 16, 32, 100.0])
    got = slide.regions(x, y, 16.0, np.ones(6, dtype=bool))
    assert got[0] == got[1] == 0, "the largest is the first"
    assert len(set(got.tolist())) == 5
    assert slide.regions(x, y, 16.0, np.zeros(6, dtype=bool)).tolist() == [-1] * 6
    overlapping = slide.regions(
        np.array([0, 8.0, 16]), np.array([0, 8.0, 16]), 16.0, np.array([True, True, True])
    )
    assert overlapping.tolist() == [0, 0, 0]


def test_outlines_go_around_areas_and_holes():
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False
    mask[4, 4] = True  # touches at a corner: a ring of its own
    rings = slide.outlines(mask)
    assert all(ring[0] == ring[-1] for ring in rings)
    as_sets = sorted(sorted(set(ring)) for ring in rings)
    square, hole, corner = (sorted([(a, a), (b, a), (b, b), (a, b)]) for a, b in ((1, 4), (2, 3), (4, 5)))
    assert as_sets == sorted([square, hole, corner])

    def area(ring):
        return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2

    assert sum(map(area, rings)) == mask.sum()
    assert slide.outlines(np.zeros((3, 3), dtype=bool)) == []


@pytest.mark.parametrize("seed", range(5))
def test_outlines_enclose_exactly_the_mask(seed):
    mask = np.random.default_rng(seed).random((12, 15)) < 0.5
    total = sum(
        (np.array(r)[:-1, 0] * np.array(r)[1:, 1] - np.array(r)[1:, 0] * np.array(r)[:-1, 1]).sum() / 2
        for r in slide.outlines(mask)
    )
    assert total == mask.sum()


def picture(height=60, width=90):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pictures_are_read_and_shrunk(tmp_path, suffix):
    from skimage.io import imsave

    path = tmp_path / f"a{suffix}"
    imsave(path, picture(), check_contrast=False)
    whole = slide.read_overview(path)
    np.testing.assert_array_equal(whole.pixels, picture())
    assert (whole.width, whole.height, whole.downsample) == (90, 60, 1.0)
    small = slide.read_overview(path, longest=30)
    assert small.pixels.shape == (20, 30, 3)
    assert (small.width, small.height, small.downsample) == (90, 60, 3.0)


def test_of_a_pyramid_a_low_level_is_read(tmp_path):
    import tifffile

    levels = [np.full((s, 2 * s, 3), value, dtype=np.uint8) for s, value in ((256, 10), (128, 20), (64, 30))]
    with tifffile.TiffWriter(tmp_path / "p.tif") as file:
        file.write(levels[0], subifds=2, photometric="rgb", tile=(64, 64))
        for level in levels[1:]:
            file.write(level, subfiletype=1, photometric="rgb", tile=(64, 64))
    view = slide.read_overview(tmp_path / "p.tif", longest=200)
    assert (view.width, view.height) == (512, 256)
    assert int(view.pixels.mean()) == 20, "the level that just suffices"
    assert view.downsample == pytest.approx(512 / 200)


def test_grey_and_16_bit_and_transparency(tmp_path):
    import tifffile
    from skimage.io import imsave

    tifffile.imwrite(tmp_path / "g.tif", np.full((8, 8), 65535, dtype=np.uint16))
    assert slide.read_overview(tmp_path / "g.tif").pixels.min() == 255
    imsave(tmp_path / "a.png", np.full((8, 8, 4), 9, dtype=np.uint8), check_contrast=False)
    assert slide.read_overview(tmp_path / "a.png").pixels.shape == (8, 8, 3)


def test_pictures_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.gif2").write_bytes(b"")
    (tmp_path / "a.svs").write_bytes(b"")
    (tmp_path / "a.tif").write_bytes(b"no tiff")
    for name in ("openslide", "tiffslide"):
        monkeypatch.setitem(sys.modules, name, None)
    for name, words in (
        ("a.gif2", "not a format of pictures"),
        ("a.svs", "pip install openslide"),
        ("a.tif", "tifffile cannot read it"),
        ("b.png", "there is no picture"),
    ):
        with pytest.raises(InputError, match=words):
            slide.read_overview(tmp_path / name)
