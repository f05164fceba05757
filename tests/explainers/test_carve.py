"""CARVE on tiny models of real families: exact rows, true geometry, restored models, and pictures of every kind."""

import copy
import io

import numpy as np
import pytest
import torch
import vlm_cases
from PIL import Image

import probe
from probe import explainers as ex
from probe._pictures import read_picture
from probe.errors import InputError, ModelError, ProbeError
from probe.explainers._carve.asking import ask, module_of, prepared, prompt_of
from probe.explainers._carve.build import layers_of
from probe.explainers._carve.grids import surface
from probe.families.vision import image_tokens

SIZES = ((40, 64), (97, 33))
GIVEN = {"ask": "abc", "general": "cab def", "layers": "0", "max_new_tokens": 3}


def truth(model, picture, text, places, dtype):
    """The last row of the prompt from a copy that writes its maps out, [heads, N]."""
    twin, processor = copy.deepcopy(model.model).to(dtype), model.processor
    twin.set_attn_implementation("eager")
    inputs = dict(processor(images=[picture], text=[prompt_of(processor, text, 1)], return_tensors="pt"))
    given = {n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()}
    with torch.no_grad():
        maps = twin(**given, output_attentions=True).attentions
    return maps[0][0, :, -1, places].double().numpy()


@pytest.mark.parametrize("name", vlm_cases.FAMILIES)
def test_rows_are_the_models_own(name):
    model, picture = vlm_cases.vlm(name), Image.fromarray(vlm_cases.scene(40, 64))
    found = ask(model, [picture], "abc", layers=[0], most=2)
    exact, plain = (truth(model, picture, "abc", found.places, d) for d in (torch.float64, torch.float32))
    allowed = 2 * max(abs(plain - exact).max(), np.finfo(np.float32).eps)
    assert abs(found.rows[0, 0] - exact).max() <= allowed
    assert np.ptp(exact) > 0.05 * exact.mean()  # no flat map, in which any row would do


def test_later_steps_are_rows_of_the_answer_as_it_grew():
    model, picture = vlm_cases.vlm("llava"), Image.fromarray(vlm_cases.scene())
    found = ask(model, [picture], "abc", layers=[0], most=3)
    said = "".join(word for word in found.words[:-1])
    steps = len(found.words)
    assert steps > 1
    again = truth(model, picture, "abc" + said, found.places, torch.float64)
    assert abs(found.rows[steps - 1, 0] - again).max() < 1e-5
    assert abs(found.rows[0, 0] - again).max() > 1e-4


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", vlm_cases.FAMILIES)
def test_the_whole_path_runs_on_each_family_and_leaves_it_as_it_was(name, size):
    model = vlm_cases.vlm(name)
    before = {n: p.clone() for n, p in model.model.named_parameters()}
    how = model.model.config.get_text_config()._attn_implementation
    result = ex.carve(model, vlm_cases.scene(*size), steps="all", **GIVEN)
    assert result["focus"].shape == (3, *size)
    assert result.attrs["contrast"]
    assert 0.01 < result["area_size"].sum() <= 0.25
    assert result.attrs["passes"] == 3
    assert (result["question_mass"] > 0).all()
    assert (result["question_mass"] < 1).all()
    assert model.model.config.get_text_config()._attn_implementation == how
    assert all((p == before[n]).all() for n, p in model.model.named_parameters())


@pytest.mark.parametrize("name", ["llava", "llava-next", "smolvlm", "qwen2.5-vl", "qwen3-vl"])
def test_original_and_refined_can_be_shown_together(name):
    found = ex.carve(vlm_cases.vlm(name), vlm_cases.scene(), answer_on="both", **GIVEN)
    assert found.attrs["passes"] == 3
    assert found.attrs["parameters"].count("both") == 1


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", vlm_cases.FAMILIES)
def test_a_bright_token_is_bright_where_it_lies(name, size):
    model, picture = vlm_cases.vlm(name), Image.fromarray(vlm_cases.scene(*size))
    processor = model.processor
    inputs = dict(processor(images=[picture], text=[prompt_of(processor, "abc", 1)], return_tensors="pt"))
    table = image_tokens(model.model.config, inputs["input_ids"], inputs, [size], processor)
    places = np.flatnonzero(table["role"].values[0] == "patch")
    for n in range(0, len(places), 3):
        y, x = (np.array([table[f"{a}{e}"].values[0][places[n]] for e in (0, 1)]) for a in "yx")
        middle = int(y.mean()), int(x.mean())
        if not (y[0] >= 0 and y[1] <= size[0] and x[0] >= 0 and x[1] <= size[1]):
            continue  # a part of it is padding, or was cut away
        map_ = surface(np.eye(len(places))[n], table, places, size, size)
        peak = np.unravel_index(int(np.nanargmax(map_)), size)
        assert y[0] - 1 <= peak[0] <= y[1] + 1
        assert x[0] - 1 <= peak[1] <= x[1] + 1
        assert map_[middle] >= 0.2  # at least a third of the peak where a small whole picture is averaged in
        far = np.ones(size, bool)
        step = (y[1] - y[0] + 1, x[1] - x[0] + 1)
        far[
            max(0, int(y[0] - step[0])) : int(y[1] + step[0]) + 1,
            max(0, int(x[0] - step[1])) : int(x[1] + step[1]) + 1,
        ] = False
        assert np.nan_to_num(map_[far]).max(initial=0) < 1e-9


@pytest.mark.parametrize("lam", [0.0, 1e-8, 1e-2])
def test_one_instruction_twice_is_reported_as_no_contrast(lam):
    """Whatever λ is: beside small weights it alone would make a map that is not flat."""
    same = GIVEN | {"general": GIVEN["ask"]}
    found = ex.carve(vlm_cases.vlm(), vlm_cases.scene(), lam=lam, **same)
    assert not found.attrs["contrast"]
    assert found.sizes["area"] == 0
    assert "refined" not in found
    assert found.attrs["target"] == found.attrs["answer_before"]
    assert "no contrast" in " ".join(map(str, ex.verbalization(found)["text"].values))


def test_layers():
    assert layers_of("auto", 32) == layers_of("20:25", 32) == (20, 21, 22, 23, 24, 25)
    assert layers_of("auto", 28) == (20, 21, 22, 23, 24, 25)
    assert layers_of("auto", 16) == (10, 11, 12)
    assert layers_of("auto", 1) == (0,)
    assert layers_of("3", 4) == (3,)
    for wrong in ("20:25", "1:4", "3:2", "x", "", "1:2:3", "-1"):
        with pytest.raises(InputError, match="layers = "):
            layers_of(wrong, 4)


def test_layers_beyond_the_depth_and_other_wrong_questions_are_refused():
    model, picture = vlm_cases.vlm(), vlm_cases.scene()
    with pytest.raises(InputError, match=r"layers = '20:25', but the model has layers 0 to 0"):
        ex.carve(model, picture, layers="20:25")
    with pytest.raises(InputError, match="ask: got blanks"):
        ex.carve(model, picture, ask="  ", layers="0")
    with pytest.raises(InputError, match=r"expected what probe\.load gives"):
        ex.carve(model.model, picture, layers="0")
    from explainer_cases import classifier

    with pytest.raises(ModelError, match="answers no questions about pictures"):
        ex.carve(classifier(), picture)


def test_a_prompt_without_image_tokens_is_refused(monkeypatch):
    model = copy.copy(vlm_cases.vlm())
    monkeypatch.setattr("probe.explainers._carve.asking.prompt_of", lambda *_: "abc")
    with pytest.raises(ProbeError):
        ex.carve(model, vlm_cases.scene(), **GIVEN)


def saved(picture, kind, **more):
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def kinds(folder):
    """Files of one picture in many forms, with the height and width that a viewer shows."""
    rgb = Image.fromarray(vlm_cases.scene(40, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    made = {
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "alpha.png": saved(rgb.convert("RGBA"), "PNG"),
        "deep.png": saved(deep, "PNG"),
        "turned.jpg": saved(rgb, "JPEG", exif=exif),
        "grey.png": saved(rgb.convert("L"), "PNG"),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
        yield folder / name, (64, 40) if name.startswith("turned") else (40, 64)


def test_pictures_of_every_kind(tmp_path):
    for path, size in kinds(tmp_path):
        found = ex.carve(vlm_cases.vlm(), path, **GIVEN)
        assert found["picture"].shape == (*size, 3), path.name
        assert found.attrs["contrast"], path.name


def test_one_pixel_is_a_picture_too():
    found = ex.carve(vlm_cases.vlm("llava-square"), np.full((1, 1, 3), 200, np.uint8), **GIVEN)
    assert found["focus"].shape == (3, 1, 1)
    assert not found.attrs["contrast"]  # one pixel cannot stand out from itself


def test_a_broken_picture_is_one_clear_error(tmp_path):
    whole = saved(Image.fromarray(vlm_cases.scene()), "PNG")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.png is damaged"):
        ex.carve(vlm_cases.vlm(), tmp_path / "cut.png", **GIVEN)


def test_a_large_picture_is_cut_in_its_own_pixels():
    big = np.zeros((700, 1400, 3), np.uint8)
    big[:, ::2] = 255  # stripes of one pixel, which a cut out of the small map would not hold
    found = ex.carve(vlm_cases.vlm(), big, fill="keep", **GIVEN)
    assert found["focus"].shape[1:] == (256, 512)
    assert found.attrs["contrast"]


def test_the_refined_picture_is_the_box_enlarged_with_black_outside():
    from probe.explainers._carve.build import Found, refined

    picture = Image.fromarray(np.full((80, 120, 3), 200, np.uint8))
    areas = np.zeros((40, 60), np.int16)
    areas[10:20, 10:15] = 1
    found = Found(areas.astype(float), areas, [], (10, 10, 20, 20))
    cut = np.asarray(refined(picture, found, "black"))
    assert cut.shape == (120, 120, 3)  # the larger of the two ratios, as the code does
    assert (abs(cut[:, :50].astype(int) - 200) < 12).all()  # Lanczos swings a little beside an edge
    assert (cut[:, 70:] < 12).all()
    assert (np.asarray(refined(picture, found, "keep")) == 200).all()


def test_the_words_hold_the_numbers_of_the_result():
    found = ex.carve(vlm_cases.vlm(), vlm_cases.scene(), **GIVEN)
    told = dict(
        zip(ex.verbalization(found)["claim"].values, ex.verbalization(found)["value"].values, strict=True)
    )
    assert told["kept"] == pytest.approx(found["area_size"].sum().item())
    inside = found["area_of"].values > 0
    map_ = found["focus"].values[0]
    assert told["why"] == pytest.approx(np.nanmean(map_[inside]) / np.nanmean(map_[~inside]), rel=1e-5)
    assert told["why"] > 1
    assert told["visual_mass"] == pytest.approx(found["question_mass"].mean().item())


def test_the_study_sees_entropy_and_rightness():
    model = vlm_cases.vlm()
    cases = [(vlm_cases.scene(seed=n), "abc", "y" if n % 2 else "never") for n in range(4)]
    found = ex.entropy_study(model, cases, layers="0")
    assert found.sizes["case"] == 4
    assert (found["entropy"] > 0).all()
    assert (found["entropy"] <= np.log(16)).all()
    assert set(found["right"].values[::2]) == {0.0}
    assert all(f"entropy_with_{n}" in found.attrs for n in ("texture", "colour", "right"))


def test_each_word_and_each_layer_has_its_map():
    model = vlm_cases.vlm("paligemma")
    words = ex.image_attention(model, vlm_cases.scene(), ask="abc", max_new_tokens=3)
    answer = ask(model, [Image.fromarray(vlm_cases.scene())], "abc", layers=[0], most=3)
    assert [str(n) for n in words["name"].values] == [
        f"{n + 1}: {w.strip() or w}" for n, w in enumerate(answer.words)
    ]
    assert np.allclose(words["map_mass"], answer.rows.mean(axis=(1, 2)).sum(-1))
    assert np.allclose(words["head_mass"], answer.rows.sum(-1).mean(0))
    layers = ex.image_attention(model, vlm_cases.scene(), ask="abc", by="layer", max_new_tokens=3)
    assert layers["attention"].shape == (1, 40, 64)
    assert np.allclose(layers["attention"].values[0], words["attention"].values.mean(0), atol=1e-7)


def test_the_slider_shows_one_map_at_a_time_and_the_second_answer_has_its_panel():
    from probe import viz

    words = ex.image_attention(vlm_cases.vlm("paligemma"), vlm_cases.scene(), ask="abc", max_new_tokens=3)
    figure = viz.draw(words)
    heats = [t for t in figure.data if t.type == "heatmap"]
    assert [t.visible for t in heats[:-1]] == [True, False, False]
    assert len({t.zmax for t in heats[:-1]}) == 1
    steps = figure.layout.sliders[0].steps
    assert [s.args[1].index(True, 2) - 2 for s in steps] == [0, 1, 2]
    assert all(s.args[1][-1] and s.args[1][0] for s in steps)
    found = ex.carve(vlm_cases.vlm(), vlm_cases.scene(), **GIVEN)
    titles = [a.text for a in viz.draw(found).layout.annotations]
    assert "Asked about again" in titles


def test_between_the_middles_of_tokens_a_map_is_linear_and_exact():
    model, size = vlm_cases.vlm("llava-siglip"), (40, 64)
    found = ask(model, [Image.fromarray(vlm_cases.scene(*size))], "abc", most=1)
    middles = (found.table["x0"].values[0] + found.table["x1"].values[0])[found.places] / 2
    map_ = surface(middles, found.table, found.places, size, size)
    pixels = np.arange(64) + 0.5
    between = (pixels >= middles.min()) & (pixels <= middles.max())
    assert np.allclose(map_[:, between], pixels[between], atol=1e-9)


def test_what_was_loaded_with_a_processor_is_captured_with_its_texts_and_places():
    model = vlm_cases.vlm()
    given, _, places = prepared(*module_of(model), [read_picture(vlm_cases.scene())], "what is it?")
    trace = probe.capture(model, given, images=[(40, 64)])
    token = trace["tokens"].isel(sample=0)
    assert list(np.flatnonzero(token["role"].values == "patch")) == list(places)
    ids = given["input_ids"][0].tolist()
    read = model.processor.tokenizer
    assert str(token["text"].values[-1]).strip() == read.decode([ids[-1]]).strip()
    further, _ = probe.capture_generation(model, given, generate={"max_new_tokens": 2})
    assert further["validity"].attrs["passed"]
    assert str(further["tokens"]["text"].values[0, len(ids) - 1]) == str(token["text"].values[-1])
