"""Many inputs through one model: each captured once, all of them summed up, and nothing lost when the run is killed.

What `capture_corpus` writes into its folder and `open_corpus` gives back is a tree:

    /                    attributes: the facts of the run (model, versions, …), stats, `report`
    /inputs              over (input): id, text, tokens, seconds, passed, worst_check, worst (its error ÷ tolerance), error (""
                         or why it was skipped), and label_<name> for every other field
    /aggregate/<tower>   count, mean, variance, least, largest over (statistic, layer, head), over all positions of all inputs;
                         input_mean over (input, statistic, layer, head); quantiles (quantile, …) of input_mean over inputs

Values that are not finite do not count, nor does padding; variances divide by the count. Every input leaves its own moments
in a file, and the sum is formed in the order of the inputs at the end: a run that was killed and resumed gives the same bits.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from probe._capture import capture
from probe._facts import facts, fingerprint
from probe._inputs import device_of, parts
from probe.corpus.folder import CorpusFolder, open_result
from probe.corpus.inputs import Item, batches, digest, forward_inputs, label_columns, read_items, read_jsonl
from probe.corpus.moments import Moments, moments_of, summary
from probe.errors import InputError, ModelError, ProbeError, RecordError
from probe.record import strings, towers
from probe.stats import resolve

if TYPE_CHECKING:
    from probe.models.load import LoadedModel

__all__ = ["capture_corpus", "open_corpus", "read_jsonl"]

Progress = Callable[[int, int, str], None]


def capture_corpus(
    model: "LoadedModel | torch.nn.Module",
    inputs: Iterable[str | Mapping[str, Any]],
    *,
    out: str | Path,
    stats: str | Sequence[str] = ("entropy", "received"),
    layers: Sequence[int | str] | None = None,
    batch: int = 1,
    keep_records: bool = False,
    resume: bool = False,
    on_error: str = "stop",
    implementation: str = "auto",
    progress: Progress | None = None,
) -> xr.DataTree:
    """Capture many inputs and sum up their statistics per layer and head.

    Args:
        model: as for `probe.capture`.
        inputs: texts, or mappings with "text" or "input_ids" (one list of token ids), perhaps "id", and any other fields,
            which are kept as labels. All of them are checked before the first one runs.
        out: folder of the run.
        stats: names of statistics; "pooled" is a map, which goes into the records only.
        layers: numbers of layers or patterns of module names; None for all.
        batch: inputs of similar length that run together, padded; their results differ from one by one by rounding. A batch
            that fails is run again one by one.
        keep_records: keep the record of every input (of every batch) in `out`/records.
        resume: go on with the same run that was killed or interrupted: inputs that are done are not run again; those that
            were skipped are tried again.
        on_error: "stop" at an input that cannot be captured, or "skip" it and say so in the result.
        implementation: of the kernels: "auto", "reference" or "triton".
        progress: called with (inputs done, inputs, id of the input that was done last).

    Returns:
        The result, read lazily from `out`; this module describes it.

    Raises:
        InputError: an input or an option that cannot be used; with "skip", no input could be captured.
        ModelError: an input failed in the model.
        RecordError: the folder cannot be written.
    """
    names = [stat.name for stat in resolve(stats)]
    if all(stat.along == "map" for stat in resolve(names)):
        raise InputError("stats: got maps only, which are not summed up over inputs; add one such as entropy")
    if on_error not in ("stop", "skip"):
        raise InputError(f"on_error: got {on_error!r}, expected 'stop' or 'skip'")
    if batch < 1:
        raise InputError(f"batch: got {batch}, expected at least 1")
    items = read_items(inputs)
    module, _ = parts(model)
    known = facts(model, module, device_of(module))
    options = {"stats": names, "layers": layers, "implementation": implementation}
    request = {
        "model, device or versions": fingerprint(known, module, {}, None),
        "inputs or ids": digest(items),
        "inputs": len(items),
        **options,
        "batch": batch,
        "keep_records": keep_records,
    }
    with CorpusFolder(out, request, resume=resume) as folder:
        if not folder.complete:
            run = _Run(model, folder, items, {**options, "keep_records": keep_records}, on_error, progress)
            run.all(batch)
            groups, report = run.result()
            folder.finish(groups, {**known, "stats": names, "report": report})
    return open_corpus(out)


def open_corpus(path: str | Path) -> xr.DataTree:
    """Open the result of a corpus run; this module describes it. Values are read when they are used.

    Args:
        path: the folder that `capture_corpus` wrote.

    Raises:
        RecordError: not a corpus, unfinished, or damaged.
    """
    return open_result(Path(path))


class _Run:
    """The inputs of one run, what is left of them, and what went wrong."""

    def __init__(
        self,
        model: Any,
        folder: CorpusFolder,
        items: list[Item],
        options: dict[str, Any],
        on_error: str,
        progress: Progress | None,
    ) -> None:
        self.model, self.folder, self.items = model, folder, items
        self.keep_records = options.pop("keep_records")
        self.options, self.on_error, self.progress = options, on_error, progress
        self.failures: dict[int, str] = {}
        self.done: set[int] = set()
        self._kinds: dict[str, tuple[str, tuple[object, ...]]] = {}

    def all(self, size: int) -> None:
        """Capture every input that is not done yet."""
        for item in self.items:
            found = self.folder.read(item.number)
            if found is not None:
                self._check_kinds(item, found[1])
                self.done.add(item.number)
        self._step("resumed" if self.done else "")
        for batch in batches(self.items, size):
            if all(item.number in self.done for item in batch):
                continue
            try:
                self._capture(batch)
            except RecordError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a model raises is said of its input
                self._failed(batch, error)

    def _failed(self, batch: list[Item], error: Exception) -> None:
        """A batch is run again one by one; a single input stops the run or is skipped."""
        if len(batch) > 1:
            for item in batch:
                if item.number not in self.done:
                    try:
                        self._capture([item])
                    except RecordError:
                        raise
                    except Exception as own:  # noqa: BLE001 - as above
                        self._failed([item], own)
            return
        (item,) = batch
        if isinstance(error, ProbeError):
            kind, words = type(error), str(error)
        else:
            kind, words = ModelError, f"{type(error).__name__}: {' '.join(str(error).split())}"
        name = "" if item.name == str(item.number + 1) else f" ({item.name})"
        if self.on_error == "stop":
            raise kind(f"{item.where}{name}: {words}") from error
        self.failures[item.number] = words
        self._step(item.name)

    def _capture(self, batch: list[Item]) -> None:
        store = self.folder.record(batch[0].number) if self.keep_records else None
        begun = time.perf_counter()
        tree = capture(self.model, forward_inputs(batch), store=store, overwrite=True, **self.options)
        seconds = time.perf_counter() - begun
        valid = _valid(tree)
        tokens = valid.sum(1)
        checked = _checked(tree)
        for row, item in enumerate(batch):
            if item.number in self.done:  # the rest of this batch was lost in a kill
                continue
            found = {name: moments_of(tree[name].to_dataset(), row) for name in towers(tree)}
            moments = {name: m for name, m in found.items() if m is not None}
            self._check_kinds(item, moments)
            share = float(tokens[row]) / max(1, int(tokens.sum()))
            told = {"id": item.name, "tokens": int(tokens[row]), "seconds": seconds * share, **checked}
            self.folder.write(item.number, told, moments)
            self.done.add(item.number)
            self._step(item.name)

    def _check_kinds(self, item: Item, moments: Mapping[str, Moments]) -> None:
        """A head is one head in all inputs only if its tower has the same layers and heads in all of them."""
        for name, found in moments.items():
            first, kind = self._kinds.setdefault(name, (item.where, found.kind))
            if kind != found.kind:
                raise ModelError(
                    f"/{name} has other layers or heads than in {first}; choose layers that both have (layers=…)"
                )

    def _step(self, name: str) -> None:
        if self.progress is not None:
            self.progress(len(self.done) + len(self.failures), len(self.items), name)

    def result(self) -> tuple[dict[str, xr.Dataset], dict[str, Any]]:
        """The groups of the result and the report of the run."""
        if not self.done:
            number, words = next(iter(self.failures.items()))
            raise InputError(f"no input could be captured; {self.items[number].where}: {words}")
        found = [self.folder.read(item.number) for item in self.items]
        lost = [
            i.where
            for i, part in zip(self.items, found, strict=True)
            if part is None and i.number in self.done
        ]
        if lost:
            raise RecordError(
                f"{self.folder.folder}: what {lost[0]} gave was there and is no more; resume the run"
            )
        told = [None if part is None else part[0] for part in found]
        names = dict.fromkeys(name for part in found if part is not None for name in part[1])
        groups = {
            f"aggregate/{name}": summary([None if part is None else part[1].get(name) for part in found])
            for name in names
        }
        return {"inputs": self._inputs(told), **groups}, self._report(told)

    def _inputs(self, told: Sequence[Mapping[str, Any] | None]) -> xr.Dataset:
        def column(name: str, absent: Any) -> list[Any]:
            return [absent if one is None else one[name] for one in told]

        columns = {
            "id": strings([item.name for item in self.items]),
            "text": strings([item.text or "" for item in self.items]),
            "tokens": np.array(column("tokens", 0)),
            "seconds": np.array(column("seconds", np.nan)),
            "passed": np.array(column("passed", False)),
            "worst": np.array([np.nan if one is None else _number(one["worst"]) for one in told]),
            "worst_check": strings(column("worst_check", "")),
            "error": strings([self.failures.get(item.number, "") for item in self.items]),
            **{f"label_{name}": values for name, values in label_columns(self.items).items()},
        }
        return xr.Dataset({name: ("input", values) for name, values in columns.items()})

    def _report(self, told: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
        done = [one for one in told if one is not None]
        tokens, seconds = sum(one["tokens"] for one in done), sum(one["seconds"] for one in done)
        worst = max(done, key=lambda one: _number(one["worst"]))
        return {
            "inputs": len(self.items),
            "done": len(done),
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else None,
            "passed": sum(one["passed"] for one in done),
            "not_passed": [one["id"] for one in done if not one["passed"]],
            "worst": {"id": worst["id"], "check": worst["worst_check"], "of_tolerance": worst["worst"]},
            "failures": [
                {"id": self.items[n].name, "where": self.items[n].where, "error": words}
                for n, words in sorted(self.failures.items())
            ],
        }


def _valid(tree: xr.DataTree) -> np.ndarray[Any, Any]:
    """Which places of the model's own input are no padding, [B, N]."""
    group = tree[towers(tree)[0]].attrs["queries"]
    valid: np.ndarray[Any, Any] = tree[str(group)]["valid"].to_numpy()
    return valid


def _checked(tree: xr.DataTree) -> dict[str, Any]:
    """Whether a record passed its checks, and the one that came nearest to its tolerance (null: beyond any number)."""
    checks = tree["validity"].to_dataset()
    worst, allowed = checks["worst"].to_numpy().astype(float), checks["tolerance"].to_numpy().astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(worst == 0, 0.0, worst / allowed)
    share = np.where(np.isnan(share), np.inf, share)
    at = int(share.argmax())
    return {
        "passed": bool(checks["passed"].all()),
        "worst": float(share[at]) if np.isfinite(share[at]) else None,
        "worst_check": f"{checks['name'].to_numpy()[at]}, layer {int(checks['layer'].to_numpy()[at])}",
    }


def _number(worst: float | None) -> float:
    return float("inf") if worst is None else worst
