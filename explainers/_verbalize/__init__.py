"""Results in plain words: templates whose every quoted word and figure is computed from the result."""

from typing import TYPE_CHECKING, Any

from probe.errors import InputError
from probe.explainers._verbalize.facts import fact_check
from probe.explainers._verbalize.grammar import has_words
from probe.explainers._verbalize.llm import write_many as llm_verbalizations
from probe.explainers._verbalize.llm import write_words as llm_verbalization
from probe.explainers._verbalize.llm.server import Server as LanguageServer

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "LanguageServer",
    "fact_check",
    "has_words",
    "llm_verbalization",
    "llm_verbalizations",
    "verbalization",
    "verbalize",
]

REFERENCES = [
    "Feldhus et al., Saliency Map Verbalization, NLRSE 2023 (arXiv 2210.07222): coverage of phrases",
]
SEARCHES = ("segments", "windows", "published")
UNITS = ("auto", "word", "phrase", "sentence")


def verbalization(
    result: "xr.Dataset", *, language: str = "en", search: str = "segments", unit: str = "auto"
) -> "xr.Dataset":
    """A result in sentences, with the numbers and the places that each sentence rests on.

    Args:
        result: of a kind that has words.
        language: "en" or "de" (one file of `_verbalize/languages` each).
        search: of a token strip, how runs of words are found. "segments": over spans of every length, the
            largest coverage beyond their share of the words. "windows": the search of Saliency Map
            Verbalization, mended. "published": that search and its templates as its study texts were made.
        unit: of a token strip, what is named: "word", "phrase", "sentence", or "auto".

    Returns:
        text: text(statement), claim(statement), value(statement), tokens(statement) (comma-joined token
            indices); start(statement), end(statement) (characters of the input, −1 for no place),
            coverage(statement) (share of all that speaks the same way, NaN for no run), rank(statement) (from
            1, 0 for none), sign(statement) (+1 for the target, −1 against it, 0 neither).

    Raises:
        InputError: no result, one of another kind, or one without tokens or finite numbers; an unknown
            language, search or unit.
    """
    import xarray as xr

    from probe.explainers._verbalize.grammar import statements_of
    from probe.explainers._verbalize.languages import language_of
    from probe.explainers._verbalize.statement import as_dataset
    from probe.explainers.kinds import check_result

    for name, value, known in (("search", search, SEARCHES), ("unit", unit, UNITS)):
        if value not in known:
            raise InputError(f"{name} = {value!r}, expected one of {', '.join(known)}")
    if not isinstance(result, xr.Dataset):
        raise InputError(f"expected a result (xarray.Dataset), got {type(result).__name__}")
    chosen: dict[str, Any] = {} if search == "segments" else {"search": search}
    chosen |= {} if unit == "auto" else {"unit": unit}
    tongue = language_of(language)
    words = as_dataset(statements_of(result, tongue, chosen))
    words.attrs = {
        "kind": "text",
        "explainer": "verbalization",
        "title": f"{result.attrs['title']} in words",
        "parameters": "{}",
        "references": REFERENCES,
        "unit": "1",
        "value": "text",
        "model": result.attrs["model"],
        "of": result.attrs["explainer"],
        "language": language,
    }
    check_result(words)
    return words


def verbalize(result: "xr.Dataset", **options: str) -> str:
    """A result in sentences, one a line, ready to print.

    Args:
        result: of a kind that has words, or what `verbalization` made of one.
        options: as of `verbalization`.

    Raises:
        InputError: as `verbalization`.
    """
    attrs = getattr(result, "attrs", {})
    words = result if attrs.get("kind") == "text" else verbalization(result, **options)
    return "\n".join(str(text) for text in words["text"].values)
