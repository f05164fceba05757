"""Values of positions over the picture: right to the pixel."""

import numpy as np
import pytest
import tiny_vision as tv

from probe.errors import InputError
from probe.families.vision import image_tokens, paint, patches


def table_of(name, sizes):
    case = tv.CASES[name]
    net, images = tv.model(case), tv.image_processor(case, 3)
    inputs = tv.inputs_of(case, images, [tv.noise(size, 0) for size in sizes])
    return patches(net.config, inputs, sizes, images), net, inputs, images


def slowly(table, values, size, image, tiles):
    """Each pixel's centre against each rectangle."""
    picture = np.full(size, np.nan)
    boxes = np.stack([table[name].values for name in ("x0", "x1", "y0", "y1", "image", "tile")], -1)
    for *box, number, tile, value in np.concatenate([boxes, values[..., None]], -1).reshape(-1, 7).tolist():
        if number != image or (tile >= 0) != (tiles == "parts"):
            continue
        for y, x in np.ndindex(size):
            if box[0] <= x + 0.5 < box[1] and box[2] <= y + 0.5 < box[3]:
                assert np.isnan(picture[y, x])
                picture[y, x] = value
    return picture


@pytest.mark.parametrize(
    ("name", "tiles"),
    [
        ("clip", "whole"),
        ("clip-padded", "whole"),
        ("qwen2.5-vl", "whole"),
        ("llava-next", "whole"),
        ("llava-next", "parts"),
        ("smolvlm", "whole"),
        ("smolvlm", "parts"),
    ],
)
def test_every_pixel_has_the_value_of_the_patch_over_its_centre(name, tiles):
    sizes = [(13, 29), (23, 11)]
    table, *_ = table_of(name, sizes)
    values = np.random.default_rng(0).normal(size=table["x0"].shape)
    for image, size in enumerate(sizes):
        painted = paint(table, values, size, image=image, tiles=tiles)
        assert painted.shape == size
        assert np.array_equal(painted, slowly(table, values, size, image, tiles), equal_nan=True)


def test_a_resized_picture_is_covered_and_a_cropped_one_is_not():
    whole, *_ = table_of("siglip", [(31, 57)])
    assert np.isfinite(paint(whole, whole["row"].values, (31, 57))).all()
    cut, *_ = table_of("clip", [(31, 57)])
    painted = paint(cut, cut["column"].values, (31, 57))
    assert np.isnan(painted[:, :10]).all()
    assert np.isfinite(painted[15, 20:37]).all()


def test_tokens_of_a_text_can_be_painted():
    _, net, inputs, images = table_of("smolvlm", [(31, 57)])
    tokens = image_tokens(net.config, inputs["input_ids"], inputs, [(31, 57)], images)
    values = np.arange(tokens["x0"].size).reshape(tokens["x0"].shape)
    assert np.isfinite(paint(tokens, values, (31, 57), tiles="parts")).all()


def test_frames_of_a_video_are_painted_one_by_one():
    case = tv.CASES["qwen2-vl"]
    films = [np.stack([tv.noise((40, 70), t) for t in range(5)])]
    inputs, settings = tv.video_inputs(case, "qwen2-vl", films)
    table = patches(tv.model(case).config, inputs, [(5, 40, 70)], settings)
    values = table["frame"].values.astype(float)
    for frame, first in enumerate([0, 0, 2, 2, 4]):
        assert (paint(table, values, (40, 70), frame=frame) == first).all()
    with pytest.raises(InputError, match="one frame of a video"):
        paint(table, values, (40, 70))
    with pytest.raises(InputError, match="no position there"):
        paint(table, values, (40, 70), frame=5)


def test_bad_calls_are_refused():
    table, *_ = table_of("llava-next", [(31, 57)])
    values = np.zeros(table["x0"].shape)
    with pytest.raises(InputError, match="several positions lie on one pixel"):
        paint(table, values, (31, 57))
    with pytest.raises(InputError, match="got shape"):
        paint(table, values[0], (31, 57))
    with pytest.raises(InputError, match="image 1: the table has no position there"):
        paint(table, values, (31, 57), image=1)
