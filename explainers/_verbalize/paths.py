"""Paths over objects in sentences: what is searched, where the first looks go, how it ends, how far paths agree."""

import numpy as np
import xarray as xr

from probe.explainers._verbalize.areas import place
from probe.explainers._verbalize.statement import Statement
from probe.explainers.wording import listing, percent, plural, quoted

NAMED = 4


def path_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a path; the first one stands for all that the model says, the others for how sure it is."""
    stops, makers = data["stop"].values, data["made_by"].values
    target, first = int(data.attrs["target_object"]), [int(s) for s in stops[0] if s >= 0]
    task = "looks about freely" if target < 0 else f"searches {quoted(str(data.attrs['target']))}"
    where = f"{plural(data.sizes['object'], 'object')}"
    found = [Statement("task", f"The viewer {task}, among {where}.", float(target))]
    if not first:
        return [*found, Statement("no_path", "The path has no fixation.", 0.0), _source(stops, makers)]
    runs = [stop for n, stop in enumerate(first) if n == 0 or stop != first[n - 1]]
    names = [_where(data, stop) for stop in runs[:NAMED]]
    more = len(runs) - len(names)
    rest = f", and {plural(more, 'look')} more" if more else ""
    found.append(
        Statement("order", f"The first path goes to {', then '.join(names)}{rest}.", float(len(first)))
    )
    found.append(_end(first, target))
    found += [s for s in (_sample(stops[makers == "model"], target), *_agreement(data)) if s is not None]
    return [*found, _source(stops, makers)]


GRAMMAR = {"path": path_statements}


def _where(data: xr.Dataset, stop: int) -> str:
    top, left, bottom, right = data["box"].values[stop]
    return f"object {stop} ({place(min((top + bottom) / 2, 0.999), min((left + right) / 2, 0.999))})"


def _end(path: list[int], target: int) -> Statement:
    if target < 0:
        different = len(set(path))
        share = different / len(path)
        text = f"It ends after {plural(len(path), 'fixation')} on {plural(different, 'different object')}."
        return Statement("end", text, share)
    if target not in path:
        return Statement(
            "end", f"It ends after {plural(len(path), 'fixation')} without having looked at the target.", 0.0
        )
    when = path.index(target) + 1
    return Statement("end", f"It reaches the target with fixation {when} of {len(path)}.", float(when))


def _sample(stops: np.ndarray, target: int) -> Statement | None:
    drawn = stops[1:]
    if target < 0 or not len(drawn):
        return None
    share = float((drawn == target).any(1).mean())
    text = f"Of {plural(len(drawn), 'path')} drawn from the model, {percent(share)} reach the target."
    return Statement("found", text, share)


def _agreement(data: xr.Dataset) -> list[Statement]:
    found = []
    for name, who in (("agreement", "paths of the model"), ("people", "people")):
        values = data[name].values if name in data.variables else np.array([np.nan])
        if np.isfinite(values[0]):
            early = float(np.nanmean(values[:3]))
            text = f"Over the first three fixations, two {who} stand on the same object {percent(early)} of the time."
            found.append(Statement(f"{name}_early", text, early))
    return found


def _source(stops: np.ndarray, makers: np.ndarray) -> Statement:
    kinds = [
        (int((makers == k).sum()), w) for k, w in (("model", "predicted path"), ("person", "person's path"))
    ]
    named = listing(
        [plural(n, w, w.replace("path", "paths").replace("person's", "people's")) for n, w in kinds if n]
    )
    return Statement("paths", f"Shown: {named}.", float(len(stops)))
