"""The sentences of Saliency Map Verbalization as its study texts were made."""

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.search import find
from probe.explainers._verbalize.statement import Statement


def published_statements(data: xr.Dataset, language: Language) -> list[Statement]:
    """One sentence per kept run of tokens: word, phrase, or span (with a full stop inside).

    Tokens, not words, are searched, as in the reference; the quote is the input's own text.

    Raises:
        InputError: no text token, or scores that are not finite.

    References:
        Feldhus et al., Saliency Map Verbalization, NLRSE 2023 (arXiv 2210.07222), §3.2.
    """
    places = np.flatnonzero(data["role"].values == "text")
    scores = np.asarray(data[data.attrs["value"]].values, dtype=np.float64)[places]
    pieces = [str(piece) for piece in data["text"].values[places]]
    if not places.size or not np.isfinite(scores).all():
        raise InputError(f"expected finite scores of text tokens, got {places.size} tokens")
    ends = np.cumsum([len(piece) for piece in pieces])
    found: list[Statement] = []
    for rank, run in enumerate(find(scores, "published"), start=1):
        quote = "".join(pieces[run.first : run.last + 1])
        kind = "word" if run.first == run.last else "span" if "." in quote else "phrase"
        text = language.say(
            "smv_first" if rank == 1 else "smv_next",
            kind=language.say(f"smv_{kind}"),
            quote=language.quoted(quote)[1:-1],
        )
        last = int(ends[run.last]) - (len(quote) - len(quote.rstrip()))
        span = (last - len(quote.strip()), last)
        tokens = tuple(int(places[i]) for i in range(run.first, run.last + 1))
        found.append(Statement(f"smv_{kind}", text, run.coverage, tokens, span, run.coverage, rank, sign=+1))
    return found or [Statement("smv_none", language.say("smv_none"), 0.0)]
