"""One file per language: sentences with places for numbers, and how the language writes them.

A language is a module here with a `LANGUAGE`; it is found by itself and held to the templates of English.
"""

import functools
import importlib
from pathlib import Path

from probe.errors import InputError
from probe.explainers._verbalize.language import Language


@functools.cache
def languages() -> dict[str, Language]:
    """All languages by code ("en", "de", …)."""
    stems = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
    modules = (importlib.import_module(f"{__name__}.{stem}") for stem in stems)
    return {module.LANGUAGE.code: module.LANGUAGE for module in modules}


def language_of(code: str) -> Language:
    """The language of a code.

    Raises:
        InputError: there is no such file; the message lists the languages.
    """
    known = languages()
    if code not in known:
        raise InputError(f"language = {code!r}, expected one of {', '.join(known)}")
    return known[code]
