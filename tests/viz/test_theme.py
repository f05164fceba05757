"""Colours: readable text on every token, ends that colour-blind readers tell apart."""

import itertools

import pytest

from probe.viz import theme

# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
DEFICIENCIES = {
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def seen(colour, matrix):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return [min(max(sum(m * c for m, c in zip(row, linear, strict=True)), 0), 1) for row in matrix]


def lab(linear):
    x, y, z = (
        sum(m * c for m, c in zip(row, linear, strict=True)) / white
        for row, white in zip(
            ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)),
            (0.9505, 1, 1.089),
            strict=True,
        )
    )
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("scale", [theme.DIVERGING, theme.TOKEN_SEQUENTIAL])
def test_text_is_readable_on_every_token_colour(scale):
    for step in range(101):
        assert theme.contrast(theme.INK, theme.interpolate(scale, step / 100)) >= 4.5


@pytest.mark.parametrize("name", ["INK", "MUTED", "SUPPORT", "AGAINST", "GOOD", "BAD"])
def test_small_text_is_readable_on_page_and_paper(name):
    for ground in (theme.PAPER, theme.PAGE):
        assert theme.contrast(getattr(theme, name), ground) >= 4.5


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_for_and_against_stay_apart_under_colour_vision_deficiencies(name):
    for part in (0.3, 0.6, 1.0):
        high = theme.token_colour(part, 1.0, signed=True)
        low = theme.token_colour(-part, 1.0, signed=True)
        distance = (
            sum(
                (a - b) ** 2
                for a, b in zip(
                    lab(seen(high, DEFICIENCIES[name])), lab(seen(low, DEFICIENCIES[name])), strict=True
                )
            )
            ** 0.5
        )
        assert distance > 15, (part, high, low)


def test_the_diverging_scale_is_neutral_at_zero_and_clips():
    assert theme.token_colour(0.0, 2.0, signed=True) == theme.NEUTRAL
    assert (
        theme.token_colour(2.0, 2.0, signed=True)
        == theme.DIVERGING[-1][1]
        == theme.token_colour(9.0, 2.0, signed=True)
    )
    assert theme.token_colour(-2.0, 2.0, signed=True) == theme.DIVERGING[0][1]


def test_a_token_without_a_score_has_no_colour():
    assert theme.token_colour(float("nan"), 1.0, signed=True) is None
    assert theme.token_colour(1.0, 0.0, signed=True) is None


def test_the_sequential_scale_darkens_all_the_way():
    shades = [theme.contrast(theme.interpolate(theme.SEQUENTIAL, i / 50), "#000000") for i in range(51)]
    assert all(first > second for first, second in itertools.pairwise(shades))


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_curves_of_one_panel_stay_apart_under_colour_vision_deficiencies(name):
    places = {colour: lab(seen(colour, DEFICIENCIES[name])) for colour in theme.CURVES}
    for one, other in itertools.combinations(places, 2):
        distance = sum((a - b) ** 2 for a, b in zip(places[one], places[other], strict=True)) ** 0.5
        assert distance > 15, (one, other)


@pytest.mark.parametrize("colour", theme.CURVES)
def test_the_names_of_curves_are_readable(colour):
    assert theme.contrast(colour, theme.PAPER) >= 3.3  # bold strokes and a marker stand beside each name
