"""Head importance in sentences: who carries the answer, and whether removing them shows."""

from collections.abc import Callable

import xarray as xr

from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.statement import Statement
from probe.explainers._verbalize.table import head_of, table_of


def importance_statements(data: xr.Dataset, language: Language) -> list[Statement]:
    """The heads that speak most for and against, and the test by removal.

    Raises:
        InputError: a table without any finite number.
    """
    table, attrs, found = table_of(data), data.attrs, []
    target = language.quoted(str(attrs["target"]))
    for claim, highest, sign in (("head_for", True, 1), ("head_against", False, -1)):
        head, value = head_of(table, highest, language)
        if sign * value > 0:
            text = language.say(claim, head=head, target=target, value=language.signed(value))
            found.append(Statement(claim, text, value, sign=sign))
    change = float(attrs["change_important"])
    text = language.say(
        "heads_removed_1" if attrs["heads_removed"] == 1 else "heads_removed",
        count=attrs["heads_removed"],
        heads=table.size,
        change=language.number(change),
        random=language.number(float(attrs["change_random"])),
        spread=language.number(float(attrs["change_random_sd"])),
        larger=attrs["random_larger"],
        sets=attrs["n_random"],
    )
    return [*found, Statement("heads_removed", text, change)]


GRAMMAR: dict[str, Callable[..., list[Statement]]] = {"head_importance": importance_statements}
