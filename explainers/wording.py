"""Numbers and names in plain English, worded alike wherever they stand (`_verbalize/language.py` has the rules)."""

from probe.explainers._verbalize.languages.en import LANGUAGE

probability = LANGUAGE.probability
percent = LANGUAGE.percent
signed = LANGUAGE.signed
ordinal = LANGUAGE.ordinal
in_words = LANGUAGE.in_words
quoted = LANGUAGE.quoted
listing = LANGUAGE.listing


def plural(count: int, noun: str, many: str = "") -> str:
    """The noun with its number: "1 token", "2 tokens"."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
