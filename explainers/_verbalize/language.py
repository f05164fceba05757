"""How a language writes numbers, names and lists; its sentences stand in one file of `languages/`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Language:
    """A language: templates for `str.format`, and its way with figures.

    Attributes:
        code: ISO 639-1.
        name: in the language itself.
        templates: by claim; places in braces are filled with finished pieces.
        nouns: by English name, singular and plural.
        small: 0 to 12 in words.
        ordinals: 1st to 12th.
        later: the ordinal of larger numbers.
        quotes: opening and closing mark.
        decimal: decimal sign.
        group: thousands separator.
        joint: what stands before the last item of a list.
        percent_sign: with its blank, if it has one.
        under: before a bound from above.
        over: before a bound from below.
        cues: regular expressions by which a free text shows a rank or a polarity (`facts.py`).
    """

    code: str
    name: str
    templates: Mapping[str, str]
    nouns: Mapping[str, tuple[str, str]]
    small: tuple[str, ...]
    ordinals: tuple[str, ...]
    later: Callable[[int], str]
    quotes: tuple[str, str]
    decimal: str
    group: str
    joint: str
    percent_sign: str
    under: str
    over: str
    cues: Mapping[str, str] = field(default_factory=dict)

    def say(self, claim: str, **pieces: object) -> str:
        """The sentence of a claim."""
        return self.templates[claim].format(**pieces)

    def number(self, value: float, decimals: int = 2, *, signed: bool = False) -> str:
        """A number with so many decimals and a true minus sign."""
        text = f"{value:{'+' if signed else ''}.{decimals}f}"
        return text.replace("-", "−").replace(".", self.decimal)

    def signed(self, value: float) -> str:
        """A number with its sign, as many decimals as three digits take."""
        return self.number(value, 2 if abs(value) >= 0.095 else 3, signed=True)

    def probability(self, value: float) -> str:
        """Two decimals; never "0.00" or "1.00" for what is neither."""
        if 0 < value < 0.005:
            return f"{self.under} {self.number(0.01)}"
        if 0.995 <= value < 1:
            return f"{self.over} {self.number(0.99)}"
        return self.number(value)

    def percent(self, share: float) -> str:
        """A share in whole percent; "under 1%" for what is not zero."""
        share = round(share, 9)  # sums of shares miss 0 and 1 by rounding
        if 0 < share < 0.005:
            return f"{self.under} 1{self.percent_sign}"
        if 0.995 <= share < 1:
            return f"{self.over} 99{self.percent_sign}"
        return f"{100 * share:.0f}{self.percent_sign}"

    def count(self, value: int) -> str:
        """A whole number with its thousands set apart."""
        return f"{value:,}".replace(",", self.group)

    def plural(self, count: int, noun: str) -> str:
        """The noun with its number: "1 token", "2 tokens".

        Args:
            count: how many.
            noun: English name of the noun; one that the language does not list takes an s.
        """
        one, many = self.nouns.get(noun, (noun, f"{noun}s"))
        return f"{self.count(count)} {one if count == 1 else many}"

    def ordinal(self, number: int) -> str:
        """A place in a sequence in words up to twelve, then in figures."""
        return self.ordinals[number] if 1 <= number < len(self.ordinals) else self.later(number)

    def in_words(self, count: int) -> str:
        """Small whole numbers as words."""
        return self.small[count] if 0 <= count < len(self.small) else self.count(count)

    def quoted(self, text: str) -> str:
        """A piece of the input between quotation marks; line breaks and other blanks become visible."""
        shown = text.strip() or text.replace(" ", "␣")
        shown = shown.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
        opening, closing = self.quotes
        return opening + "".join(map(_shown, shown)) + closing

    def listing(self, items: Sequence[str]) -> str:
        """Items with commas and the joint: "a", "a and b", "a, b and c"."""
        if len(items) < 2:
            return "".join(items)
        return f"{', '.join(items[:-1])} {self.joint} {items[-1]}"


_JOINERS = "\u200d\u200c"  # they hold an emoji or a letter together


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()
