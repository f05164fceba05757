"""`probe mil`: train attention-MIL models, see what they look at in a bag, and how concentrated that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.dashboard.explain_options import Places
from probe.dashboard.failure import say
from probe.dashboard.render import show_words
from probe.dashboard.terminal import clean, out, quiet_stdout, working
from probe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    import xarray as xr

    from probe.bags import Bag, Bags
    from probe.explainers.mil import ACMIL, Tested

METRICS = "metrics.json"


def train(
    data: Path, folder: Path, folds: int | None, plan: dict[str, Any], *, resume: bool, as_json: bool
) -> int:
    """Train, test, and write model and figures to a folder.

    Args:
        data: Bags with labels.
        folder: Where to.
        folds: Of cross-validation; None splits once.
        plan: Of `mil.Plan`.
        resume: Go on where the folder ends.
        as_json: Print JSON instead of a table.

    Returns:
        0.
    """
    import json

    from probe.bags import read_bags
    from probe.dashboard import as_json as documents

    with quiet_stdout(), working(f"training {plan['method']}") as step:
        from probe.explainers import mil

        bags, settings = read_bags(data), mil.Plan(**plan)
        if folds is None:
            _, tested = mil.hold_out(bags, settings, folder=folder, resume=resume, progress=step)
        else:
            tested = mil.cross_validate(
                bags, settings, folds=folds, folder=folder, resume=resume, progress=step
            )
    document = _metrics(tested, bags, plan, folds)
    text = json.dumps(documents.plain(document), indent=1, allow_nan=False)
    (folder / METRICS).write_text(text + "\n", encoding="utf-8")
    if as_json:
        documents.emit(document)
    else:
        _show_tested(tested, plan["method"], folds)
    say(f"written: {folder}")
    return 0


def _metrics(tested: Tested, bags: Bags, plan: dict[str, Any], folds: int | None) -> dict[str, Any]:
    rows = zip(
        tested.names, tested.labels.tolist(), tested.fold.tolist(), tested.probabilities.tolist(), strict=True
    )
    return {
        "plan": plan,
        "folds": folds,
        "classes": bags.classes,
        "tested_bags": len(tested.names),
        "measures": tested.measures,
        "intervals_95": tested.intervals,
        "best_epochs": tested.best,
        "bags": [{"name": n, "label": y, "fold": f, "probabilities": p} for n, y, f, p in rows],
    }


def _show_tested(tested: Tested, method: str, folds: int | None) -> None:
    from rich.table import Table

    console = out()
    how = f"{folds}-fold cross-validation" if folds else "one split"
    console.print(
        f"{method}: {how}, {len(tested.names)} bags predicted by models that had not seen them", style="bold"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for title in ("measure", "value", "95 % interval"):
        table.add_column(title, justify="left" if title == "measure" else "right")
    for name, value in tested.measures.items():
        low, high = tested.intervals.get(name, (None, None))
        shown = "" if low is None else f"{low:.3f} to {high:.3f}"
        table.add_row(name.replace("_", " "), f"{value:.3f}", shown)
    console.print(table)
    console.print("Intervals: bootstrap over the bags; the luck of the seed is not in them.", style="dim")


def explain(
    data: Path,
    model: Path,
    bag: str,
    overlay: dict[str, Any],
    files: dict[str, Path | None],
    *,
    device: str,
    as_json: bool,
) -> int:
    """Explain one bag.

    Args:
        data: Where the bag is.
        model: What `train` wrote.
        bag: Name or number.
        overlay: Parameters of `ex.slide_overlay`.
        files: "html", "geojson", "png": where to, or None.
        device: "auto", "cpu", …
        as_json: Print JSON instead of words.

    Returns:
        0.
    """
    Places(html=files["html"]).check()
    with quiet_stdout(), working("explaining"):
        from probe import capture_mil
        from probe import explainers as ex

        module, (one, classes) = _model(model, device), _bag(data, bag)
        placed = one.coords is not None
        if not placed and (overlay["picture"] or files["geojson"] or files["png"]):
            raise InputError(
                f"{one.name}: has no coords of its instances, so there is nothing to lay over a slide"
            )
        record = capture_mil(module, one, attention="score", features="embed")
        results = [ex.slide_overlay(record, **overlay)] if placed else []
        results.append(ex.concentration(record))
        words = [str(text) for result in results for text in ex.verbalization(result)["text"].values]
        answer = _prediction(module, record, one, classes)
    _write_files(record, results, [answer, *words], files, one.name)
    if as_json:
        from probe.dashboard import as_json as documents

        shown = {
            result.attrs["explainer"]: documents.dataset(result.drop_vars("picture", errors="ignore"))
            for result in results
        }
        documents.emit({"bag": one.name, "prediction": answer, "sentences": words, **shown})
    else:
        console = out()
        console.print(clean(answer), style="bold")
        for sentence in words:
            console.print(clean(sentence))
    for kind, path in files.items():
        if path is not None:
            say(f"{kind} written: {path}")
    return 0


def _write_files(
    record: xr.DataTree, results: list[xr.Dataset], words: list[str], files: dict[str, Path | None], name: str
) -> None:
    from probe import explainers as ex
    from probe import viz

    html, geojson, png = files["html"], files["geojson"], files["png"]
    if html is not None:
        points = ex.instance_map(record)
        if len(results) > 1:
            viz.linked(points, results[0], html, texts=words[:4], title="probe mil explain")
        else:
            viz.report([points, *results], html, title=f"probe mil explain · {name}", texts=words)
    if geojson is not None:
        viz.write_geojson(results[0], geojson)
    if png is not None:
        viz.slide_png(results[0], png)


def concentration(
    data: Path, model: Path | None, store: Path | None, html: Path | None, *, device: str, as_json: bool
) -> int:
    """Measure how concentrated attention is over many bags.

    Args:
        data: Bags, or a record of bags.
        model: Needed for bags.
        store: Where to keep the record, or None.
        html: Where to write a report, or None.
        device: "auto", "cpu", …
        as_json: Print JSON instead of words.

    Returns:
        0.
    """
    Places(html=html).check()
    with quiet_stdout(), working("reading attention"):
        from probe import capture_mil, open_record
        from probe import explainers as ex
        from probe.bags import read_bags
        from probe.record import is_record

        if is_record(data):
            record = open_record(data)
        elif model is None:
            raise InputError(f"{data} is no record: bags need --model, what `probe mil train` wrote")
        else:
            record = capture_mil(_model(model, device), read_bags(data), attention="score", store=store)
        result = ex.concentration(record)
        words = ex.verbalization(result)
    if html is not None:
        from probe import viz

        viz.report(result, html, title=f"probe mil concentration · {data.name}", texts=words, record=record)
    if as_json:
        from probe.dashboard import as_json as documents

        documents.emit({"result": documents.dataset(result), "sentences": documents.statements(words)})
    else:
        show_words(out(), result, [str(text) for text in words["text"].values])
    for path in (html, store):
        if path is not None:
            say(f"written: {path}")
    return 0


def _model(path: Path, device: str) -> ACMIL:
    import torch

    from probe.explainers import mil

    where: torch.device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    return mil.load(path).to(where)


def _bag(data: Path, wanted: str) -> tuple[Bag, list[str]]:
    """The bag, and what its file calls the classes."""
    from probe.bags import read_bags

    bags = read_bags(data)
    if wanted in bags.names:
        return bags[bags.names.index(wanted)], bags.classes
    if wanted.isdigit() and int(wanted) < len(bags):
        return bags[int(wanted)], bags.classes
    raise InputError(f"--bag {wanted}: {data} holds {len(bags)} bags, called {', '.join(bags.names[:5])} …")


def _prediction(module: ACMIL, record: xr.DataTree, bag: Bag, classes: list[str]) -> str:
    """The model's answer in a sentence, and the bag's own label where both count the classes alike."""
    import numpy as np

    logits = record["output"].to_dataset()["logits"].values[0].astype(np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    names = [str(name) for name in module.facts.get("classes", [])] or [str(i) for i in range(len(p))]
    best = int(p.argmax())
    known = bag.label is not None and classes == names
    truth = f"; its label is {names[bag.label or 0]}" if known else ""
    return f"The model's answer for {bag.name} is {names[best]} (probability {p[best]:.2f}{truth})."
