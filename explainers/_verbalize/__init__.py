"""Results in plain English: templates whose every quoted word and figure is computed from the result."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from probe.explainers._verbalize.statement import Statement

__all__ = ["verbalization", "verbalize"]

REFERENCES = [
    "Feldhus et al., Saliency Map Verbalization, NLRSE 2023 (arXiv 2210.07222): coverage of phrases",
]


def verbalization(result: "xr.Dataset") -> "xr.Dataset":
    """A result in sentences, with the number that each sentence rests on.

    Args:
        result: of kind token_strip, head_table, map2d or flow.

    Returns:
        text: text(statement), claim(statement), value(statement), tokens(statement) (comma-joined token
            indices).

    Raises:
        InputError: no result, one of another kind, or one without tokens or finite numbers.
    """
    from probe.explainers._verbalize.statement import as_dataset
    from probe.explainers.spec import check_result

    statements = _statements(result)
    words = as_dataset(statements)
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
    }
    check_result(words)
    return words


def verbalize(result: "xr.Dataset") -> str:
    """A result in sentences, one a line, ready to print.

    Args:
        result: of kind token_strip, head_table, map2d or flow, or what `verbalization` made of one.

    Raises:
        InputError: as `verbalization`.
    """
    attrs = getattr(result, "attrs", {})
    words = result if attrs.get("kind") == "text" else verbalization(result)
    return "\n".join(str(text) for text in words["text"].values)


def _statements(result: "xr.Dataset") -> "list[Statement]":
    import xarray as xr

    from probe.explainers._verbalize.maps import flow_statements, map_statements
    from probe.explainers._verbalize.strip import strip_statements
    from probe.explainers._verbalize.table import table_statements
    from probe.explainers.spec import DeclarationError, check_result

    if not isinstance(result, xr.Dataset):
        raise InputError(f"expected a result (xarray.Dataset), got {type(result).__name__}")
    kinds: dict[str, Callable[[xr.Dataset], list[Statement]]] = {
        "token_strip": strip_statements,
        "head_table": table_statements,
        "map2d": map_statements,
        "flow": flow_statements,
    }
    kind = result.attrs.get("kind")
    if kind not in kinds:
        raise InputError(f"a result of kind {kind!r} has no words yet; expected one of {', '.join(kinds)}")
    try:
        check_result(result)
    except DeclarationError as error:
        raise InputError(f"this is not a complete result: {error}") from error
    return kinds[kind](result)
