"""`probe doctor --model`: what can be captured of a model and what not, before anything is captured."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from probe.dashboard.terminal import out, quiet_stdout

_MARKS = {
    "exact": ("exact  ", "green"),
    "slow": ("slow   ", "yellow"),
    "refused": ("refused", "red"),
    "no map": ("no map ", "dim"),
}
_HOW = {
    "interface": "transformers' attention interface",
    "sdpa": "its own calls of PyTorch's attention",
    "MultiheadAttention": "nn.MultiheadAttention",
    "TransformerLens": "TransformerLens",
    "written out": "maps that the model writes out",
    "no softmax": "no softmax attention",
    "unknown": "an own way",
}


def show_model(name: str, as_json: bool, attempt: bool) -> int:
    """Print a survey of a model.

    Args:
        name: A name of `probe models`, a folder, or a hub id.
        as_json: Print JSON, one entry for each module, instead of lines for each kind.
        attempt: Load the weights and prove the survey on one tiny input; else only the config is read.

    Returns:
        0; 1 if the model has attention and none of it can be captured.
    """
    with quiet_stdout():
        found, parameters = _look(name, attempt)
    useful = not found.refused and any(row.verdict in ("exact", "slow") for row in found.rows)
    if as_json:
        from probe.dashboard.as_json import emit

        emit({"name": name, "parameters": parameters, "usable": useful, **found.as_dict()})
    else:
        _print(name, found, parameters)
    return 0 if useful or not found.rows else 1


def _look(name: str, attempt: bool) -> tuple[Any, int]:
    from probe import _survey

    if attempt:
        from probe.models.load import load

        model = load(name).model
        return _survey.attempt(model), _count(model)
    from probe.models.skeleton import skeleton

    model = skeleton(name)
    return _survey.survey(model), _count(model)


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _print(name: str, found: Any, parameters: int) -> None:
    from rich.text import Text

    console = out()
    backend = f", {found.backend} attention" if found.backend else ""
    console.print(f"{name}: {found.model}, {parameters:,} parameters{backend}")
    if found.refused:
        console.print(Text("refused", style="red"), found.refused)
        return
    if not found.rows:
        console.print("no attention module is in it; maps of convolutions: probe.maps")
        return
    for row, rest in _kinds(found.rows):
        mark = Text(*_MARKS[row.verdict])
        rules = ", ".join(row.rules) or ("" if row.verdict == "no map" else "every place sees every place")
        heads = (
            ""
            if row.heads is None
            else f"{row.heads[0]} heads"
            + (f" over {row.heads[1]} of keys" if row.heads[1] != row.heads[0] else "")
        )
        facts = "; ".join(
            part
            for part in (
                f"tower {row.tower}",
                heads,
                rules if row.mechanism != "written out" else "",
                row.why,
            )
            if part
        )
        console.print(mark, f"{_places(rest)} ({row.kind}, {_HOW[row.mechanism]}): {facts}")
    if found.lazy_masks is not None and found.backend == "sdpa":
        words = (
            "row by row"
            if found.lazy_masks
            else "N × N, where it makes one: 4.3 GB for a text of 65,536 tokens"
        )
        console.print(f"masks of long inputs: {words}")
    for words, modules in (
        ("weights brought in for each call", found.placement.offloaded),
        ("quantised", found.placement.quantised),
    ):
        if modules:
            console.print(f"{words}: {len(modules)} modules, first {modules[0]}")
    if found.quantisation:
        console.print(
            f"weights: quantised ({found.quantisation}); queries and keys are what its layers make of them"
        )
    proof = (
        "proven on one tiny input"
        if found.tried
        else "told from its settings; --try proves it on one tiny input"
    )
    console.print(f"towers: {', '.join(found.towers) or 'none'}; {proof}")


def _kinds(rows: Any) -> list[tuple[Any, list[str]]]:
    """Rows that are alike but for their names, in the order of the first of each."""

    def alike(row: Any) -> tuple[Any, ...]:
        return (
            row.kind,
            row.tower,
            row.mechanism,
            row.rules,
            row.heads,
            row.verdict,
            row.why.replace(row.module, ""),
        )

    first = {alike(row): number for number, row in reversed(list(enumerate(rows)))}
    ordered = sorted(rows, key=lambda row: first[alike(row)])
    groups = [list(members) for _, members in groupby(ordered, key=alike)]
    return [(members[0], [row.module for row in members]) for members in groups]


def _places(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)})"
