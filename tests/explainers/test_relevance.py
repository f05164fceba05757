"""Relevance of pictures: the planted disc is found, by every method; what is not sound says so; two results side by side."""

import json

import numpy as np
import pytest
import torch
from picture_cases import disc, network, overlay, picture

from probe import InputError, ModelError
from probe import explainers as ex
from probe.explainers._relevance import METHODS
from probe.explainers._relevance.areas import attention_areas
from probe.explainers._relevance.build import blur, shown_part
from probe.explainers._relevance.faithful import stand_in_of
from probe.models import catalog

QUICK = {"faithfulness": False}


def strongest(map_):
    return np.unravel_index(int(np.argmax(map_)), map_.shape)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_disc(method):
    result = ex.relevance(network(), picture(), method=method, **QUICK)
    near = disc(radius=9)
    for number, name in enumerate(("relevance", "sr", "blurred")):
        assert near[strongest(result["relevance"].values[number])], (method, name)
    assert result.attrs["method"] == method
    assert result.attrs["prediction"] == "disc"
    assert np.isfinite(result["relevance"].values).all()
    assert result["relevance"].values[1:].min() >= 0
    assert result["relevance"].values[1:].max() <= 1


def test_the_default_outlines_the_disc_and_the_network_depends_on_it():
    result = ex.relevance(network(), picture())
    assert result.sizes["area"] == 1
    inside = result["area_of"].values == 1
    assert (inside & disc()).sum() > 0.8 * disc().sum()
    assert result["area_share"].values[0] > 0.8
    assert result.attrs["faithfulness"] == "faithful", result.attrs["faithfulness_verdict"]
    words = ex.verbalize(result)
    assert "The network sees “disc”" in words
    assert "in one area, at the top centre" in words or "in one area, at the top right" in words


def test_another_class_by_name_or_number():
    by_name = ex.relevance(network(), picture(), target="Nothing", **QUICK)
    by_number = ex.relevance(network(), picture(), target="0", **QUICK)
    assert by_name.attrs["target"] == by_number.attrs["target"] == "nothing"
    assert by_name.attrs["prediction"] == "disc"
    with pytest.raises(InputError, match=r"target = 'disk' is no output of this model.*near it: disc"):
        ex.relevance(network(), picture(), target="disk")
    with pytest.raises(InputError, match="target = '2' is no output"):
        ex.relevance(network(), picture(), target="2")


def test_the_account_is_always_given_and_an_unsound_map_is_marked():
    result = ex.relevance(network(), picture(), **QUICK)
    account = json.loads(result.attrs["conservation"])
    parts = sum(account[name] for name in ("input", "biases", "stabilisers", "softmax", "pooling"))
    assert parts == pytest.approx(account["output"], rel=1e-3)
    assert result.attrs["sound"] == (0.5 <= result.attrs["conservation_ratio"] <= 1.5)
    unsound = ex.relevance(network(), picture(), target="nothing", **QUICK)
    assert not unsound.attrs["sound"], "its score is a bias alone"
    assert "Not sound" in unsound.attrs["note"]
    assert "it ranks places" in ex.verbalize(unsound)
    gradient = ex.relevance(network(), picture(), method="saliency", **QUICK)
    assert "they do not add up" in ex.verbalize(gradient)


def test_the_options_of_sr_change_sr_alone():
    plain = ex.relevance(network(), picture(), **QUICK)
    for options in (
        {"foci": "off"},
        {"foci": "once"},
        {"patch": "shrinking"},
        {"nearest": 4},
        {"falloff": 0.0},
        {"size": 24},
    ):
        other = ex.relevance(network(), picture(), **QUICK, **options)
        assert not np.array_equal(other["relevance"].values[1], plain["relevance"].values[1]), options
        assert np.array_equal(other["relevance"].values[0], plain["relevance"].values[0])
        assert np.array_equal(other["relevance"].values[2], plain["relevance"].values[2])


def test_a_bare_module_with_a_prepared_tensor():
    x = network().processor(picture())["pixel_values"]
    result = ex.relevance(network().model, x, **QUICK)
    whole = ex.relevance(network(), picture(), **QUICK)
    assert np.allclose(result["relevance"].values, whole["relevance"].values, atol=1e-6)
    for wrong in (
        x[0],
        x.long(),
        torch.full_like(x, torch.nan),
        torch.zeros(1, 3, 4, 3000),
        torch.zeros(2, 3, 8, 8),
    ):
        with pytest.raises(InputError, match="picture"):
            ex.relevance(network().model, wrong)


def test_models_without_pictures_are_refused():
    from explainer_cases import classifier

    with pytest.raises(ModelError, match="a text-classification model takes no pictures"):
        ex.relevance(classifier(), picture())
    with pytest.raises(InputError, match="expected a model from probe"):
        ex.relevance("efficientnet-lite0", picture())
    model = network().model
    model.train()
    try:
        with pytest.raises(ModelError, match="training mode"):
            ex.relevance(network(), picture())
    finally:
        model.eval()


def test_what_goes_into_sr():
    channels = np.stack([np.full((2, 2), v, np.float32) for v in (1.0, -3.0, 1.0)])
    assert (shown_part(channels, True, "sum") == 0).all()
    assert (shown_part(channels, False, "sum") == 1).all()
    assert (shown_part(channels, True, "each") == (1, 0, 1)).all()
    assert (shown_part(channels, False, "each") == (1, 3, 1)).all()


def test_a_blur_keeps_the_place_and_ends_at_one():
    point = np.zeros((31, 31), np.float32)
    point[10, 20] = 5.0
    found = blur(point, 2.0)
    assert strongest(found) == (10, 20)
    assert found.max() == 1.0
    assert found[10, 22] == pytest.approx(np.exp(-0.5), rel=1e-3)
    assert (blur(np.zeros((5, 5), np.float32), 2.0) == 0).all()


def test_areas_in_order_of_their_evidence():
    map_ = np.zeros((40, 40), np.float32)
    map_[2:8, 2:8] = map_[20:30, 20:34] = 1.0
    map_[38, 2] = 1.0  # a speck
    evidence = np.where(map_ > 0, 1.0, -5.0).astype(np.float32)
    evidence[2:8, 2:8] = 10.0
    numbers, areas = attention_areas(map_, evidence)
    assert [(a.top, a.left, a.bottom, a.right) for a in areas] == [(2, 2, 8, 8), (20, 20, 30, 34)]
    assert numbers[3, 3] == 1
    assert numbers[25, 25] == 2
    assert numbers[38, 2] == 0
    assert areas[0].share == pytest.approx(360 / 501)
    assert areas[1].size == pytest.approx(140 / 1600)
    assert attention_areas(np.ones((4, 4), np.float32), evidence[:4, :4])[1] == []


@pytest.mark.parametrize("kind", ["blur", "mean", "inpaint"])
def test_stand_ins_replace_the_masked_part_alone(kind):
    x = network().processor(picture())["pixel_values"]
    mask = torch.from_numpy(disc(radius=8))[None, None]
    found = stand_in_of(x, kind)(mask)
    outside = ~mask.expand_as(x)
    assert torch.equal(found[outside], x[outside])
    inside = mask.expand_as(x)
    assert found[inside].max() < 0.6 * x[inside].max(), "the disc is gone"
    assert found[inside].min() >= x.min() - 1e-6
    everything = stand_in_of(x, kind)(torch.ones_like(mask))
    assert torch.isfinite(everything).all()


def test_a_ramp_is_inpainted_as_a_ramp():
    ramp = torch.linspace(0, 1, 48).expand(1, 1, 48, 48).contiguous()
    mask = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    mask[..., 20:28, 20:28] = True
    assert (stand_in_of(ramp, "inpaint")(mask) - ramp).abs().max() < 0.1


def test_two_classes_side_by_side():
    first = ex.relevance(network(), picture(), **QUICK)
    second = ex.relevance(network(), picture(), method="gradcam", **QUICK)
    both = ex.relevance_contrast(first, second, map_name="blurred")
    assert both["relevance"].shape == (3, 48, 48)
    assert np.allclose(both["relevance"].values[2], both["relevance"].values[0] - both["relevance"].values[1])
    assert [str(n) for n in both["name"].values] == [
        "disc (epsilon_plus)",
        "disc (gradcam)",
        "first − second",
    ]
    assert "first two maps" in ex.verbalize(both)
    with pytest.raises(InputError, match="see different parts"):
        ex.relevance_contrast(first, ex.relevance(network(), picture(30, 10), **QUICK))
    with pytest.raises(InputError, match="expected two results of `relevance`"):
        ex.relevance_contrast(first, both)


def test_words_name_places_sizes_and_shares():
    numbers = np.zeros((30, 60), int)
    numbers[0:6, 48:60], numbers[24:30, 0:6] = 1, 2
    maps = np.where(numbers == 1, 3.0, np.where(numbers == 2, 2.0, -0.5))
    words = ex.verbalize(overlay(maps[None], numbers))
    assert "in two areas: one at the top right (4% of the picture, 75% of the evidence)" in words
    assert "one at the bottom left (2% of the picture, 25% of the evidence)" in words
    assert "Together these areas cover 6% of the picture and hold 100% of the evidence." in words
    assert "The map accounts for 90% of the score; the network's own constants hold 10%." in words
    share = 0.5 * (1800 - 108) / (0.5 * (1800 - 108) + 3 * 72 + 2 * 36)
    assert f"Of all relevance, {100 * share:.0f}% speaks against it." in words


@pytest.mark.real
def test_the_left_eye_of_a_face_lies_where_the_network_looks():
    """O-Net's output "left eye x" has one right place."""
    from skimage import data

    import probe

    if not catalog.is_installed(catalog.find("mtcnn-onet")):
        pytest.skip("mtcnn-onet is not installed: `probe models install mtcnn-onet`")
    loaded = probe.load("mtcnn-onet", device="cpu")
    face = data.astronaut()[60:190, 160:290]
    with torch.no_grad():
        x, y = loaded.model(loaded.processor(face)["pixel_values"])[0, [6, 11]]
    result = ex.relevance(loaded, face, target="left eye x", method="gradcam", positive=False, **QUICK)
    assert result.attrs["prediction"] == "face"
    assert 0.2 < float(x) < 0.5
    assert 0.2 < float(y) < 0.5
