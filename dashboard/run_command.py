"""`probe run`: any explainer that reads a record, its parameters as options made from its declaration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.dashboard.explain_options import Places
from probe.dashboard.failure import say
from probe.dashboard.terminal import out, quiet_stdout
from probe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from probe.explainers.spec import Explainer, Parameter


def run(name: str, store: Path, options: list[str], html: Path | None, as_json: bool) -> int:
    """Run an explainer over a record and show the result; the record is left as it is.

    Args:
        name: Of an explainer that reads records.
        store: Folder of the record.
        options: What is left of the command line: `--parameter value`.
        html: Where to write a report, or None.
        as_json: Print JSON instead of words.

    Returns:
        0.
    """
    Places(html=html).check()
    with quiet_stdout():
        from probe import explainers as ex
        from probe import open_record

        explainer = find(name)
        parameters = parse(explainer, options)
        record = open_record(store)
        result = explainer.function(record, **parameters)
        words = ex.verbalization(result) if explainer.kind in ("head_table", "token_strip") else None
    if html is not None:
        from probe import viz

        viz.report(result, html, title=f"probe run {name} · {store.name}", texts=words or (), record=record)
    _show(result, words, record, as_json)
    if html is not None:
        say(f"report written: {html}")
    if not bool(record["validity"].attrs.get("passed", False)):
        say(f"warning: {store} failed its own validity checks; do not rely on these numbers")
    return 0


def _show(result: xr.Dataset, words: xr.Dataset | None, record: xr.DataTree, as_json: bool) -> None:
    from probe.dashboard import as_json as documents
    from probe.dashboard.render import show_explanation, show_head_table

    if as_json:
        passed = bool(record["validity"].attrs.get("passed", False))
        said = [] if words is None else documents.statements(words)
        documents.emit({"result": documents.dataset(result), "sentences": said, "record_passed": passed})
        return
    sentences = [] if words is None else [str(sentence) for sentence in words["text"].values]
    show = {"head_table": show_head_table, "token_strip": show_explanation}.get(result.attrs["kind"])
    if show is None:
        raise InputError(f"a result of kind {result.attrs['kind']!r} has no terminal form yet: use --json")
    show(out(), result, sentences)


def find(name: str) -> Explainer:
    """The explainer of that name, if it reads records.

    Args:
        name: As `probe run --list` shows it.

    Raises:
        InputError: There is none, or it needs a model.
    """
    from probe import explainers as ex

    known = ex.registry()
    reading = ", ".join(sorted(n for n, e in known.items() if e.shape == "reads"))
    if name not in known:
        raise InputError(f"no explainer named {name!r}; those that read a record: {reading}")
    if known[name].shape != "reads":
        raise InputError(f"{name} needs a model (`probe explain`); those that read a record: {reading}")
    return known[name]


def parse(explainer: Explainer, options: list[str]) -> dict[str, Any]:
    """Parameters from `--name value`, `--name=value`, and for flags `--name` or `--no-name`.

    Args:
        explainer: Declares the parameters.
        options: Words of the command line.

    Returns:
        Checked values by name, of those that were given.

    Raises:
        InputError: An unknown option, one without a value, or a value outside its domain.
    """
    known = {parameter.name: parameter for parameter in explainer.parameters}
    found: dict[str, Any] = {}
    words = list(options)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise InputError(f"unexpected {word!r}: expected options of {explainer.name}: {_names(known)}")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        flag = name.removeprefix("no_")
        if name not in known and flag in known and known[flag].type is bool and not equals:
            found[flag] = False
            continue
        if name not in known:
            raise InputError(
                f"{explainer.name} has no option --{name.replace('_', '-')}; it has {_names(known)}"
            )
        if known[name].type is bool and not equals:
            found[name] = True
            continue
        if not equals:
            if not words:
                raise InputError(f"{word} needs a value: {known[name].domain} ({known[name].help})")
            value = words.pop(0)
        found[name] = known[name].parse(value, explainer.name)
    return found


def _names(known: dict[str, Parameter]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in known) or "none"


def list_explainers(name: str | None, as_json: bool) -> int:
    """Print all explainers with their parameters, or one.

    Args:
        name: Of the one to print; None for all.
        as_json: Print JSON instead of a table.

    Returns:
        0.
    """
    from probe import explainers as ex

    known = ex.registry()
    if name is not None:
        if name not in known:
            raise InputError(f"no explainer named {name!r}; there are: {', '.join(sorted(known))}")
        known = {name: known[name]}
    if as_json:
        from probe.dashboard.as_json import emit

        emit({name: _declaration(explainer) for name, explainer in sorted(known.items())})
        return 0
    console = out()
    for name, explainer in sorted(known.items()):
        how = "probe run" if explainer.shape == "reads" else "probe explain"
        console.print(f"{name}  ({how}, {explainer.kind})", style="bold")
        console.print(f"  {explainer.summary}")
        for p in explainer.parameters:
            default = "" if p.default is None else f" [{p.default}]"
            console.print(f"  --{p.name.replace('_', '-')}{default}: {p.domain}; {p.help}", style="dim")
    return 0


def _declaration(explainer: Explainer) -> dict[str, Any]:
    parameters = [
        {
            "name": p.name,
            "type": p.type.__name__,
            "default": p.default,
            "domain": str(p.domain),
            "help": p.help,
        }
        for p in explainer.parameters
    ]
    fields = ("title", "summary", "shape", "kind", "references")
    return {field: getattr(explainer, field) for field in fields} | {"parameters": parameters}
