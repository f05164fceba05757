"""The places of pictures and videos in a text, proven by changing pixels and looking at what the language model is given."""

import numpy as np
import pytest
import tiny_vision as tv
import torch

from probe.families.vision import image_tokens, patches

SIZES = [[(200, 350), (360, 124)], [(68, 600), (320, 320)], [(500, 180)]]
QWENS = ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"]
BOX = 4


@pytest.fixture(scope="module")
def models():
    made = {}
    return lambda name: made.setdefault(name, tv.model(tv.CASES[name]))


def merged(net, case, inputs):
    return tv.seen(net, case.text, "input", inputs)[0]


def roles(table):
    return np.array(table["role"].values, dtype=object)


def probe(net, case, table, sizes, run, least=2, most=5):
    """Change the pixels under some tokens; exactly the tokens whose rectangles hold them may change."""
    side = net.get_submodule(case.flatten).weight.shape[-1] * case.merge
    before, tried = run({}), 0
    places = np.argwhere(table["inside"].values > 0)
    np.random.default_rng(1).shuffle(places)
    for place in map(tuple, places[:400]):
        number, frame = (int(table[name].values[place]) for name in ("image", "frame"))
        found = tv.region_of(table, place, sizes[number][-2:], side, case.first)
        if found is None:
            continue
        frame = None if frame < 0 else frame
        must, may = tv.touched(table, number, *found, sizes[number][-2:], side, case.first, frame)
        if must != may or place not in must:
            continue
        assert set(tv.changed(before, run({number: (*found, frame)}))) == must
        tried += 1
        if tried == most:
            break
    assert tried >= least


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", tv.TEXTS)
def test_changed_pixels_change_exactly_the_predicted_tokens(name, sizes, models):
    case, net = tv.CASES[name], models(name)
    images = tv.image_processor(case, BOX)
    arrays = [tv.noise(size, seed) for seed, size in enumerate(sizes)]
    inputs = tv.inputs_of(case, images, arrays)
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, images)
    assert table["x0"].shape == tuple(inputs["input_ids"].shape)

    def run(changes):
        other = [tv.flipped(a, *changes[n][:2]) if n in changes else a for n, a in enumerate(arrays)]
        return merged(net, case, tv.inputs_of(case, images, other))

    probe(net, case, table, sizes, run)
    ids = inputs["input_ids"].numpy()
    place = tv.IDS["<|image_pad|>" if name in QWENS else "<image>"]
    assert set(roles(table)[ids == place]) <= {"patch", "newline", "cls"}
    assert set(roles(table)[ids != place]) <= {
        "",
        "border",
        "position",
        "newline",
        "vision_start",
        "vision_end",
    }
    for text in "abc":
        assert set(roles(table)[ids == tv.IDS[text]]) == {""}


@pytest.mark.parametrize("name", tv.TEXTS)
def test_all_pixels_of_a_picture_change_all_its_tokens_and_no_other(name, models):
    case, net = tv.CASES[name], models(name)
    images, sizes = tv.image_processor(case, BOX), [(60, 100), (100, 60), (30, 90)]
    arrays = [tv.noise(size, seed) for seed, size in enumerate(sizes)]
    inputs = tv.inputs_of(case, images, arrays)
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, images)
    before = merged(net, case, inputs)
    for number in range(3):
        other = [255 - a if n == number else a for n, a in enumerate(arrays)]
        after = merged(net, case, tv.inputs_of(case, images, other))
        own = (table["image"].values == number) & (table["inside"].values > 0)
        assert {tuple(p) for p in np.argwhere(own).tolist()} == set(tv.changed(before, after))


@pytest.mark.parametrize("name", ["llava-next", "llava-next-siglip"])
def test_newlines_are_the_models_own_vector(name, models):
    case, net = tv.CASES[name], models(name)
    sizes = [(60, 100), (100, 33)]
    images = tv.image_processor(case, BOX)
    inputs = tv.inputs_of(case, images, [tv.noise(size, 3) for size in sizes])
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, images)
    same = (merged(net, case, inputs) == net.model.image_newline).all(-1).numpy()
    assert same.any()
    assert ((roles(table) == "newline") == same).all()
    assert (table["image"].values[same] >= 0).all()


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_the_tokens_around_squares_are_named(name, models):
    case, net = tv.CASES[name], models(name)
    sizes = [(60, 100), (20, 20), (100, 33)]
    images = tv.image_processor(case, BOX)
    inputs = tv.inputs_of(case, images, [tv.noise(size, 3) for size in sizes])
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, images)
    ids = inputs["input_ids"].numpy()
    named = {i for token, i in tv.IDS.items() if token.startswith(("<row", "<global"))}
    assert ((roles(table) == "border") == (ids == tv.IDS["<fake_token_around_image>"])).all()
    assert ((roles(table) == "position") == np.isin(ids, list(named))).all()
    assert ((roles(table) == "newline") == (ids == tv.IDS["\n"])).all()
    odd = ids.copy()
    odd[odd == tv.IDS["<fake_token_around_image>"]] = (
        np.arange((ids == tv.IDS["<fake_token_around_image>"]).sum()) + 100
    )
    other = image_tokens(net.config, odd, inputs, sizes, images)
    assert set(roles(other)[roles(other) != "patch"]) == {""}  # not the form of the processor: no names
    assert np.array_equal(other["x0"].values, table["x0"].values, equal_nan=True)


def test_smolvlm_writes_the_same_form_as_idefics3():
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    case = tv.CASES["smolvlm"]
    images = tv.image_processor(case, BOX)
    for size in ((60, 100), (20, 20), (40, 300)):
        inputs = tv.inputs_of(case, images, [tv.noise(size, 0)], text="{}")
        squares = images(tv.noise(size, 0), return_row_col_info=True)
        rows, columns = squares["rows"][0][0], squares["cols"][0][0]
        own = get_image_prompt_string(
            rows, columns, 4, "<fake_token_around_image>", "<image>", "<global-img>"
        )
        assert inputs["input_ids"][0].tolist() == tv.tokenizer()(own)["input_ids"]


@pytest.mark.parametrize("name", ["llava", "llava-next", "smolvlm", "qwen2.5-vl"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_a_batch_share_the_pictures_in_order(name, side, models):
    """Two prompts of different length, the first with two pictures, the second with one."""
    case, net = tv.CASES[name], models(name)
    images, sizes = tv.image_processor(case, BOX), [(60, 100), (100, 60), (90, 90)]
    arrays = [tv.noise(size, seed) for seed, size in enumerate(sizes)]

    def build(arrays):
        parts = [tv.inputs_of(case, images, arrays[:2]), tv.inputs_of(case, images, arrays[2:])]
        width = max(part["input_ids"].shape[1] for part in parts)
        joint = {}
        for key in parts[0]:
            values = [part[key] for part in parts]
            if key in ("input_ids", "attention_mask", "mm_token_type_ids"):
                values = [padded(value, width, side) for value in values]
            elif values[0].ndim >= 4 and values[0].shape[1] != values[1].shape[1]:
                most = max(value.shape[1] for value in values)
                values = [
                    torch.cat([v, v.new_zeros(len(v), most - v.shape[1], *v.shape[2:])], 1) for v in values
                ]
            joint[key] = torch.cat(values)
        return joint

    inputs = build(arrays)
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, images)
    assert {0, 1} == set(table["image"].values[0]) - {-1}
    assert {2} == set(table["image"].values[1]) - {-1}
    before = merged(net, case, inputs)
    for number in range(3):
        other = [255 - a if n == number else a for n, a in enumerate(arrays)]
        own = (table["image"].values == number) & (table["inside"].values > 0)
        assert {tuple(p) for p in np.argwhere(own).tolist()} == set(
            tv.changed(before, merged(net, case, build(other)))
        )


def padded(value, width, side):
    fill = value.new_zeros(len(value), width - value.shape[1])
    return torch.cat([fill, value] if side == "left" else [value, fill], 1)


@pytest.mark.parametrize("name", QWENS)
@pytest.mark.parametrize("frames", [2, 5])
def test_a_changed_frame_changes_its_own_tokens(name, frames, models):
    case, net = tv.CASES[name], models(name)
    sizes = [(frames, 60, 100), (4, 90, 50)]
    arrays = [
        np.stack([tv.noise(size[1:], 10 * n + t) for t in range(size[0])]) for n, size in enumerate(sizes)
    ]
    inputs, settings = tv.video_inputs(case, name, arrays)
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, settings)

    def run(changes):
        other = [array.copy() for array in arrays]
        for number, (start, stop, frame) in changes.items():
            other[number][frame] = tv.flipped(other[number][frame], start, stop)
        return merged(net, case, tv.video_inputs(case, name, other)[0])

    probe(net, case, table, sizes, run, least=4, most=6)
    assert table["frame_end"].values.max() == max(frames, 4)


@pytest.mark.parametrize("name", QWENS)
def test_a_changed_frame_changes_its_own_patches(name, models):
    case, net = tv.CASES[name], models(name)
    sizes = [(5, 120, 200), (4, 180, 100)]
    arrays = [
        np.stack([tv.noise(size[1:], 10 * n + t) for t in range(size[0])]) for n, size in enumerate(sizes)
    ]
    inputs, settings = tv.video_inputs(case, name, arrays)
    table = patches(net.config, inputs, sizes, settings)

    def run(changes):
        other = [array.copy() for array in arrays]
        for number, (start, stop, frame) in changes.items():
            other[number][frame] = tv.flipped(other[number][frame], start, stop)
        return tv.seen(net, case.layers, "input", tv.video_inputs(case, name, other)[0])[0]

    from dataclasses import replace

    probe(net, replace(case, merge=1), table, sizes, run, least=4, most=6)


@pytest.mark.parametrize("name", QWENS)
def test_pictures_and_videos_in_one_prompt(name, models):
    case, net = tv.CASES[name], models(name)
    sizes = [(60, 100), (4, 40, 70), (90, 50)]
    still = [tv.noise(sizes[0], 0), tv.noise(sizes[2], 1)]
    moving = [np.stack([tv.noise(sizes[1][1:], t) for t in range(4)])]

    def build(still, moving):
        images = tv.image_processor(case, BOX)
        first, second = (tv.inputs_of(case, images, [array]) for array in still)
        video, settings = tv.video_inputs(case, name, moving)
        ids = torch.cat([first["input_ids"], video["input_ids"], second["input_ids"]], 1)
        pixels = {key: torch.cat([first[key], second[key]]) for key in ("pixel_values", "image_grid_thw")}
        films = {key: video[key] for key in ("pixel_values_videos", "video_grid_thw")}
        return {**pixels, **films, **tv.qwen_text(ids.tolist())}, {
            "image_processor": images.to_dict(),
            **settings,
        }

    inputs, settings = build(still, moving)
    table = image_tokens(net.config, inputs["input_ids"], inputs, sizes, settings)
    before = merged(net, case, inputs)
    towers = tv.seen(net, case.layers, "input", inputs)
    seen = patches(net.config, inputs, sizes, settings)
    counts = [(seen["role"].values[n] == "patch").sum() for n in (0, 1)]
    assert counts == [len(x) for x in towers]  # the tower is called for the pictures, then for the videos
    assert set(seen["image"].values[0]) - {-1} == {0, 2}
    for number, changed in enumerate(
        [
            ([255 - still[0], still[1]], moving),
            (still, [255 - moving[0]]),
            ([still[0], 255 - still[1]], moving),
        ]
    ):
        own = table["image"].values == number
        after = merged(net, case, build(*changed)[0])
        assert {tuple(p) for p in np.argwhere(own).tolist()} == set(tv.changed(before, after))
