"""Pictures of every kind are read as a viewer shows them, and prepared as the network was trained to see them."""

import numpy as np
import pytest
import torch
from PIL import Image

from probe import InputError
from probe._pictures import PictureProcessor, read_picture
from probe.nets import processor_of

RED = (200, 30, 20)


def halves(size=(40, 20)):
    """Left half red, right half blue."""
    picture = Image.new("RGB", size, (10, 20, 200))
    picture.paste(RED, (0, 0, size[0] // 2, size[1]))
    return picture


def near(found, wanted, at, slack=12):
    return np.abs(np.array(found.getpixel(at)) - wanted).max() <= slack


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "tif", "gif"])
def test_every_format(tmp_path, kind):
    halves().save(tmp_path / f"a.{kind}")
    found = read_picture(tmp_path / f"a.{kind}")
    assert (found.mode, found.size) == ("RGB", (40, 20))
    assert near(found, RED, (5, 10), 20)


def test_a_rotated_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to be seen upright
    halves().save(tmp_path / "a.jpg", exif=exif)
    found = read_picture(tmp_path / "a.jpg")
    assert found.size == (20, 40)
    assert near(found, RED, (10, 5), 20)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert read_picture(opened) == found


def test_transparent_parts_lie_over_white(tmp_path):
    picture = halves().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((40, 20)).point(lambda v: 255 if v > 128 else 0))
    picture.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert near(found, (255, 255, 255), (5, 1))
    assert near(found, RED, (5, 18))


def test_grey_palette_cmyk_and_16_bits(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 30).astype(np.uint16), (10, 1))
    for name, picture in {
        "grey.png": Image.fromarray((ramp >> 8).astype(np.uint8)),
        "deep.png": Image.fromarray(ramp),
        "palette.png": halves().quantize(4),
        "cmyk.jpg": halves().convert("CMYK"),
    }.items():
        picture.save(tmp_path / name)
    for name in ("grey.png", "deep.png"):
        found = np.asarray(read_picture(tmp_path / name)).astype(int)
        assert np.abs(found[0, :, 0] - np.linspace(0, 255, 30)).max() <= 1, name
        assert (found[..., 0] == found[..., 2]).all()
    assert near(read_picture(tmp_path / "palette.png"), RED, (5, 10))
    assert near(read_picture(tmp_path / "cmyk.jpg"), RED, (5, 10), 40)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 7), np.uint8),
        np.zeros((5, 7, 1), np.uint16),
        np.zeros((5, 7, 3), np.float32),
        np.ones((5, 7, 4)),
    ],
)
def test_arrays(array):
    assert read_picture(array).size == (7, 5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 7, 2), np.uint8), r"got uint8 \(5, 7, 2\)"),
        (np.zeros((0, 7), np.uint8), "expected"),
        (np.full((5, 7), 255.0), r"floats must lie in \[0, 1\]"),
        (np.zeros((5, 7), np.int64), "got int64"),
        (np.zeros((5, 7), np.uint32), "got uint32, expected uint8"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        read_picture(array)


def test_damaged_files_are_one_line(tmp_path):
    halves((400, 300)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "floats.tif")
    for name, message in {
        "cut.jpg": "is damaged", "text.png": "is no picture", "empty.png": "is no picture",
        "floats.tif": "floats of unknown range",        "none.png": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is a folder"):
        read_picture(tmp_path)


def test_a_huge_picture_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    halves().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="pixels: make it smaller first"):
        read_picture(tmp_path / "a.png")


def test_the_middle_square_of_the_shorter_side():
    processor = PictureProcessor(224, (0, 0, 0), (1, 1, 1), 256)
    left, top, right, bottom = processor.box(512, 256)
    assert (left, top, right, bottom) == (144, 16, 368, 240)
    view = processor.view(halves((512, 256)))
    assert view.shape == (224, 224, 3)
    assert np.abs(view[112, 4] - np.array(RED)).max() < 3
    assert np.abs(view[112, 220] - np.array((10, 20, 200))).max() < 3


def test_the_whole_picture_stretched_or_padded():
    stretch = PictureProcessor(100, (0, 0, 0), (1, 1, 1), 100, "stretch")
    assert stretch.view(halves()).shape == (100, 100, 3)
    pad = PictureProcessor(100, (0, 0, 0), (1, 1, 1), 100, "pad")
    assert pad.place(40, 20) == (0, 25, 100, 75)
    view = pad.view(halves())
    assert (view[:25] == 0).all()
    assert (view[75:] == 0).all()
    assert np.abs(view[50, 5] - np.array(RED)).max() < 3


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (2000, 30)])
def test_tiny_and_narrow_pictures(size):
    for name in ("efficientnet-lite0", "mtcnn-onet"):
        x = processor_of(name)(Image.new("RGB", size, RED))["pixel_values"]
        assert x.shape == (1, 3, *[processor_of(name).size] * 2)
        assert torch.isfinite(x).all()


def test_the_range_of_the_colours():
    """TensorFlow's (v − 127) / 128 up to rounding; with ImageNet's own numbers 12 points of top-1 are lost, silently."""
    grey = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    found = processor_of("efficientnet-lite0").prepared(grey)[0, 0, 0]
    assert (found - (torch.arange(256) - 127) / 128).abs().max() < 1e-2
    assert found[0] == pytest.approx(-0.498 / 0.502)
    assert found[255] == pytest.approx(1.0)
    for name in ("alexnet", "vgg16", "resnet50"):
        assert processor_of(name).prepared(grey)[0, 0, 0, 0] == pytest.approx(-0.485 / 0.229)
