"""Which words of an expression carry meaning: content, stop words, magnets that were appended, and special tokens."""

import re
from collections.abc import Sequence

from probe.errors import InputError

ROLES = ("content", "stop", "magnet", "special")
#: Our own short list of English words that name no thing; words of place ("left", "on", "top", "middle") are not in it.
_WORDS = (
    "a also an and are as at be been being but by can could did do does for from had has have he her his "
    "i is it its just may me might my of or our she should so such than that the their them then there "
    "these they this those to us very was we were what which who whom whose will with would you your "
)
STOP = frozenset(_WORDS.split())
_MARK = re.compile(r"^\W+$")


def word_role(word: str) -> str:
    """The role of a whole word by itself: "stop" for words of the list and for marks, else "content"."""
    bare = word.strip().strip("▁Ġ").lower()
    return "stop" if bare in STOP or not bare or _MARK.match(bare) else "content"


def locate(pieces: Sequence[str], expression: str, magnets: Sequence[str]) -> list[tuple[int, str, str]]:
    """Which tokens make up the expression and the magnets behind it, by position: a magnet "a" is no "a" of the expression.

    Args:
        pieces: the tokens behind the picture, each decoded by itself.
        expression: as it was put into the prompt.
        magnets: as they were appended, in order.

    Returns:
        (number of the piece, role, whole word), in order; a piece of a word has the role of the word.

    Raises:
        InputError: the expression is not found among the pieces.
    """
    words = [(word, word_role(word)) for word in re.findall(r"\w+|[^\w\s]", expression)]
    words += [(word, "magnet") for magnet in magnets for word in re.findall(r"\w+|[^\w\s]", magnet)]
    letters = [(character, n) for n, (word, _) in enumerate(words) for character in word.lower()]
    target = "".join(character for character, _ in letters)
    flat, owner = "", list[int]()
    for n, piece in enumerate(pieces):
        bare = re.sub(r"[\s▁Ġ]", "", piece).lower()
        flat += bare
        owner += [n] * len(bare)
    start = flat.find(target)
    if not target or start < 0:
        raise InputError(
            f"expression {expression!r} with its magnets is not found among the model's tokens {list(pieces)[:12]}; "
            "are all its words known to the tokenizer?"
        )
    found: dict[int, tuple[str, str]] = {}
    for at, (_, word) in enumerate(letters):
        found.setdefault(owner[start + at], (words[word][1], words[word][0]))
    return [(n, role, word) for n, (role, word) in found.items()]
