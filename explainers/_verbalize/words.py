"""From token scores to words, and to the runs of words that stand out together."""

import re
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError

Floats = NDArray[np.float64]
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+|\s+")
# writing without blanks between words: there a token stands for itself
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, eq=False)
class Words:
    """The words of one token strip in reading order, with their summed scores."""

    names: list[str]
    tokens: list[tuple[int, ...]]
    scores: Floats
    pieces: list[str]  # of all tokens of the strip

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

    def indices(self, first: int, last: int) -> tuple[int, ...]:
        """The tokens from one word to another, both included."""
        return tuple(i for word in self.tokens[first : last + 1] for i in word)


@dataclass(frozen=True)
class Run:
    """Neighbouring words; coverage is max(0, Σ of their scores) over Σ of all positive word scores."""

    first: int
    last: int
    coverage: float


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
    return Words(names, [tuple(g) for g in groups], np.array([values[g].sum() for g in groups]), pieces)


def standing_runs(scores: Floats) -> list[Run]:
    """Runs of words whose scores stand above an even share of the support, by falling coverage.

    Each run is the segment with the largest sum of score − τ, τ = Σ positive scores / n, among what earlier
    runs left; its ends stand above τ. Nothing is found where no score is positive.
    """
    support = float(scores[scores > 0].sum())
    if support <= 0:
        return []
    excess = scores - support / len(scores)
    runs = []
    while True:
        first, last, gain = _best_segment(excess)
        if gain <= 1e-9 * support:
            break
        runs.append(Run(first, last, max(0.0, float(scores[first : last + 1].sum())) / support))
        excess[first : last + 1] = -np.inf
    return sorted(runs, key=lambda run: -run.coverage)


def effective_number(scores: Floats) -> float:
    """Exp of the entropy of |score| / Σ |score|: the number of equal scores as concentrated; 0 for zeros."""
    size = np.abs(scores)
    total = float(size.sum())
    if total <= 0:
        return 0.0
    share = size[size > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def _best_segment(values: Floats) -> tuple[int, int, float]:
    """The segment with the largest sum (Kadane): first, last, sum; ties go to the earlier and shorter."""
    best, found = -np.inf, (0, 0)
    total, first = -np.inf, 0
    for i, value in enumerate(values):
        if total <= 0:
            total, first = float(value), i
        else:
            total += float(value)
        if total > best:
            best, found = total, (first, i)
    return found[0], found[1], float(best)
