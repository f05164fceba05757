"""The rectangles of a tower's positions, read off colours that real processors and real towers carry."""

import numpy as np
import pytest
import tiny_vision as tv
import torch

from probe.families.vision import patches

SIZES = [
    [(40, 70), (90, 31)],
    [(24, 24)],
    [(200, 21)],
    [(21, 200)],
    [(17, 150), (33, 50), (64, 64)],
    [(9, 7)],
    [(46, 128), (128, 45)],  # Idefics: one more row of tiles after the second rounding
]
LARGE = [[(200, 350), (360, 124)], [(68, 600), (166, 250), (320, 320)]]
BILINEAR, BOX = 2, 4


@pytest.fixture(scope="module", params=list(tv.CASES))
def case(request):
    return tv.CASES[request.param]


@pytest.fixture(scope="module")
def coloured(case):
    net = tv.model(case)
    tv.only_colours(net, case)
    return net


def colours(net, case, images, arrays):
    inputs = tv.inputs_of(case, images, arrays)
    caught = [x if x.ndim == 3 else x[None] for x in tv.seen(net, *case.embeddings, inputs)]
    return inputs, torch.cat(caught)[..., :3].double().numpy()


def steps(table, net, case):
    """Pixels of the original per pixel of the canvas, [S, N] for y and x."""
    side = net.get_submodule(case.flatten).weight.shape[-1]
    return [((table[f"{a}1"] - table[f"{a}0"]) / side).values for a in "yx"]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_ramps_give_the_place_of_every_patch(case, coloured, sizes):
    images = tv.image_processor(case, BILINEAR)
    inputs, got = colours(coloured, case, images, [tv.ramps(size) for size in sizes])
    table = patches(coloured.config, inputs, sizes, images)
    assert got.shape[:2] == table["x0"].shape
    number, compared = table["image"].values, []
    whole_cells = table["inside"].values == 1
    for axis, name, channel, step in zip((0, 1), "yx", (1, 0), steps(table, coloured, case), strict=True):
        whole = np.array([size[axis] for size in sizes])[number]
        # Beyond the picture there is nothing to interpolate with: half a pixel of each resize is flat there.
        first = np.array([max(size) / case.first if case.first else 0.5 for size in sizes])[number]
        low, high = (table[f"{name}{end}"].values for end in (0, 1))
        free = (low > step + first) & (high < whole - step - first) & whole_cells
        error = np.abs(got[..., channel] * whole - (low + high) / 2)
        # ½/255 of the ramp for each of two roundings to whole numbers, and a tenth of a pixel of the canvas
        assert (error <= whole / 255 + 0.1 * step)[free].all()
        compared.append(int(free.sum()))
    assert any(compared) or whole_cells.sum() <= 4  # none lies free of the border
    cells = table["role"].values == "patch"
    assert (
        np.abs(got[..., 2] - table["inside"].values)[cells].max() < 0.004
    )  # blue is 255 in the picture, 0 in padding
    assert not np.isfinite(table["x0"].values[~cells]).any()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_coloured_rectangle_lies_in_the_patches_that_it_overlaps(case, coloured, sizes):
    images = tv.image_processor(case, BILINEAR)
    generator = np.random.default_rng(len(sizes) + sizes[0][0])
    for _ in range(3):
        arrays = [np.full((*size, 3), 51, dtype=np.uint8) for size in sizes]
        number = int(generator.integers(len(sizes)))
        height, width = sizes[number]
        top, left = int(generator.integers(height // 2 + 1)), int(generator.integers(width // 2 + 1))
        bottom = int(generator.integers(top + max(1, height // 4), height + 1))
        right = int(generator.integers(left + max(1, width // 4), width + 1))
        arrays[number][top:bottom, left:right] = 255
        inputs, got = colours(coloured, case, images, arrays)
        table = patches(coloured.config, inputs, sizes, images)
        cells = (table["role"].values == "patch") & (table["inside"].values == 1)
        share = (got[..., 2] - 0.2) / 0.8
        overlap, near = cells & (table["image"].values == number), cells & (table["image"].values == number)
        for name, step, a, b in zip(
            "yx", steps(table, coloured, case), (top, left), (bottom, right), strict=True
        ):
            reach = step + 0.5 + (max(sizes[number]) / case.first if case.first else 0)
            low, high = (table[f"{name}{end}"].values for end in (0, 1))
            overlap &= (low + reach < b) & (a < high - reach)  # at least `reach` of it in either direction
            overlap &= np.minimum(high, b) - np.maximum(low, a) >= reach
            near &= (low - reach < b) & (a < high + reach)
        assert (share[overlap] > 0.02).all()
        assert (np.abs(share[cells & ~near]) < 1e-6).all()


@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_changed_pixels_change_exactly_the_predicted_positions(case, sizes):
    net, images = tv.model(case), tv.image_processor(case, BOX)
    arrays = [tv.noise(size, seed) for seed, size in enumerate(sizes)]
    inputs = tv.inputs_of(case, images, arrays)
    table = patches(net.config, inputs, sizes, images)
    side = net.get_submodule(case.flatten).weight.shape[-1]
    before = joined(tv.seen(net, case.layers, "input", inputs))
    assert before.shape[:2] == table["x0"].shape
    places = np.argwhere(table["inside"].values == 1)
    np.random.default_rng(0).shuffle(places)
    tried = 0
    for place in map(tuple, places[:400]):
        number = int(table["image"][place])
        found = tv.region_of(table, place, sizes[number], side, case.first)
        if found is None:
            continue
        must, may = tv.touched(table, number, *found, sizes[number], side, case.first)
        if must != may or place not in must:
            continue
        other = [tv.flipped(a, *found) if n == number else a for n, a in enumerate(arrays)]
        after = joined(tv.seen(net, case.layers, "input", tv.inputs_of(case, images, other)))
        assert set(tv.changed(before, after)) == must
        tried += 1
        if tried == 5:
            break
    assert tried >= 2


OWN = {
    "vit": {"cls": "cls_token"},
    "deit": {"cls": "cls_token", "distillation": "distillation_token"},
    "dinov2": {"cls": "cls_token"},
    "dinov2-registers": {"cls": "cls_token", "register": "register_tokens"},
    "clip": {"cls": "class_embedding"},
    "siglip": {},
}


@pytest.mark.parametrize("name", OWN)
def test_positions_without_a_place_are_the_models_own_vectors(name):
    case = tv.CASES[name]
    net, images = tv.model(case), tv.image_processor(case, BOX)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "position_embedding" in key:
                parameter.zero_()
    inputs = tv.inputs_of(case, images, [tv.noise((40, 70), 0), tv.noise((70, 30), 1)])
    table = patches(net.config, inputs, [(40, 70), (70, 30)], images)
    embedded = joined(tv.seen(net, *case.embeddings, inputs))
    role = np.array(table["role"].values, dtype=object)
    assert set(role.ravel()) == {"patch", *OWN[name]}
    for kind, parameter in OWN[name].items():
        own = net.get_submodule(case.embeddings[0]).get_parameter(parameter).reshape(-1, embedded.shape[-1])
        for sample in range(2):
            assert torch.equal(embedded[sample, role[sample] == kind], own)


def joined(caught):
    return torch.cat([x if x.ndim == 3 else x[None] for x in caught])
