"""Sizes and orders against the library's own functions, and what is refused."""

import importlib

import numpy as np
import pytest
import tiny_vision as tv
import torch

from probe.errors import InputError, ModelError
from probe.families.vision import FAMILIES, TEXTS, anyres, fixed, idefics, image_tokens, patches, qwen
from probe.families.vision._canvas import Canvas, between_edges, longest_edge, shortest_edge
from probe.families.vision._settings import Settings, read


def sizes(count=400, most=1500, seed=0):
    generator = np.random.default_rng(seed)
    return [(int(h), int(w)) for h, w in np.exp(generator.uniform(1, np.log(most), (count, 2))).round()]


def module(name):
    return importlib.import_module(f"transformers.{name}")


def test_edges_are_rounded_as_the_library_does():
    library = module("image_transforms")
    big = module("models.idefics3.image_processing_pil_idefics3").get_resize_output_image_size
    for n, size in enumerate(sizes()):
        image = np.broadcast_to(np.uint8(0), (1, *size))
        edge = 7 + 13 * (n % 90)
        own = library.get_resize_output_image_size(
            image, edge, default_to_square=False, input_data_format="channels_first"
        )
        assert shortest_edge(size, edge) == own
        assert between_edges(size, edge, 2 * edge) == library.get_size_with_aspect_ratio(size, edge, 2 * edge)
        assert longest_edge(size, edge, 4096) == big(image, edge)
        assert longest_edge(size, 4 * edge + 3000, 4096) == big(image, 4 * edge + 3000)


def test_qwens_sizes_are_those_of_the_library():
    picture = module("models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    film = module("models.qwen3_vl.video_processing_qwen3_vl").smart_resize
    for n, size in enumerate(sizes()):
        if max(size) / min(size) > 200:
            continue
        factor, least, most = 2 * (2 + n % 15), 56 * 56, 28 * 28 * (20 + 40 * (n % 30))
        assert qwen.fitted(size, factor, least, most) == picture(*size, factor, least, most)
        frames = 2 + n % 17
        stated = {"patch_size": factor // 2, "merge_size": 2, "temporal_patch_size": 2, "do_resize": True}
        stated |= {"size": {"shortest_edge": least, "longest_edge": most}, "cap_pixels_per_frame": False}
        cut = qwen._Shape(factor // 2, 2, 2, 0)
        own = qwen._video_goals(size, frames, Settings("Qwen3VLVideoProcessor", None, stated), cut)
        assert own == [film(frames, *size, 2, factor, least, most)]


def test_capped_videos_have_the_librarys_size():
    processor = module("models.qwen3_vl.video_processing_qwen3_vl").Qwen3VLVideoProcessor
    for frames, size in zip([2, 5, 8, 40, 300] * 12, sizes(60, 900, 3), strict=True):
        if max(size) / min(size) > 150:
            continue
        real = processor(
            patch_size=4, size={"shortest_edge": 500, "longest_edge": 90_000}, max_video_tokens=20
        )
        stated = {**real.to_dict(), "cap_pixels_per_frame": True}
        goals = qwen._video_goals(
            size, frames, Settings("Qwen3VLVideoProcessor", None, stated), qwen._Shape(4, 2, 2, 0)
        )
        count = real.get_num_of_video_patches(frames, *size, {"cap_pixels_per_frame": True})
        assert [(frames + 1) // 2 * h * w // 16 for h, w in goals] == [count]


def test_capped_videos_of_qwen2_have_the_librarys_size():
    names = ("smart_resize", "resize")
    _, resize = tv.source_of("qwen2_vl/video_processing_qwen2_vl.py", *names)
    size_dict = module("image_utils").SizeDict

    class Seen:
        max_video_tokens = 300

        def resize(self, image, size, resample):
            return size.height, size.width

    resize.__globals__.update({"super": Seen, "SizeDict": size_dict})
    pixels = {"shortest_edge": 500, "longest_edge": 30_000}
    for frames, size in zip([2, 5, 8, 40, 300] * 12, sizes(60, 900, 3), strict=True):
        if max(size) / min(size) > 150:
            continue
        video = torch.empty(1, frames, 3, *size, device="meta")
        real = resize(Seen(), video, size_dict(**pixels), None, 8, 2, cap_pixels_per_frame=True)
        stated = {"size": pixels, "cap_pixels_per_frame": True, "max_video_tokens": 300}
        goals = qwen._video_goals(
            size, frames, Settings("Qwen2VLVideoProcessor", None, stated), qwen._Shape(4, 2, 2, 0)
        )
        assert goals == [real]


def test_a_video_whose_cap_is_left_open_is_decided_by_its_grid():
    stated = {"size": {"shortest_edge": 64, "longest_edge": 90_000}, "max_video_tokens": 4}
    open_, capped, free = (
        qwen._video_goals(
            (200, 300),
            8,
            Settings("Qwen3VLVideoProcessor", None, {**stated, **more}),
            qwen._Shape(4, 2, 2, 0),
        )
        for more in ({}, {"cap_pixels_per_frame": True}, {"cap_pixels_per_frame": False})
    )
    assert capped != free
    assert open_ == sorted(capped + free)


def test_llava_nexts_choices_are_those_of_the_library():
    library, model = module("image_processing_utils"), module("models.llava_next.modeling_llava_next")
    choices = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    for size in [*sizes(300), (336, 336), (672, 672), (1, 1), (24, 48)]:
        best = anyres.best_resolution(size, choices)
        assert best == tuple(library.select_best_resolution(size, choices))
        image = np.broadcast_to(np.uint8(0), (1, *size))
        assert anyres.fitted(size, best) == library.get_patch_output_size(image, best, "channels_first")
        grid = np.arange(best[0] // 14 * (best[1] // 14)).reshape(best[0] // 14, best[1] // 14)
        kept = model.unpad_image(torch.from_numpy(grid)[None], size)[0].numpy()
        assert np.array_equal(anyres.unpadded(grid, size), kept)


def test_windows_come_in_the_librarys_order():
    library = module("vision_utils")
    for high, wide in [(2, 2), (4, 6), (18, 10), (6, 34), (16, 16), (30, 2)]:
        for side in (1, 2, 4, 5):
            grid = torch.tensor([[2, high, wide]])
            index, _ = library.get_vision_window_index(grid, 2, side * 2 * 7, 7)
            order = qwen.tower_order((high, wide), 2, 0).reshape(-1, 4)
            both = np.concatenate([order, order + high * wide])[index.numpy()].ravel()
            own = qwen.tower_order((high, wide), 2, side)
            assert np.array_equal(both, np.concatenate([own, own + high * wide]))


def test_idefics_makes_the_librarys_number_of_squares():
    real = tv.pil("idefics3.Idefics3ImageProcessorPil")
    settings = read(real, "image_processor", idefics.KINDS)
    for size in sizes(300, 5000):
        count, rows, columns = real.get_number_of_image_patches(*size)
        own = idefics.squares(size, settings)
        assert len(own) == max(1, count)
        assert {canvas.shape for _, canvas in own} == {(364, 364)}
        corners = [canvas.origin for tile, canvas in own if tile >= 0]
        assert (len({y for y, _ in corners}), len({x for _, x in corners})) == (rows, columns)
        assert corners == sorted(corners)


def test_a_canvas_is_exact():
    canvas = Canvas.of((100, 50)).resized((30, 15)).cut(-3, 2, (36, 10)).resized((72, 20))
    grid = canvas.grid(6)
    assert grid.shape == (12, 3)
    assert grid.y.tolist() == [-10.0 + 10 * n for n in range(13)]
    assert grid.share_y.tolist() == [0.0, *[1.0] * 10, 0.0]
    np.testing.assert_allclose(grid.x, [20 / 3 + 10 * n for n in range(4)], rtol=1e-15)


def test_every_text_family_is_a_family():
    assert set(TEXTS) <= set(FAMILIES)


def llava(size=(60, 100)):
    case = tv.CASES["llava"]
    images = tv.image_processor(case, 3)
    return tv.model(case).config, tv.inputs_of(case, images, [tv.noise(size, 0)]), images


def test_settings_may_come_in_any_form():
    case = tv.CASES["llava"]
    config, inputs, images = llava()
    forms = [images, images.to_dict(), tv.full_processor(case, images), {"image_processor": images.to_dict()}]
    tables = [image_tokens(config, inputs["input_ids"], inputs, [(60, 100)], form) for form in forms]
    assert all(table.identical(tables[0]) for table in tables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [(60, 101), (60, 100)]}, "got 1 pictures, expected 2"),
        ({"images": [(60,)]}, r"expected \(height, width\)"),
        ({"images": [(60, 0)]}, r"expected \(height, width\)"),
        ({"images": []}, "got no sizes"),
        ({"settings": None}, "expected the image_processor"),
        (
            {"settings": {"image_processor_type": "CLIPImageProcessor", "do_resize": True}},
            "lack size, do_center_crop",
        ),
        ({"drop": "pixel_values"}, "expected pixel_values"),
        ({"ids": torch.zeros(1, 5, dtype=torch.long)}, "got 0 image tokens"),
        ({"ids": torch.full((1, 17), 4)}, "got 17 image tokens"),
        ({"ids": torch.full((2, 8), 4)}, "lie in two prompts"),
        (
            {"set": {"size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}}},
            "comes out of this processor",
        ),
        ({"set": {"size": 26}}, "expected sides by name"),
        ({"set": {"size": {"shortest_edge": 13}}}, "pads one side by one more"),
    ],
)
def test_contradictions_are_refused(change, message):
    config, inputs, images = llava()
    settings = (
        {**images.to_dict(), **change.get("set", {})} if "set" in change else change.get("settings", images)
    )
    inputs.pop(change.get("drop"), None)
    with pytest.raises(InputError, match=message):
        image_tokens(
            config,
            change.get("ids", inputs["input_ids"]),
            inputs,
            change.get("images", [(60, 100)]),
            settings,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "pixtral"}, "pixtral: where its image tokens come from is not known"),
        ({"model_type": "clip"}, "its text holds no image tokens"),
        ({"model_type": "whisper"}, "its text holds no image tokens"),
        ({"vision_feature_select_strategy": "some"}, "expected default or full"),
        ({"tower": "pixtral"}, "vision tower 'pixtral'"),
        ({"patch_size": (6, 3)}, "only squares are supported"),
        (
            {"settings": {"image_processor_type": "BlipImageProcessor"}},
            "BlipImageProcessor: where its pixels come from",
        ),
        ({"set": {"size": {"max_height": 30, "max_width": 30}}}, "is not supported"),
        ({"image_sizes": torch.tensor([[24, 24]])}, "image_sizes splits"),
    ],
)
def test_what_is_not_known_exactly_is_refused_by_name(change, message):
    config, inputs, images = llava()
    settings = (
        {**images.to_dict(), **change.pop("set")} if "set" in change else change.pop("settings", images)
    )
    if "image_sizes" in change:
        inputs["image_sizes"] = change.pop("image_sizes")
    names = {"tower": "model_type", "patch_size": "patch_size"}
    for name, value in change.items():
        owner = config.vision_config if name in names else config
        owner.__dict__[names.get(name, name)] = value
        if name == "model_type":
            owner.__class__ = type("Other", (type(owner),), {"model_type": value})
        if name == "tower":
            owner.__class__ = type("Other", (type(owner),), {"model_type": value})
    with pytest.raises(ModelError, match=message):
        image_tokens(config, inputs["input_ids"], inputs, [(60, 100)], settings)


def test_llava_nexts_contradictions_are_refused():
    case = tv.CASES["llava-next"]
    images, config = tv.image_processor(case, 3), tv.model(case).config
    inputs = tv.inputs_of(case, images, [tv.noise((60, 100), 0)])

    def refused(kind, message, images_=((60, 100),), settings=images, **more):
        with pytest.raises(kind, match=message):
            image_tokens(config, inputs["input_ids"], {**inputs, **more}, images_, settings)

    refused(InputError, "image_sizes: got", [(61, 100)])
    refused(InputError, "pixel_values: got", pixel_values=inputs["pixel_values"][:, :2])
    refused(
        InputError, "the processor takes", settings={**images.to_dict(), "image_grid_pinpoints": [[24, 24]]}
    )
    refused(
        ModelError, "only equal ones", settings={**images.to_dict(), "crop_size": {"height": 12, "width": 12}}
    )
    refused(ModelError, "set vision_feature_select_strategy", vision_feature_select_strategy="full")


def test_idefics_contradictions_are_refused():
    case = tv.CASES["idefics3"]
    images, config = tv.image_processor(case, 3), tv.model(case).config
    inputs = tv.inputs_of(case, images, [tv.noise((60, 100), 0)])
    dark = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    dark["pixel_values"][:, 1] = 0
    masked = {**inputs, "pixel_attention_mask": inputs["pixel_attention_mask"].clone()}
    masked["pixel_attention_mask"][:, 0, 40:] = 0
    for given, size, message in (
        (dark, (60, 100), "not all zero"),
        (inputs, (60, 10), "not all zero"),
        (masked, (60, 100), "padding inside a square"),
    ):
        with pytest.raises(InputError, match=message):
            patches(config, given, [size], images)
    with pytest.raises(InputError, match="expected squares of 24"):
        patches(config, inputs, [(60, 100)], {**images.to_dict(), "max_image_size": {"longest_edge": 24}})


def test_qwens_contradictions_are_refused():
    case = tv.CASES["qwen2.5-vl"]
    images, config = tv.image_processor(case, 3), tv.model(case).config
    inputs = tv.inputs_of(case, images, [tv.noise((60, 100), 0), tv.noise((40, 40), 0)])
    good = [(60, 100), (40, 40)]

    def refused(kind, message, sizes=good, settings=images, **more):
        with pytest.raises(kind, match=message):
            image_tokens(config, inputs["input_ids"], {**inputs, **more}, sizes, settings)

    image_tokens(config, inputs["input_ids"], inputs, good, images)
    refused(InputError, "grid_thw: got", [(60, 100), (40, 80)])
    refused(InputError, "image_grid_thw: got", [(60, 100)])
    refused(InputError, "video_grid_thw: got", [*good, (4, 40, 40)])
    refused(InputError, "patches, expected", pixel_values=inputs["pixel_values"][:-1])
    refused(InputError, "expected the model's 4", settings={**images.to_dict(), "patch_size": 8})
    refused(ModelError, "overrides the order", image_window_index=torch.arange(4))
    refused(
        ModelError, "SmolVLMImageProcessorPil: where", settings=tv.pil("smolvlm.SmolVLMImageProcessorPil")
    )
    swapped = inputs["image_grid_thw"].flip(0)
    refused(InputError, "grid_thw: got", image_grid_thw=swapped)


def test_sizes_in_another_order_than_the_prompt_are_refused():
    case = tv.CASES["qwen2-vl"]
    images, config = tv.image_processor(case, 3), tv.model(case).config
    film = np.stack([tv.noise((40, 70), t) for t in range(4)])
    still = tv.inputs_of(case, images, [tv.noise((60, 100), 0)])
    video, settings = tv.video_inputs(case, "qwen2-vl", [film])
    ids = torch.cat([video["input_ids"], still["input_ids"]], 1)
    inputs = {**still, **video, "input_ids": ids}
    settings = {**settings, "image_processor": images.to_dict()}
    image_tokens(config, ids, inputs, [(4, 40, 70), (60, 100)], settings)
    with pytest.raises(InputError, match="another order"):
        image_tokens(config, ids, inputs, [(60, 100), (4, 40, 70)], settings)


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_an_odd_padding_lies_where_each_backend_puts_it(backend):
    """PIL's side is proven in test_geometry_towers (clip-padded); torchvision's by its own words: half, rounded down, first."""
    settings = Settings("CLIPImageProcessor", backend, {"crop_size": {"height": 8, "width": 8}})
    canvas = fixed.cropped(Canvas.of((5, 8)), settings)
    assert -canvas.origin[0] == (2 if backend == "pil" else 1)
