"""Finding grammars: what a kind of result, or one explainer's, says in sentences.

A grammar is a module of this folder with a `GRAMMAR`: for a kind, or for the name of an explainer (which goes
first), a function from the result and a language to statements. It is found by itself. A function that takes
the result alone knows English only.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import InputError
from probe.explainers._verbalize.language import Language
from probe.explainers.kinds import DeclarationError, check_result

if TYPE_CHECKING:
    import xarray as xr

    from probe.explainers._verbalize.statement import Statement

Grammar = Callable[..., "list[Statement]"]


@functools.cache
def grammars() -> dict[str, Grammar]:
    """All grammars by kind or by explainer."""
    package, found = __name__.rpartition(".")[0], dict[str, Grammar]()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", Path(__file__).stem):
            found |= getattr(importlib.import_module(f"{package}.{path.stem}"), "GRAMMAR", {})
    return found


def statements_of(result: "xr.Dataset", language: Language, options: dict[str, Any]) -> "list[Statement]":
    """The statements of a result.

    Args:
        result: complete, of a kind that has a grammar.
        language: of the sentences.
        options: what the caller chose beyond the defaults; the grammar must know each.

    Raises:
        InputError: a kind without words, an incomplete result, a language or an option that its grammar does not know.
    """
    kind, grammar = result.attrs.get("kind"), _grammar_of(result)
    if grammar is None:
        raise InputError(
            f"a result of kind {kind!r} has no words yet; expected one of {', '.join(grammars())}"
        )
    try:
        check_result(result)
    except DeclarationError as error:
        raise InputError(f"this is not a complete result: {error}") from error
    takes = list(inspect.signature(grammar).parameters)
    unknown = [option for option in options if option not in takes]
    if unknown:
        raise InputError(f"the words of a {kind} have no option {', '.join(unknown)}")
    if len(takes) == 1:
        if language.code != "en":
            raise InputError(
                f"a result of kind {kind!r} has English words only, got language {language.code!r}"
            )
        return grammar(result)
    return grammar(result, language, **options)


def has_words(result: "xr.Dataset") -> bool:
    """Whether a grammar knows the kind of a result, or its explainer."""
    return _grammar_of(result) is not None


def _grammar_of(result: "xr.Dataset") -> Grammar | None:
    known = grammars()
    return known.get(str(result.attrs.get("explainer"))) or known.get(str(result.attrs.get("kind")))
