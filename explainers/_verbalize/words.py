"""From token scores to words and sentences, each with its place in the input."""

import re
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError

Floats = NDArray[np.float64]
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+|\s+")
_END = re.compile(r"[.!?…。！？।؟][\"'”’»)\]]*\s*$")
_WIDE_END = re.compile(r"[。！？]")  # no blank follows them
# writing without blanks between words: there a token stands for itself
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, eq=False)
class Words:
    """The words of one token strip in reading order, with their summed scores."""

    names: list[str]
    tokens: list[tuple[int, ...]]
    scores: Floats
    pieces: list[str]  # of all tokens of the strip
    edges: list[tuple[int, int]]  # where each word stands in the joined text, blanks at its ends left out

    @property
    def shares(self) -> Floats:
        """|score| over the sum of all |score|; zeros where all scores are zero."""
        size = np.abs(self.scores)
        total = float(size.sum())
        return size / total if total > 0 else size

    def is_word(self, index: int) -> bool:
        """Whether it has a letter or digit, and is not a sign or a blank alone."""
        return any(character.isalnum() for character in self.names[index])

    def quote(self, first: int, last: int) -> str:
        """The text from one word to another, both included."""
        return "".join(self.pieces[i] for word in self.tokens[first : last + 1] for i in word)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """First character and one past the last of a run of words, both included; blanks at its ends left out."""
        inside = [i for i in range(first, last + 1) if self.names[i].strip()] or [first, last]
        return self.edges[inside[0]][0], self.edges[inside[-1]][1]

    def sentences(self) -> list[tuple[int, int]]:
        """First and last word of each sentence: it ends at . ! ? … or their like, or at a line break."""
        found, first = [], 0
        for i, name in enumerate(self.names):
            following = self.names[i + 1] if i + 1 < len(self.names) else "\n"
            ends = _END.search(name) and (following[:1].isspace() or _WIDE_END.search(name))
            if i + 1 == len(self.names) or ends or "\n" in name or following.startswith("\n"):
                found.append((first, i))
                first = i + 1
        return found

    def indices(self, first: int, last: int) -> tuple[int, ...]:
        """The tokens from one word to another, both included."""
        return tuple(i for word in self.tokens[first : last + 1] for i in word)


def words_of(strip: xr.Dataset) -> Words:
    """Merge the text tokens of a token strip into words; a word's score is the sum over its tokens.

    A word is a run of letters and digits (with inner apostrophes and hyphens) or a run of other signs. A
    token that reaches over several words joins them; a token without text of its own (a later byte of one
    character) belongs to the token before it. Special tokens are left out.

    Raises:
        InputError: no text token, or a score that is not finite.
    """
    pieces = [str(piece) for piece in strip["text"].values]
    values = np.asarray(strip[strip.attrs["value"]].values, dtype=np.float64)
    places = [i for i, role in enumerate(strip["role"].values) if role == "text"]
    if not places:
        raise InputError("the result has no text token: there is nothing to put into words")
    if not np.isfinite(values).all():
        raise InputError("the result has scores that are not finite (NaN or infinite)")
    return _joined(pieces, values, places)


def join_words(pieces: list[str], scores: Floats) -> Words:
    """Words from the pieces of text tokens alone and their scores; see `words_of`."""
    return _joined(pieces, scores, list(range(len(pieces))))


def _joined(pieces: list[str], values: Floats, places: list[int]) -> Words:
    text = "".join(pieces[i] for i in places)
    starts = {match.start() for match in _WORD.finditer(text) if not match.group().isspace()}
    groups: list[list[int]] = []
    position = 0
    for i in places:
        begin = position + len(pieces[i]) - len(pieces[i].lstrip())
        opens = begin in starts or pieces[i].isspace() or bool(_UNSPACED.search(pieces[i]))
        follows_blank = bool(groups) and not "".join(pieces[j] for j in groups[-1]).strip()
        if not groups or (pieces[i] and (opens or follows_blank)):
            groups.append([i])
        else:
            groups[-1].append(i)
        position += len(pieces[i])
    names = ["".join(pieces[i] for i in group) for group in groups]
    scores = np.array([values[g].sum() for g in groups])
    return Words(names, [tuple(g) for g in groups], scores, pieces, _edges(names))


def _edges(names: list[str]) -> list[tuple[int, int]]:
    edges, position = [], 0
    for name in names:
        body = name.strip()
        begin = position + (name.find(body) if body else 0)
        edges.append((begin, begin + len(body or name)))
        position += len(name)
    return edges


def effective_number(scores: Floats) -> float:
    """Exp of the entropy of |score| / Σ |score|: the number of equal scores as concentrated; 0 for zeros."""
    size = np.abs(scores)
    total = float(size.sum())
    if total <= 0:
        return 0.0
    share = size[size > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
