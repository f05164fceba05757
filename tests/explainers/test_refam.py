"""RefAM: the magnet law, sinks, suppression, roles by position, and the whole path on tiny vision-language models."""

import numpy as np
import pytest
import vlm_cases

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._refam import maps
from probe.explainers._refam.tokens import STOP, locate, word_role


def contrast_and_heat(m, front=2.0, back=0.5, others=1.0, magnet=0.8):
    """Content against background where each place is divided among content, others and m magnets."""
    stack = np.stack([np.exp([front, back]), np.full(2, others), np.full(2, m * np.exp(magnet))])
    content = maps.shares(stack, "text")[0]
    return content[0] / content[1], content[0]


def test_the_magnet_law():
    told = {0: 1.415, 1: 2.058, 2: 2.478, 4: 2.994, 16: 3.897, 1000: 4.470}
    found = {m: contrast_and_heat(m)[0] for m in told}
    assert {m: round(v, 3) for m, v in found.items()} == told
    assert list(found.values()) == sorted(found.values())
    assert contrast_and_heat(1e9)[0] == pytest.approx(np.exp(1.5))
    assert contrast_and_heat(0)[1] == pytest.approx(0.881, abs=5e-4)
    assert contrast_and_heat(2)[1] == pytest.approx(
        np.exp(2) / (np.exp(2) + 1 + 2 * np.exp(0.8))
    )  # falls, to 0.575


def test_magnets_that_match_the_background_leave_the_object_to_the_content():
    cluster = np.repeat(np.arange(4), 25)  # 0 is the object, 1 to 3 are background
    for sharp in (3.0, 6.0, 12.0):
        stack = maps.shares(np.exp(sharp * (np.arange(4)[:, None] == cluster)), "text")
        assert (stack.argmax(0) == cluster).all()
    assert stack[0][cluster > 0].max() < 1e-5
    assert stack[0][cluster == 0].min() > 0.99
    alone = maps.shares(np.exp(sharp * (np.arange(2)[:, None] == cluster)), "text")
    assert alone[0][cluster > 1].min() == 0.5  # without them, half of that background is the content's


def rows(n=30, seed=0):
    a = np.exp(np.random.default_rng(seed).normal(size=(n, n)))
    return a / a.sum(1, keepdims=True)


def test_suppression_keeps_sums_and_ratios():
    a = rows()
    found = maps.suppress(a, [3, 7])
    assert np.allclose(found.sum(1), 1)
    assert (found[:, [3, 7]] == 0).all()
    others = np.delete(np.arange(30), [3, 7])
    assert np.allclose(found[:, others] / found[:, [others[0]]], a[:, others] / a[:, [others[0]]])
    assert (maps.suppress(a, []) == a).all()
    with pytest.raises(InputError, match="all its attention"):
        maps.suppress(np.eye(3), [1])


@pytest.mark.parametrize("proportional", [False, True])
def test_redirection_moves_mass_and_loses_none(proportional):
    a = rows()
    found = maps.redirect(a, [3, 7], [28, 29], proportional=proportional)
    assert np.allclose(found.sum(1), 1)
    assert (found[:, [3, 7]] == 0).all()
    assert (found[:, :3] == a[:, :3]).all()
    gained = found[:, [28, 29]] - a[:, [28, 29]]
    assert np.allclose(gained.sum(1), a[:, [3, 7]].sum(1))
    same = gained[:, 0] / gained[:, 1]
    assert np.allclose(same, a[:, 28] / a[:, 29] if proportional else 1)
    assert (maps.redirect(maps.suppress(a, []), [], []) == a).all()
    with pytest.raises(InputError, match="none of them among"):
        maps.redirect(a, [3], [3])


TEXT, IMAGE = np.arange(8), np.arange(8, 40)


def planted(weight, where=None, noise=0.05, seed=0):
    """A joint map whose text column 5 is `weight` times the others, on all queries or on some."""
    rng = np.random.default_rng(seed)
    a = 1 + noise * rng.random((40, 40))
    a[slice(None) if where is None else where, 5] *= weight
    return a / a.sum(1, keepdims=True)


def test_a_global_sink_is_found_from_its_factor_on():
    for weight in (11, 20, 200):
        assert maps.detect_gas(planted(weight), TEXT, IMAGE).tolist() == [n == 5 for n in range(8)]
    assert not maps.detect_gas(planted(9), TEXT, IMAGE).any()
    assert maps.detect_gas(planted(9), TEXT, IMAGE, factor=5)[5]


def test_what_is_high_on_one_kind_of_query_only_or_in_one_region_is_none():
    for where in (TEXT, IMAGE, np.r_[TEXT, IMAGE[:6]]):
        assert not maps.detect_gas(planted(50, where), TEXT, IMAGE).any()


def test_sinks_follow_their_tokens():
    a, order = planted(50), np.random.default_rng(1).permutation(8)
    full = np.r_[order, IMAGE]
    assert maps.detect_gas(a[np.ix_(full, full)], TEXT, IMAGE).tolist() == (order == 5).tolist()


@pytest.mark.parametrize("first", [0, 2, 4])
def test_the_block_in_which_a_sink_emerges(first):
    flags = np.stack(
        [maps.detect_gas(planted(50 if block >= first else 1), TEXT, IMAGE) for block in range(5)]
    )
    assert maps.emergence(flags)[5] == first
    assert maps.emergence(flags)[0] == 5
    flags[3, 5] = False
    assert maps.emergence(flags)[5] == 4


def test_the_named_side_moves_the_point_there_and_nothing_else():
    y, x = np.mgrid[:21, :41]
    two = sum(np.exp(-((y - 10) ** 2 + (x - c) ** 2) / 8) for c in (10, 30))
    for side, column in (("left", 10), ("right", 30)):
        prior = maps.spatial_prior(f"the {side} circle", two.shape)
        assert abs(np.unravel_index((two * prior).argmax(), two.shape)[1] - column) <= 1
        assert np.ptp(prior, axis=0).max() == 0
    assert maps.spatial_prior("the red circle", two.shape) is None
    np.testing.assert_array_equal(
        maps.spatial_prior("on the left.", (4, 4)), maps.spatial_prior("left", (4, 4))
    )
    middle = maps.spatial_prior("the one in the centre", (5, 5))
    assert np.unravel_index(middle.argmax(), (5, 5)) == (2, 2)


def test_roles_by_word_and_by_position():
    assert not {"left", "right", "top", "bottom", "middle", "on", "no", "not"} & STOP
    found = locate(
        ["user", ":", "▁a", "▁gold", "fish", "▁on", "▁the", "▁right", "▁a", "▁.", "assistant"],
        "a goldfish on the right",
        ["a", "."],
    )
    assert [(n, role) for n, role, _ in found] == [
        (2, "stop"), (3, "content"), (4, "content"), (5, "content"), (6, "stop"), (7, "content"), (8, "magnet"), (9, "magnet"),
    ]  # fmt: skip
    assert [word for *_, word in found][1:3] == ["goldfish", "goldfish"]
    assert word_role(" The") == "stop"
    assert word_role("...") == "stop"
    with pytest.raises(InputError, match="not found among the model"):
        locate(["x"], "circle", [])


def test_which_maps_are_added_up():
    roles = ["stop", "content", "content", "magnet", "special"]
    none = np.zeros(5, bool)
    assert maps.kept_tokens(roles, none, filtered=True)[0].tolist() == [1, 2]
    assert maps.kept_tokens(roles, none, filtered=False)[0].tolist() == [0, 1, 2, 3]
    assert maps.kept_tokens(roles, np.arange(5) == 1, filtered=True)[0].tolist() == [2]
    number, note = maps.kept_tokens(roles, np.isin(np.arange(5), [1, 2]), filtered=True)
    assert number.tolist() == [1, 2]
    assert "all the same" in note
    assert maps.kept_tokens(["stop", "magnet"], none[:2], filtered=True)[0].tolist() == [0]


@pytest.mark.parametrize(
    "name", ["llava-siglip", "llava-next", "paligemma", "smolvlm", "qwen2.5-vl", "qwen3-vl"]
)
def test_the_whole_path_on_real_families(name):
    found = ex.refam(vlm_cases.vlm(name), vlm_cases.scene(), expression="cab", magnets="a d", layers="0")
    assert found["heat"].shape[1:] == (40, 64)
    assert found["role_mass"].sum().item() == pytest.approx(1)
    assert found.attrs["magnets"] == ["a", "d"]
    assert [str(r) for r in found["token_role"].values][:5] == ["content"] * 3 + ["magnet"] * 2
    row, column = found.attrs["point"]
    heat = found["heat"].values[0]
    assert heat[int(row * 40), int(column * 64)] == np.nanmax(heat)
    parts = found["heat"].values[1:].sum(0)
    assert np.allclose(np.nan_to_num(parts), np.nan_to_num(heat), atol=1e-6)


def test_magnets_take_share_from_content_and_a_side_changes_the_heat():
    model, picture = vlm_cases.vlm(), vlm_cases.scene()
    heats = [
        ex.refam(model, picture, expression="cab", magnets=m, layers="0")["heat"].values[0].mean()
        for m in ("none", "a", "a d", "a d e f")
    ]
    assert heats == sorted(heats, reverse=True)
    plain, left = (
        ex.refam(model, picture, expression="left cab", layers="0", magnets="a", spatial=s)
        for s in (False, True)
    )
    assert np.allclose(left["heat"][0], plain["heat"][0] * maps.spatial_prior("left", (40, 64)), rtol=1e-5)
