"""`probe explain` for a folder or a JSONL file: a result a line, resumable after a kill, summed up at the end."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.dashboard.as_json import emit, explanation, plain
from probe.dashboard.explain_options import TEXT_MODEL
from probe.dashboard.failure import FAILED, INTERRUPTED, say
from probe.dashboard.inputs import Item, read_many
from probe.dashboard.terminal import clean, out, quiet_stdout, working
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from probe.dashboard.explain_options import Words

RESULTS, SETTINGS, SUMMARY = "results.jsonl", "settings.json", "summary.json"


def explain_many(
    source: str,
    model: str,
    device: str,
    parameters: dict[str, Any],
    *,
    words: Words,
    folder: Path | None,
    resume: bool,
    on_error: str,
    as_json: bool,
    command: str,
) -> int:
    """Explain every text of a folder or a JSONL file.

    Args:
        source: A folder or a `.jsonl` file.
        model: Name for `probe.load`.
        device: `auto`, `cpu`, `cuda`, …
        parameters: Of `saliency`; what is None is left to its default.
        words: How results become sentences.
        folder: Where results go: `results.jsonl` (a document a line, as --json prints it), `summary.json`.
        resume: Go on with a run that was killed.
        on_error: `stop` or `skip`.
        as_json: Print the summary as JSON.
        command: The command line, kept with each result.

    Returns:
        0; 1 if an input was skipped; 130 when interrupted, what was done until then is kept.

    Raises:
        InputError: No --out, an unusable folder, inputs that cannot be read, or other settings than those of the run to
            go on with.
    """
    if folder is None:
        raise InputError(f"{source} holds many texts: say where the results go, --out FOLDER")
    if on_error not in ("stop", "skip"):
        raise InputError(f"--on-error {on_error}, expected stop or skip")
    model = TEXT_MODEL if model == "auto" else model
    words.check()
    items = read_many(source)
    given = {name: value for name, value in parameters.items() if value is not None}
    done = _opened(folder, {"model": model, "parameters": given, "words": _kept(words)}, resume)
    failures: list[dict[str, str]] = []
    try:
        with quiet_stdout(), working(f"explaining {len(items)} texts:") as show:
            _run(items, done, folder, model, device, given, words, on_error, failures, show, command)
    except KeyboardInterrupt:
        count = len(_read(folder))
        say(
            f"{count} of {len(items)} texts are done and kept in {folder}; the same command with --resume goes on"
        )
        return INTERRUPTED
    summary = _summed(items, _read(folder), failures)
    (folder / SUMMARY).write_text(json.dumps(plain(summary), ensure_ascii=False, indent=1), encoding="utf-8")
    if as_json:
        emit({"folder": str(folder), **summary})
    else:
        _show(folder, summary)
    if failures:
        say(f"warning: {len(failures)} of {len(items)} texts were skipped; {folder / SUMMARY} names them")
    return FAILED if failures else 0


def _kept(words: Words) -> dict[str, Any]:
    return {
        name: getattr(words, name)
        for name in ("verbalizer", "language", "search", "unit", "llm", "prompt", "strict")
    }


def _opened(folder: Path, settings: dict[str, Any], resume: bool) -> set[str]:
    """Make or check the run's folder; gives the digests of the inputs that are done."""
    settings = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    if path.is_file():
        if not resume:
            raise InputError(
                f"{folder} holds a run already: --resume goes on with it, or choose another folder"
            )
        if json.loads(path.read_text(encoding="utf-8")) != settings:
            raise InputError(f"{folder} was made with other settings (see {path}): choose another folder")
        return {str(document["digest"]) for document in _read(folder)}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no run of this command: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
    return set()


def _read(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of the results; a last line that a kill cut short is dropped from the file too."""
    path = folder / RESULTS
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.decode().splitlines()]


def _digest(item: Item) -> str:
    return hashlib.sha256(json.dumps([item.name, item.text, item.options]).encode()).hexdigest()[:16]


def _run(
    items: list[Item],
    done: set[str],
    folder: Path,
    model: str,
    device: str,
    given: dict[str, Any],
    words: Words,
    on_error: str,
    failures: list[dict[str, str]],
    show: Any,
    command: str,
) -> None:
    import probe
    from probe import explainers as ex
    from probe.dashboard.provenance import stamp

    loaded, write = probe.load(model, device=device), words.writer()
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        for number, item in enumerate(items):
            show(number, len(items), item.name)
            digest = _digest(item)
            if digest in done:
                continue
            try:
                result = ex.saliency(loaded, item.text, **{**given, **item.options})
                stamp(result, loaded)
                result.attrs["command"] = command
                document = explanation(result, write(result))
            except ProbeError as error:
                if on_error == "stop":
                    raise type(error)(f"{item.where}: {error}") from error
                failures.append({"id": item.name, "where": item.where, "error": str(error)})
                continue
            line = json.dumps(plain({"id": item.name, "digest": digest, **document}), ensure_ascii=False)
            file.write(
                line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
                + "\n"
            )
            file.flush()
        show(len(items), len(items), "")


def _summed(
    items: list[Item], documents: list[dict[str, Any]], failures: list[dict[str, str]]
) -> dict[str, Any]:
    verdicts = Counter(d["provenance"].get("faithfulness", "not measured") for d in documents)
    gains = [
        d["faithfulness"]["insertion_auc"] - d["faithfulness"]["deletion_auc"]
        for d in documents
        if d["faithfulness"]
    ]
    return {
        "inputs": len(items),
        "done": len(documents),
        "answers": dict(Counter(d["prediction"]["text"] for d in documents).most_common(20)),
        "methods": dict(Counter(d["method"] for d in documents)),
        "faithfulness": dict(verdicts),
        "mean_gap": sum(gains) / len(gains) if gains else None,
        "failures": failures,
    }


def _show(folder: Path, summary: dict[str, Any]) -> None:
    console = out()
    console.print(f"{folder}: {summary['done']:,} of {summary['inputs']:,} texts explained")
    for title in ("answers", "methods", "faithfulness"):
        parts = ", ".join(f"{clean(str(name))} {count:,}" for name, count in summary[title].items())
        console.print(f"  {title}: {parts}")
    if summary["mean_gap"] is not None:
        console.print(f"  insertion − deletion area, mean: {summary['mean_gap']:.3f}")
    for one in summary["failures"][:10]:
        console.print(f"  skipped {clean(one['where'])}: {clean(one['error'])}", style="dim")
