"""Numbers and names in plain English."""

import pytest

from probe.explainers.wording import in_words, listing, ordinal, percent, plural, probability, quoted, signed


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (probability, 0.0, "0.00"),
        (probability, 0.004, "under 0.01"),
        (probability, 0.987, "0.99"),
        (probability, 0.9951, "over 0.99"),
        (probability, 1.0, "1.00"),
        (percent, 0.0, "0%"),
        (percent, 0.0049, "under 1%"),
        (percent, 0.125, "12%"),
        (percent, 0.996, "over 99%"),
        (percent, 0.9999999999999999, "100%"),
        (percent, 1e-17, "0%"),
        (signed, 2.314, "+2.31"),
        (signed, -0.0312, "−0.031"),
        (ordinal, 3, "third"),
        (ordinal, 12, "twelfth"),
        (ordinal, 13, "13th"),
        (ordinal, 21, "21st"),
        (ordinal, 112, "112th"),
        (in_words, 3, "three"),
        (in_words, 1234, "1,234"),
        (quoted, " film ", "“film”"),
        (quoted, "  ", "“␣␣”"),
        (quoted, "a\tb", "“a⇥b”"),
        (quoted, "\x16", "“\\x16”"),
        (listing, [], ""),
        (listing, ["a"], "a"),
        (listing, ["a", "b", "c"], "a, b and c"),
    ],
)
def test_each_form(function, value, text):
    assert function(value) == text


def test_plural_forms():
    assert [plural(n, "text") for n in (0, 1, 2, 1200)] == ["0 texts", "1 text", "2 texts", "1,200 texts"]
    assert plural(2, "entropy", "entropies") == "2 entropies"
