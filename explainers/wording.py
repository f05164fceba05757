"""Numbers and names in plain English, worded alike wherever they stand."""

from collections.abc import Sequence

_SMALL = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

_ORDINALS = (
    *("", "first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)


def probability(value: float) -> str:
    """Two decimals; never "0.00" or "1.00" for what is neither."""
    if 0 < value < 0.005:
        return "under 0.01"
    if 0.995 <= value < 1:
        return "over 0.99"
    return f"{value:.2f}"


def percent(share: float) -> str:
    """A share in whole percent; "under 1%" for what is not zero."""
    share = round(share, 9)  # sums of shares miss 0 and 1 by rounding
    if 0 < share < 0.005:
        return "under 1%"
    if 0.995 <= share < 1:
        return "over 99%"
    return f"{100 * share:.0f}%"


def signed(value: float) -> str:
    """A number with its sign, as many decimals as three digits take."""
    decimals = 2 if abs(value) >= 0.095 else 3
    return f"{value:+.{decimals}f}".replace("-", "−")


def plural(count: int, noun: str, many: str = "") -> str:
    """The noun with its number: "1 token", "2 tokens"."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def ordinal(number: int) -> str:
    """A place in a sequence: "first", …, "twelfth", then "13th"."""
    if 1 <= number < len(_ORDINALS):
        return _ORDINALS[number]
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def in_words(count: int) -> str:
    """Small whole numbers as words."""
    return _SMALL[count] if 0 <= count < len(_SMALL) else f"{count:,}"


def quoted(text: str) -> str:
    """A piece of the input between quotation marks; line breaks and other blanks become visible."""
    shown = text.strip() or text.replace(" ", "␣")
    shown = shown.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return "“" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + "”"


def listing(items: Sequence[str]) -> str:
    """Items with commas and "and": "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
