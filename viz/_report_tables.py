"""Tables of a report: what the record's checks found, and where every number comes from."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.viz.checks import CheckLine, read_checks
from probe.viz.strip import visible

if TYPE_CHECKING:
    import xarray as xr

ROWS = 20
_SHOWN_ELSEWHERE = {"kind", "title", "value", "signed", "input", "faithfulness_verdict", "references", "note"}
_FIRST = ("model", "model_source", "model_revision", "explainer", "method", "parameters", "unit")


def validity(record: xr.DataTree) -> str:
    """The record's validity report.

    Args:
        record: A record with the group `/validity`.

    Returns:
        A verdict and a table with one row per kind of check: the worst error of all layers and its tolerance.
    """
    lines = read_checks(record)
    count, failed = sum(line.layers for line in lines), sum(line.failed for line in lines)
    verdict = (
        f'<p class="bad">{failed} of {count} checks failed: do not rely on this record.</p>'
        if failed
        else f'<p class="ok">All {count} checks passed.</p>'
    )
    rows = "".join(
        f"<tr><th scope=row>{html.escape(line.name)}</th><td>{html.escape(line.meaning)}</td>"
        f"<td class=n>{line.layer if line.layer >= 0 else ''}</td><td class=n>{line.worst:.2g}</td>"
        f"<td class=n>{line.tolerance:.2g}</td><td class=r>{_outcome(line)}</td></tr>"
        for line in lines
    )
    return (
        f"{verdict}<table class=checks><thead><tr><th scope=col>check</th><th scope=col>what is compared</th>"
        "<th scope=col class=n>worst layer</th><th scope=col class=n>its error</th>"
        "<th scope=col class=n>tolerance</th><th scope=col>result</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _outcome(line: CheckLine) -> str:
    if line.failed:
        return f"<b class=bad>failed in {line.failed} of {line.layers}</b>"
    return f"<b class=ok>passed ({line.layers})</b>"


def lists(result: xr.Dataset) -> str:
    """Further one-dimensional variables of a result, for instance its sink tokens, a table per dimension.

    Args:
        result: Any result.

    Returns:
        HTML tables with at most 20 rows each; nothing when there are none.
    """
    own = set(result[result.attrs["value"]].dims) if result.attrs.get("value") in result.variables else set()
    groups: dict[str, list[str]] = {}
    for name, variable in result.variables.items():
        if len(variable.dims) == 1 and variable.dims[0] not in own | {
            "step",
            "layer",
            "head",
            "token",
            "node",
            "object",
        }:
            groups.setdefault(str(variable.dims[0]), []).append(str(name))
    tables = []
    for dim, names in groups.items():
        size = result.sizes[dim]
        if not size:
            continue
        head = "".join(f"<th scope=col>{html.escape(name.replace('_', ' '))}</th>" for name in names)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(result[name].values[i])}</td>" for name in names) + "</tr>"
            for i in range(min(size, ROWS))
        )
        more = f"<p class=note>{size - ROWS} more rows in the result itself.</p>" if size > ROWS else ""
        tables.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}")
    return "".join(tables)


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, str):
        return html.escape(visible(value).replace(" ", "␣") if value != value.strip() else visible(value))
    return html.escape(str(value))


def provenance(result: xr.Dataset, record: xr.DataTree | None) -> str:
    """Where the numbers come from: model, revision, versions, parameters, references; nothing is left out.

    Args:
        result: Any result.
        record: The record it was read from, if any; its attributes are listed after the result's.

    Returns:
        A definition list, escaped.
    """
    attrs = {str(k): v for k, v in result.attrs.items() if k not in _SHOWN_ELSEWHERE}
    names = [name for name in _FIRST if name in attrs] + [name for name in attrs if name not in _FIRST]
    items = [(name, attrs[name]) for name in names]
    if record is not None:
        items += [(f"record: {k}", v) for k, v in record.attrs.items()]
    terms = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{_value(value)}</dd>" for name, value in items
    )
    references = result.attrs.get("references", [])
    cited = "".join(
        f"<li>{html.escape(str(r))}</li>"
        for r in ([references] if isinstance(references, str) else references)
    )
    return f"<dl>{terms}</dl>" + (f"<h3>References</h3><ul>{cited}</ul>" if cited else "")


def _value(value: Any) -> str:
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return html.escape(value)
    if isinstance(value, dict):
        return ", ".join(f"{html.escape(str(k))} {html.escape(str(v))}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple, np.ndarray)):
        return html.escape(", ".join(str(v) for v in value)) or "none"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return html.escape(str(value))
